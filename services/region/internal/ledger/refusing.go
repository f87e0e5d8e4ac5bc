package ledger

import (
	"strings"
	"sync"
	"time"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// refusingFor is how long a host is known for having refused a compose.
	refusingFor = 10 * time.Minute
	// maxRefusing bounds what is remembered of one host; more makes its score no
	// worse.
	maxRefusing = 16
)

// refusing remembers on which hosts composes failed of late, for policies with a
// weight for that. It is in memory only: a region that starts knows of none.
type refusing struct {
	mu sync.Mutex
	at map[string][]time.Time // by host id, oldest first
}

// note takes notice of a change of an operation: that a compose failed, but for
// one that somebody cancelled.
func (r *refusing) note(c store.Change, now time.Time) {
	op, ok := c.New.(*storev1.StoredOperation)
	if !ok || !failed(op) {
		return
	}
	if before, ok := c.Old().(*storev1.StoredOperation); ok && failed(before) {
		return // it is counted already
	}
	host := strings.TrimPrefix(op.GetResource().GetVmHost(), "vmHosts/")
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		r.at = map[string][]time.Time{}
	}
	r.forget(now)
	if list := r.at[host]; len(list) < maxRefusing {
		r.at[host] = append(list, now)
	} else {
		r.at[host] = append(list[1:], now)
	}
}

// failed says whether a compose has gone wrong.
func failed(op *storev1.StoredOperation) bool {
	r := op.GetResource()
	if r.GetVerb() != vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE || r.GetCancelRequested() || r.GetVmHost() == "" {
		return false
	}
	return r.GetPhase() == vmhostv1.OperationPhase_OPERATION_PHASE_COMPENSATING || r.GetPhase() == vmhostv1.OperationPhase_OPERATION_PHASE_FAILED
}

// forget drops what is too long ago. The caller holds mu.
func (r *refusing) forget(now time.Time) {
	for host, list := range r.at {
		for len(list) > 0 && now.Sub(list[0]) > refusingFor {
			list = list[1:]
		}
		if len(list) == 0 {
			delete(r.at, host)
		} else {
			r.at[host] = list
		}
	}
}

// counts are how often each host refused of late; nil when none did.
func (r *refusing) counts(now time.Time) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now)
	if len(r.at) == 0 {
		return nil
	}
	out := make(map[string]int, len(r.at))
	for host, list := range r.at {
		out[host] = len(list)
	}
	return out
}

// judgeBy gives a request what the policy's weights need to know of hosts.
func (l *Ledger) judgeBy(req *placement.Request, p *policy.Policy) {
	req.Refusing = nil
	if p.Weights.GetAvoidRefusing() > 0 {
		req.Refusing = l.refusing.counts(time.Now())
	}
}
