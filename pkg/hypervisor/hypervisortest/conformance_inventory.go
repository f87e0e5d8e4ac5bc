package hypervisortest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func (s *suite) inventory(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	f := s.foreignMachine(t)
	s.h.AddForeign(t, f)
	// What moves by itself on a machine that others use as well.
	moves := []cmp.Option{
		protocmp.Transform(),
		protocmp.IgnoreFields(&vmhostv1.VmHostObservation{}, "observe_time", "memory_mib"),
		protocmp.IgnoreFields(&vmhostv1.StoragePool{}, "allocation_bytes", "available_bytes"),
		protocmp.IgnoreFields(&vmhostv1.HugePages{}, "free", "total"),
		protocmp.IgnoreFields(&vmhostv1.NumaNode{}, "memory_mib"),
	}
	diff := ""
	for range 3 { // somebody else may be at work on the host
		o, machines, err := d.Inventory(s.ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if find(machines, c.GetMachine().GetUid()).GetUid() == "" || find(machines, f.UUID) == nil || o.GetObserveTime() == nil {
			t.Fatalf("the inventory misses a machine or its time: %v of %v", machines, o.GetObserveTime())
		}
		alone, err := d.Probe(s.ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		list, err := d.Machines(s.ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if diff = cmp.Diff(alone, o, moves...) + cmp.Diff(list, machines, protocmp.Transform()); diff == "" {
			return
		}
	}
	t.Errorf("inventory (-probe and machines +inventory):\n%s", diff)
}

func (s *suite) broken(t *testing.T) {
	s.needs(t, s.h.AddBroken != nil, "way to add a machine that cannot be read")
	d := s.open(t)
	good := s.machine(t, 1)
	s.mustCreate(t, d, good)
	before, err := d.Machines(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	bad := s.foreignMachine(t)
	s.h.AddBroken(t, bad)
	o, list, err := d.Inventory(s.ctx(t))
	if err != nil || o == nil {
		t.Fatalf("one machine hides the host: %v", err)
	}
	if m := find(list, bad.UUID); m.GetProblem() == "" {
		t.Errorf("the machine that cannot be read is listed as %v, want a problem", m)
	}
	if m := find(list, good.GetMachine().GetUid()); m.GetProblem() != "" || m.GetCores() != good.GetMachine().GetCores() {
		t.Errorf("the other machine is listed as %v", m)
	}
	if len(list) < len(before) {
		t.Errorf("%d machines are listed, %d were before", len(list), len(before))
	}
	if m, err := d.Machine(s.ctx(t), bad.UUID); err != nil || m.GetProblem() == "" {
		t.Errorf("read alone it is %v, error %v; want a problem", m, err)
	}
}
