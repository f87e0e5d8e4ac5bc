package inventory

import (
	"testing"

	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const terabyte = 1_000_000_000_000

func folder(others, ours int64) *vmhostv1.StoragePool {
	return &vmhostv1.StoragePool{
		Name: "default", Type: "dir", Active: true, CapacityBytes: terabyte,
		AllocationBytes: others + ours, OursBytes: ours, AvailableBytes: terabyte - others - ours,
	}
}

// space is a delta that says how full the host's pool is.
func (w *world) space(p *vmhostv1.StoragePool) {
	w.t.Helper()
	o := observation()
	o.StoragePools, o.CpuModel, o.CpuMhz = []*vmhostv1.StoragePool{p}, "model", 3000
	w.must(w.inv.Report(w.t.Context(), "r1", w.session.Add(&rackv1.HostInventory{
		VmHost: "vmHosts/h", Epoch: w.epoch, Sequence: 2, Last: true, Delta: true, Observation: o,
	})))
}

func (w *world) pool() *vmhostv1.StoragePool {
	return w.observed().GetObservation().GetStoragePools()[0]
}

func othersIn(p *vmhostv1.StoragePool) int64 { return p.GetAllocationBytes() - p.GetOursBytes() }

// A folder in which others write makes no write while they write little.
func TestABusyDiskIsNotRecordedAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch)
	w.space(folder(400_000_000_123, 7_000_000))
	if p := w.pool(); othersIn(p) != 400_000_000_123 || p.GetOursBytes() != 7_000_000 || p.GetAvailableBytes() != terabyte-400_007_000_123 {
		t.Errorf("what is seen first is recorded as %v, want it as it is", p)
	}
	w.space(folder(400_010_000_000, 7_000_000)) // the first that moves; from now on it is rounded
	if got := othersIn(w.pool()); got < 400_010_000_000 || got > 400_010_000_000+terabyte/4096 {
		t.Errorf("others have 400010000000 bytes and are recorded with %d", got)
	}
	before := w.store.Cached().Revision
	for _, noise := range []int64{20, 5, 40, 0, 60, 33} {
		w.space(folder(400_010_000_000+noise*1_000_000-50_000_000, 7_000_000+noise*1000))
	}
	if now := w.store.Cached().Revision; now != before {
		t.Errorf("noise below a step made %d writes", now-before)
	}
	// Growth is recorded, and at once when it is much.
	w.space(folder(450_000_000_000, 7_000_000))
	if got := othersIn(w.pool()); got != 450_000_000_000 {
		t.Errorf("others have 450000000000 bytes and are recorded with %d", got)
	}
	w.space(folder(450_000_000_001, 7_000_000))
	if got := othersIn(w.pool()); got < 450_000_000_001 {
		t.Errorf("others have a byte more, and are recorded with %d", got)
	}
	w.space(folder(100_000_000_000, 7_000_000))
	if got := othersIn(w.pool()); got != 100_000_000_000 {
		t.Errorf("others have freed much, and are recorded with %d", got)
	}
	w.space(folder(100_000_000_000, 50_000_000_000))
	if got := w.pool().GetOursBytes(); got != 50_000_000_000 {
		t.Errorf("volumes of ours grew much, and are recorded with %d", got)
	}
}

// Noise across the border of a step does not flap.
func TestABusyDiskDoesNotFlapBetweenTwoSteps(t *testing.T) {
	w := newWorld(t)
	w.report(w.epoch)
	border := step(terabyte) * 1000
	w.space(folder(border, 0))
	w.space(folder(border+1, 0))
	before := w.store.Cached().Revision
	for range 20 {
		w.space(folder(border-1_000_000, 0))
		w.space(folder(border+1_000_000, 0))
	}
	if now := w.store.Cached().Revision; now != before {
		t.Errorf("noise around a border made %d writes", now-before)
	}
}

// Whatever happens to a pool: what is recorded of others is never less than the
// truth, nor is there more capacity than there is, and neither is far off (P1).
func TestWhatIsRecordedOfAPoolIsNeverTooLittle_P1(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Int64Range(1, 1<<50).Draw(t, "capacity")
		var recorded *vmhostv1.VmHostObservation
		others, ours := int64(0), int64(0)
		for range rapid.IntRange(1, 50).Draw(t, "looks") {
			s := step(capacity)
			move := func(n, top int64, what string) int64 {
				if rapid.Bool().Draw(t, what+" moves far") {
					return rapid.Int64Range(0, max(top, 0)).Draw(t, what)
				}
				return min(max(n+rapid.Int64Range(-2*s, 2*s).Draw(t, what), 0), max(top, 0))
			}
			capacity = max(capacity+rapid.Int64Range(-s, s).Draw(t, "capacity moves"), 1)
			ours = move(ours, capacity, "ours")
			others = move(others, capacity-ours, "others")
			next := &vmhostv1.VmHostObservation{StoragePools: []*vmhostv1.StoragePool{{
				Name: "p", CapacityBytes: capacity, AllocationBytes: others + ours, OursBytes: ours, AvailableBytes: capacity - others - ours,
			}}}
			calm(recorded, next)
			p := next.GetStoragePools()[0]
			most := 4 * max(step(capacity), step(capacity+2*s)) // the step may change with the capacity
			if got := othersIn(p); got < others || got > others+most {
				t.Fatalf("others have %d, recorded are %d; a step is %d", others, got, s)
			}
			if got := p.GetCapacityBytes(); got > capacity || got < capacity-most {
				t.Fatalf("the capacity is %d, recorded is %d", capacity, got)
			}
			if got := p.GetAvailableBytes(); got > capacity-others-ours || got < capacity-others-ours-most {
				t.Fatalf("available are %d, recorded are %d", capacity-others-ours, got)
			}
			if got := p.GetOursBytes(); got < 0 || got < ours-most || got > ours+most {
				t.Fatalf("ours have %d, recorded are %d", ours, got)
			}
			recorded = next
		}
	})
}

// A processor reports another frequency at each look.
func TestAProcessorThatChangesItsFrequencyMakesNoWrites(t *testing.T) {
	seen := func(model string, mhz int32) *vmhostv1.VmHostObservation {
		return &vmhostv1.VmHostObservation{CpuModel: model, CpuMhz: mhz}
	}
	for _, test := range []struct {
		name     string
		old, now *vmhostv1.VmHostObservation
		want     int32
	}{
		{"first", nil, seen("a", 800), 800},
		{"slower", seen("a", 3000), seen("a", 800), 3000},
		{"a little faster", seen("a", 3000), seen("a", 3299), 3000},
		{"much faster", seen("a", 800), seen("a", 3000), 3000},
		{"another", seen("a", 3000), seen("b", 800), 800},
		{"not known", seen("a", 3000), seen("a", 0), 0},
	} {
		if calm(test.old, test.now); test.now.GetCpuMhz() != test.want {
			t.Errorf("%s: %d MHz, want %d", test.name, test.now.GetCpuMhz(), test.want)
		}
	}
}
