package placementbench

import (
	"fmt"
	"testing"

	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

func TestEverythingThatIsMeasuredIsAnswered(t *testing.T) {
	f := New(500)
	for name, do := range map[string]func() error{
		"decide": f.Decide, "refuse": f.Refuse, "explain": f.Explain, "capacity": f.Capacity, "take": f.Take, "batch": f.Batch, "scan": f.Scan,
		"drain": func() error { return f.Drain(100) },
	} {
		for range requests {
			if err := do(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func bench(b *testing.B, do func() error) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if err := do(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecide is one decision over so many hosts with all filters on.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1000, 10000, 50000} {
		f := New(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) { bench(b, f.Decide) })
	}
}

// BenchmarkScan is the floor of BenchmarkDecide.
func BenchmarkScan(b *testing.B) { bench(b, New(10000).Scan) }

func BenchmarkRefuse10000(b *testing.B) { bench(b, New(10000).Refuse) }

func BenchmarkTake10000(b *testing.B) { bench(b, New(10000).Take) }

func BenchmarkBatch10000(b *testing.B) { bench(b, New(10000).Batch) }

func BenchmarkExplain5000(b *testing.B) { bench(b, New(5000).Explain) }

func BenchmarkCapacity5000(b *testing.B) { bench(b, New(5000).Capacity) }

func BenchmarkDrainPlan500(b *testing.B) {
	f := New(1000)
	bench(b, func() error { return f.Drain(500) })
}

func TestLeavingOutBlocksNeverMissesTheBestHost(t *testing.T) {
	for _, hosts := range []int{700, 3000} { // one stack, and three
		f := New(hosts)
		d := f.fleet.Draft()
		for range 20 * requests {
			req := *f.turn()
			req.Cores = int32(1 + f.next%13)
			req.MemoryMiB = int64(512 * (1 + f.next%17))
			req.Affinity = req.Affinity[:f.next%3]
			req.Seed = uint64(f.next % 2)
			best := d.Explain(&req, 0, 1).Candidates[0] // of all hosts, one by one
			plan := d.Choose(&req)
			if plan.Host != best.Host {
				t.Fatalf("chose %s at %v, but %s has %v", plan.Host.ID, plan.Scores.Total, best.Host.ID, best.Scores.Total)
			}
			d.Take(plan.Host.ID, plan.Commitment(&req), placement.GroupKey("default", "db"))
		}
	}
}
