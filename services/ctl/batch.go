package ctl

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// batch is one verb on many machines, with a result each.
type batch struct {
	word    string
	results []*vmhostv1.BatchResult
	titles  map[string]string // what people call the machines, by resource name
}

func titles(found []*vmhostv1.Machine) map[string]string {
	out := make(map[string]string, len(found))
	for _, m := range found {
		out[m.GetName()] = machineTitle(m)
	}
	return out
}

func (b *batch) title(name string) string { return first(b.titles[name], display.ID(name)) }

// columns show what became of each. The operations are there for those who want
// them, or still have to.
func (b *batch) columns() []display.Column[*vmhostv1.BatchResult] {
	type result = *vmhostv1.BatchResult
	over := true
	for _, r := range b.results {
		over = over && (r.GetOperation().GetName() == "" || ended(r.GetOperation()))
	}
	return []display.Column[result]{
		{Head: "MACHINE", Cell: func(r result) string { return b.title(r.GetName()) }},
		{Head: "RESULT", State: true, Cell: resultState},
		{Head: "OPERATION", Wide: over, Cell: func(r result) string { return display.ID(r.GetOperation().GetName()) }},
		{Head: "WHY", Text: true, Cell: func(r result) string { return resultError(r).GetMessage() }},
		{Head: "TO DO", Text: true, Cell: func(r result) string { return resultError(r).GetHint() }},
	}
}

func resultState(r *vmhostv1.BatchResult) string {
	switch op := r.GetOperation(); {
	case r.GetError() != nil || op == nil:
		return "REFUSED"
	case op.GetName() == "": // of a dry run
		return "OK"
	default:
		return phaseWord(op)
	}
}

func resultError(r *vmhostv1.BatchResult) *vmhostv1.OperationError {
	if r.GetError() != nil {
		return r.GetError()
	}
	return r.GetOperation().GetError()
}

// verdict is an error when some of many did not end well.
func (b *batch) verdict() error {
	failed := 0
	for _, r := range b.results {
		switch resultState(r) {
		case "REFUSED", "FAILED", "CANCELLED":
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "it went wrong with %d of %s", failed, count(len(b.results), "machine")).
		WithHint("see above what is wrong with each; the others are not affected")
	return &failure{what: "cannot " + b.word + " all machines", err: e, code: exitFailed}
}

// awaitAll waits until every operation has ended, for all of them together as
// long as limit says. However it ends, the results are as they were seen last.
func (a *app) awaitAll(ctx context.Context, api *region, b *batch, limit time.Duration) error {
	began := a.now()
	for i, r := range b.results {
		if r.GetOperation() == nil {
			continue
		}
		left := time.Duration(0)
		if limit > 0 {
			left = max(limit-a.now().Sub(began), time.Nanosecond) // 0 would be for ever
		}
		done, err := a.await(ctx, r.GetOperation(), b.word+" machine "+b.title(r.GetName()), left)
		if done == nil {
			look(ctx, api, b.results[i:])
			return err
		}
		r.Operation = done // whether it ended well is in it
	}
	return nil
}

// look sees once how far operations are, where that can be seen.
func look(ctx context.Context, api *region, results []*vmhostv1.BatchResult) {
	for _, r := range results {
		if r.GetOperation() == nil {
			continue
		}
		now, err := call(ctx, api.operations.GetOperation, &vmhostv1.GetOperationRequest{Name: r.GetOperation().GetName()})
		if err != nil {
			return
		}
		r.Operation = now
	}
}
