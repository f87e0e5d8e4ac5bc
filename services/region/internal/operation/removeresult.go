package operation

import (
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// maxResultBytes bounds what a removal says of machines: etcd takes 1.5 MiB.
	maxResultBytes = 512 << 10
	// maxResultText bounds the words on one of them; the whole is in its operation.
	maxResultText = 512
	// maxNamed is how many machines an error names.
	maxNamed = 20
)

// removeResult is what became of every machine that the removal began with, those
// that failed first, as many as fit.
func (c *change) removeResult() *vmhostv1.RemoveVmHostResult {
	out := &vmhostv1.RemoveVmHostResult{}
	var good []*vmhostv1.BatchResult
	size := 0
	fits := func(r *vmhostv1.BatchResult) bool {
		size += proto.Size(r) + 4
		return size <= maxResultBytes
	}
	for _, op := range store.Operations.All(c.view) {
		if op.Value.GetParent() != c.op.GetResource().GetName() {
			continue
		}
		r := resultOf(op.Value)
		if r.GetError() == nil {
			out.Succeeded++
			good = append(good, r)
			continue
		}
		out.Failed++
		if fits(r) {
			out.Results = append(out.Results, r)
		}
	}
	for _, r := range good {
		if fits(r) {
			out.Results = append(out.Results, r)
		}
	}
	return out
}

func resultOf(op *storev1.StoredOperation) *vmhostv1.BatchResult {
	r := op.GetResource()
	out := &vmhostv1.BatchResult{
		Name:      r.GetTarget(),
		Operation: &vmhostv1.Operation{Name: r.GetName(), Verb: r.GetVerb(), Phase: r.GetPhase()},
	}
	if e := r.GetError(); e != nil {
		out.Error = &vmhostv1.OperationError{Code: e.GetCode(), Reason: e.GetReason(), Message: shorten(e.GetMessage()), Hint: shorten(e.GetHint())}
	}
	return out
}

func shorten(s string) string {
	if len(s) <= maxResultText {
		return s
	}
	return strings.ToValidUTF8(s[:maxResultText], "") + " … (cut)"
}
