package placement

import (
	"strings"
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Every filter has advice of its own, and none that cannot help.
func TestEveryRefusalSaysWhatToDo_P9(t *testing.T) {
	h := &Host{ID: "h", State: vmhostv1.VmHostState_VM_HOST_STATE_READY}
	for _, f := range append(early[:], FilterCores, FilterMemory, FilterHugepages, FilterPinnedCores, FilterNUMA, FilterStorage) {
		r := Refusal{Host: h, Filter: f, Requested: 4, Resource: NewResource(8, 0, 1, 8, 0), req: &Request{}}
		p := Plan{Refusals: []Refusal{r}, Considered: 1}
		hint := p.Advice()
		if hint == "" {
			t.Errorf("%s: no advice", f)
		}
		room := f == FilterCores || f == FilterMemory || f == FilterStorage
		if strings.Contains(hint, "overcommit ratio") != room {
			t.Errorf("%s: %q", f, hint)
		}
	}
	none := Plan{Refusals: []Refusal{{Host: h, Filter: FilterCordon, req: &Request{}}}, Considered: 1}
	if got := none.Proto().GetHint(); !strings.Contains(got, "uncordon") {
		t.Errorf("the answer has %q", got)
	}
	if got := (&Plan{Host: h}).Proto().GetHint(); got != "" {
		t.Errorf("a plan that has a host says %q", got)
	}
	larger := Refusal{Host: h, Filter: FilterCores, Requested: 9, Resource: NewResource(8, 0, 1, 0, 0), req: &Request{}}
	if hint := larger.advice(); !strings.Contains(hint, "larger host") || strings.Contains(hint, "raise") {
		t.Errorf("larger than any host: %q", hint)
	}
	barred := *h
	barred.State, barred.Barred = vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED, "it is the same hypervisor"
	r := Refusal{Host: &barred, Filter: FilterState, req: &Request{}}
	if m := r.Message(); !strings.Contains(m, "it is the same hypervisor") || strings.Contains(m, "reach") || r.Reason() != vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		t.Errorf("barred: %q, %v", m, r.Reason())
	}
	if hint := (&Plan{}).Advice(); hint != "add a host" {
		t.Errorf("no host at all: %q", hint)
	}
}
