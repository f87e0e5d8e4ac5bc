package hypervisortest

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

func (s *suite) deleteAll(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 2)
	s.mustCreate(t, d, c)
	if !s.h.NoPower {
		if _, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: c.GetMachine().GetUid()}, rackv1.PowerAction_POWER_ACTION_START, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second finds nothing and is good as well
		if err := d.Delete(s.ctx(t), c.GetMachine()); err != nil {
			t.Fatalf("delete: %v", err)
		}
		s.gone(t, d, c.GetMachine())
	}
	list, err := d.Machines(s.ctx(t))
	if err != nil || find(list, c.GetMachine().GetUid()) != nil {
		t.Errorf("list has the machine after delete, or failed: %v", err)
	}
}

func (s *suite) deleteListedOnly(t *testing.T) {
	d := s.open(t)
	c := s.machine(t, 1)
	s.mustCreate(t, d, c)
	keep := "keep-" + uuid.NewString()
	s.h.AddVolume(t, s.h.StoragePool, keep, s.h.DiskBytes)
	if err := d.Delete(s.ctx(t), c.GetMachine()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.h.Volumes(t, s.h.StoragePool), keep) {
		t.Error("a volume that is not the machine's is gone")
	}
}

func (s *suite) deleteLeftovers(t *testing.T) {
	d := s.open(t)
	m := s.machine(t, 2).GetMachine()
	s.h.AddVolume(t, m.GetDisks()[1].GetStoragePool(), m.GetDisks()[1].GetVolume(), s.h.DiskBytes)
	if err := d.Delete(s.ctx(t), m); err != nil {
		t.Fatal(err)
	}
	s.gone(t, d, m)
}

func (s *suite) deleteForeign(t *testing.T) {
	d := s.open(t)
	m := s.machine(t, 0).GetMachine()
	f := s.foreignMachine(t)
	f.UUID = m.GetUid()
	s.h.AddForeign(t, f)
	before := s.h.ForeignState(t, f.UUID)
	classed(t, d.Delete(s.ctx(t), m), hypervisor.ErrForeign)
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("the foreign machine changed (-before +after):\n%s", diff)
	}
}

func (s *suite) foreign(t *testing.T) {
	d := s.open(t)
	before, err := d.Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	f := s.foreignMachine(t)
	s.h.AddForeign(t, f)
	state := s.h.ForeignState(t, f.UUID)
	after, err := d.Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.GetForeign(), after.GetForeign()
	if is.GetMachines() != was.GetMachines()+1 || is.GetCores() != was.GetCores()+f.Cores || is.GetMemoryMib() != was.GetMemoryMib()+f.MemoryMiB {
		t.Errorf("foreign use went from %v to %v by a machine of %d cores and %d MiB", was, is, f.Cores, f.MemoryMiB)
	}
	list, err := d.Machines(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	m := find(list, f.UUID)
	if m.GetName() != f.Name || m.GetUid() != "" || m.GetOperation() != "" || m.GetCores() != f.Cores || m.GetMemoryMib() != f.MemoryMiB {
		t.Errorf("listed as %v, want %v without uid", m, f)
	}
	if diff := cmp.Diff(state, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("looking at it changed it (-before +after):\n%s", diff)
	}
}
