package hypervisortest

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// adopting opens a driver that can adopt, and adds a foreign machine and the ref
// that it is to be adopted by. Its uid is not the hypervisor's uuid.
func (s *suite) adopting(t *testing.T) (hypervisor.Driver, hypervisor.Adopter, hypervisor.Ref, Foreign) {
	t.Helper()
	d := s.open(t)
	a, ok := d.(hypervisor.Adopter)
	s.needs(t, ok, "driver that can adopt")
	f := s.foreignMachine(t)
	s.h.AddForeign(t, f)
	return d, a, hypervisor.Ref{UID: uuid.NewString(), UUID: f.UUID, Name: f.Name}, f
}

func (s *suite) mustAdopt(t *testing.T, a hypervisor.Adopter, ref hypervisor.Ref) *rackv1.MachineObservation {
	t.Helper()
	out, err := a.Adopt(s.ctx(t), ref, "operations/"+uuid.NewString())
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	return out
}

func (s *suite) adopt(t *testing.T) {
	d, a, ref, f := s.adopting(t)
	before, was, volumes := s.h.ForeignState(t, f.UUID), s.usage(t, d), s.oursBytes(t, d)
	seen, err := d.Machine(s.ctx(t), f.UUID)
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.Adopt(s.ctx(t), ref, "operations/first")
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.Adopt(s.ctx(t), ref, "operations/second")
	if err != nil {
		t.Fatalf("adopt again: %v", err)
	}
	if first.GetUid() != ref.UID || first.GetUuid() != f.UUID || first.GetOperation() != "operations/first" {
		t.Errorf("adopted as uid %q, uuid %q, operation %q", first.GetUid(), first.GetUuid(), first.GetOperation())
	}
	ours := protocmp.IgnoreFields(&rackv1.MachineObservation{}, "uid", "operation")
	if diff := cmp.Diff(seen, first, protocmp.Transform(), ours); diff != "" {
		t.Errorf("adopting changed more than whose it is (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("adopt again (-first +second):\n%s", diff)
	}
	list, err := d.Machines(s.ctx(t))
	if err != nil || find(list, f.UUID).GetUid() != ref.UID {
		t.Errorf("listed with uid %q, error %v; want %q", find(list, f.UUID).GetUid(), err, ref.UID)
	}
	if now := s.usage(t, d); now.GetMachines() != was.GetMachines()-1 || now.GetCores() != was.GetCores()-f.Cores || now.GetMemoryMib() != was.GetMemoryMib()-f.MemoryMiB {
		t.Errorf("foreign use went from %v to %v by the adoption of %d cores and %d MiB", was, now, f.Cores, f.MemoryMiB)
	}
	// Its volumes are not committed, so they stay among what others have.
	if diff := cmp.Diff(volumes, s.oursBytes(t, d)); diff != "" {
		t.Errorf("adopting changed what volumes of ours hold (-before +after):\n%s", diff)
	}
	for range 2 { // without metadata is released already
		out, err := a.Release(s.ctx(t), ref)
		if err != nil || out.GetUid() != "" || out.GetOperation() != "" || out.GetUuid() != f.UUID {
			t.Fatalf("release: %v, error %v", out, err)
		}
	}
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("adopted and released is not what it was (-before +after):\n%s", diff)
	}
	if now := s.usage(t, d); now.GetMachines() != was.GetMachines() {
		t.Errorf("%d foreign machines after the release, want %d", now.GetMachines(), was.GetMachines())
	}
}

// oursBytes is what volumes of machines that vmhost made have allocated, by pool.
func (s *suite) oursBytes(t *testing.T, d hypervisor.Driver) map[string]int64 {
	t.Helper()
	o, err := d.Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, p := range o.GetStoragePools() {
		out[p.GetName()] = p.GetOursBytes()
	}
	return out
}

// usage is what foreign machines use.
func (s *suite) usage(t *testing.T, d hypervisor.Driver) *vmhostv1.ForeignUsage {
	t.Helper()
	o, err := d.Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return o.GetForeign()
}

func (s *suite) adoptForeign(t *testing.T) {
	_, a, ref, f := s.adopting(t)
	other := hypervisor.Ref{UID: uuid.NewString(), UUID: f.UUID, Name: f.Name}
	s.mustAdopt(t, a, other)
	before := s.h.ForeignState(t, f.UUID)
	_, err := a.Adopt(s.ctx(t), ref, "operations/1")
	classed(t, err, hypervisor.ErrForeign)
	_, err = a.Release(s.ctx(t), ref)
	classed(t, err, hypervisor.ErrForeign)
	if diff := cmp.Diff(before, s.h.ForeignState(t, f.UUID)); diff != "" {
		t.Errorf("another's machine changed (-before +after):\n%s", diff)
	}
}

func (s *suite) adoptedPower(t *testing.T) {
	s.needs(t, !s.h.NoPower, "power")
	d, a, ref, f := s.adopting(t)
	s.mustAdopt(t, a, ref)
	for _, step := range []struct {
		action rackv1.PowerAction
		want   vmhostv1.PowerState
	}{{start, on}, {stop, off}} {
		// By another uid it is not ours, whatever its uuid.
		_, err := d.SetPower(s.ctx(t), hypervisor.Ref{UID: f.UUID}, step.action, 0)
		classed(t, err, hypervisor.ErrForeign)
		got, err := d.SetPower(s.ctx(t), ref, step.action, 0)
		if err != nil || got.GetPowerState() != step.want || got.GetUid() != ref.UID {
			t.Fatalf("%v: %v, error %v", step.action, got, err)
		}
	}
	if out, err := a.Release(s.ctx(t), ref); err != nil || out.GetUid() != "" {
		t.Fatalf("release: %v, error %v", out, err)
	}
	_, err := d.SetPower(s.ctx(t), ref, start, 0)
	classed(t, err, hypervisor.ErrForeign)
}

func (s *suite) adoptedDelete(t *testing.T) {
	d, a, ref, f := s.adopting(t)
	keep := "keep-" + uuid.NewString()
	s.h.AddVolume(t, s.h.StoragePool, keep, s.h.DiskBytes)
	record := &vmhostv1.Machine{Uid: ref.UID, HypervisorUuid: f.UUID, HypervisorName: f.Name}
	classed(t, d.Delete(s.ctx(t), record), hypervisor.ErrForeign)
	s.mustAdopt(t, a, ref)
	for range 2 {
		if err := d.Delete(s.ctx(t), record); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	_, err := d.Machine(s.ctx(t), f.UUID)
	classed(t, err, hypervisor.ErrNotFound)
	if !slices.Contains(s.h.Volumes(t, s.h.StoragePool), keep) {
		t.Error("a volume that is not in the record is gone")
	}
}

func (s *suite) adoptMissing(t *testing.T) {
	d := s.open(t)
	a, ok := d.(hypervisor.Adopter)
	s.needs(t, ok, "driver that can adopt")
	ref := hypervisor.Ref{UID: uuid.NewString(), UUID: uuid.NewString(), Name: "nobody"}
	_, err := a.Adopt(s.ctx(t), ref, "operations/1")
	classed(t, err, hypervisor.ErrNotFound)
	if _, err := a.Release(s.ctx(t), ref); err != nil {
		t.Errorf("release of what is not there: %v", err)
	}
}
