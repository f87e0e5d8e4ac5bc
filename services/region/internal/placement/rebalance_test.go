package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// dullImbalance is the specification of the imbalance.
func dullImbalance(hosts []*Host, what *Rebalancing) (float64, int) {
	var loads []float64
	over, sum := 0.0, 0.0
	share := func(r Resource) float64 {
		used := float64(r.Committed + r.Foreign)
		over += math.Max(used-float64(r.Limit), 0) / math.Max(math.Max(float64(r.Limit), float64(r.Physical-r.Reserved)), 1)
		if r.Limit == 0 {
			return used / math.Max(float64(r.Physical-r.Reserved), 1)
		}
		return used / float64(r.Limit)
	}
	for _, h := range hosts {
		if h.Cordoned || h.State != 2 || (what.Zone != "" && h.Zone != what.Zone) || (what.ResourcePool != "" && h.ResourcePool != what.ResourcePool) {
			continue
		}
		loads = append(loads, math.Max(share(h.Cores), share(h.MemoryMiB)))
		sum += loads[len(loads)-1]
		for _, p := range h.Pools {
			share(p.Resource)
		}
	}
	if len(loads) == 0 {
		return 0, 0
	}
	variance := 0.0
	for _, l := range loads {
		variance += (l - sum/float64(len(loads))) * (l - sum/float64(len(loads)))
	}
	return math.Sqrt(variance/float64(len(loads))) + over, len(loads)
}

// drawBusy is a fleet with machines on it, which hold what they hold.
func drawBusy(t *rapid.T, hosts []*Host) (*Fleet, []Machine) {
	machines := drawMachines(t, hosts)
	d := NewFleet(hosts).Draft()
	for i := range machines {
		m := &machines[i]
		if rapid.IntRange(0, 3).Draw(t, "rules") == 0 {
			m.Request.Affinity = []Rule{{Group: "web", Soft: rapid.Bool().Draw(t, "soft"), Near: rapid.Bool().Draw(t, "near"), Zone: rapid.Bool().Draw(t, "by zone")}}
		}
		if h := d.Host(m.Host); h != nil && len(m.Request.Disks) > 0 && len(h.Pools) > 0 {
			m.Held.StorageBytes = map[string]int64{h.Pools[0].Name: m.Request.Disks[0].SizeBytes}
		}
		d.Take(m.Host, m.Held, "")
	}
	return d.Fleet(), machines
}

func on(machines []Machine) func(string) []Machine {
	return func(host string) (out []Machine) {
		for _, m := range machines {
			if m.Host == host {
				out = append(out, m)
			}
		}
		return out
	}
}

func TestEachMoveOfARebalanceIsPossibleInItsTurnAndGainsWhatItSays_P1(t *testing.T) {
	moves, gained, none := 0, 0.0, 0
	rapid.Check(t, func(t *rapid.T) {
		f, machines := drawBusy(t, drawFleet(t, 80))
		what := Rebalancing{
			MaxMoves: rapid.IntRange(1, 12).Draw(t, "moves"), MinGain: rapid.SampledFrom([]float64{0, 1e-6, 0.01, 0.2}).Draw(t, "gain"),
			Zone: rapid.SampledFrom([]string{"", "", "a", "none"}).Draw(t, "zone"), ResourcePool: rapid.SampledFrom([]string{"", "a", "none"}).Draw(t, "pool"),
			MachinesOn: on(machines),
		}
		out := f.Rebalance(what)
		before, counted := dullImbalance(slices.Collect(f.Hosts()), &what)
		if math.Abs(before-out.Before) > leastGain*max(1, before) || out.Considered != counted || len(out.Moves) > what.MaxMoves {
			t.Fatalf("imbalance %v of %d hosts, want %v of %d; %d moves", out.Before, out.Considered, before, counted, len(out.Moves))
		}
		least, d, moved := what.MinGain, f.Draft(), map[string]bool{}
		if least == 0 {
			least = 0.01 / float64(counted)
		}
		for _, g := range out.Moves {
			m, req := g.Machine, g.Machine.Request
			req.From = m.Host
			from, to, all := d.Host(m.Host), d.Host(g.Plan.Host.ID), slices.Collect(d.Fleet().Hosts())
			others := withoutIt(all, &req)
			switch {
			case moved[m.Name] || g.From != m.Host:
				t.Fatalf("%s moves twice, or from %s instead of %s", m.Name, g.From, m.Host)
			case !fitsSomehow(to, req) || !suits(others, to, &req):
				t.Fatalf("%s does not fit %s when it is its turn", m.Name, to.ID)
			case what.Zone != "" && (from.Zone != what.Zone || to.Zone != what.Zone):
				t.Fatalf("%s moves out of or into the zone", m.Name)
			case from.KVM && !to.KVM && req.Type != container:
				t.Fatalf("%s moves to emulation", m.Name)
			}
			for i, r := range req.Affinity {
				was, is := keptIn(others, from, &req, i), keptIn(others, to, &req, i)
				if r.Soft && was && !is {
					t.Fatalf("%s moves to where %+v is not kept", m.Name, r)
				}
			}
			moved[m.Name] = true
			d.Take(to.ID, g.Plan.Commitment(&req), req.groupKey())
			d.Give(from.ID, m.Held)
			after, _ := dullImbalance(slices.Collect(d.Fleet().Hosts()), &what)
			if math.Abs(before-after-g.Gain) > leastGain*max(1, before) || g.Gain < least {
				t.Fatalf("%s gains %v, said to be %v; at least %v is wanted", m.Name, before-after, g.Gain, least)
			}
			if g.Left != d.Host(from.ID).load() || g.Then != d.Host(to.ID).load() || !strings.Contains(g.Why(), to.ID) {
				t.Fatalf("%s: %+v", m.Name, g)
			}
			before, gained, moves = after, gained+g.Gain, moves+1
		}
		if math.Abs(before-out.After) > leastGain*max(1, before) {
			t.Fatalf("imbalance %v afterwards, said to be %v", before, out.After)
		}
		// Who takes nothing new is over already: of the others none is.
		if id := past(f, d.Fleet()); id != "" {
			t.Fatalf("%s is past its limit", id)
		}
		if len(out.Moves) == 0 {
			none++
		}
	})
	t.Logf("%d moves gained %.3f; none %d times", moves, gained, none)
}

// keptIn says whether a rule is kept on a host, of hosts without the machine.
func keptIn(hosts []*Host, h *Host, r *Request, i int) bool {
	bare := *r
	bare.From = ""
	return NewFleet(hosts).nearness(&bare).keeps(hosts[slices.IndexFunc(hosts, func(o *Host) bool { return o.ID == h.ID })], r, i)
}

// even is a fleet of hosts that are alike, with machines of so many cores on them.
func even(loads ...[]int32) (*Fleet, []Machine) {
	var hosts []*Host
	var machines []Machine
	for i, cores := range loads {
		h := &Host{
			ID: fmt.Sprintf("h%02d", i), State: 2, ResourcePool: "a", Zone: "a", Architectures: []string{"x86_64"},
			Cores: NewResource(20, 0, 1, 0, 0), MemoryMiB: NewResource(1000, 0, 1, 0, 0),
		}
		for _, c := range cores {
			held := &storev1.Commitment{Cores: c, MemoryMib: 1}
			h = h.Take(held)
			machines = append(machines, Machine{
				Name: fmt.Sprintf("machines/%03d", len(machines)), Host: h.ID, Held: held, Request: Request{Cores: c, MemoryMiB: 1, ResourcePool: "a"},
			})
		}
		hosts = append(hosts, h)
	}
	return NewFleet(hosts), machines
}

func TestARebalanceLeavesNoMoveThatIsWorthIt(t *testing.T) {
	moves := 0
	rapid.Check(t, func(t *rapid.T) {
		var loads [][]int32
		for range rapid.IntRange(0, 8).Draw(t, "hosts") {
			loads = append(loads, rapid.SliceOfN(rapid.Int32Range(1, 5), 0, 4).Draw(t, "cores"))
		}
		f, machines := even(loads...)
		what := Rebalancing{MaxMoves: 100, MinGain: rapid.SampledFrom([]float64{1e-6, 0.01, 0.05}).Draw(t, "gain"), MachinesOn: on(machines)}
		out := f.Rebalance(what)
		d, moved := f.Draft(), map[string]bool{}
		for _, g := range out.Moves {
			moved[g.Machine.Name] = true
			d.Take(g.Plan.Host.ID, g.Machine.Held, "")
			d.Give(g.From, g.Machine.Held)
		}
		for _, m := range machines {
			for to := range f.Hosts() {
				if moved[m.Name] || to.ID == m.Host || !d.Host(to.ID).Cores.fits(int64(m.Request.Cores)) {
					continue
				}
				try := d.Fleet().Draft()
				try.Take(to.ID, m.Held, "")
				try.Give(m.Host, m.Held)
				if then, _ := dullImbalance(slices.Collect(try.Fleet().Hosts()), &what); out.After-then > what.MinGain+leastGain {
					t.Fatalf("%s from %s to %s would gain %v", m.Name, m.Host, to.ID, out.After-then)
				}
			}
		}
		moves += len(out.Moves)
	})
	t.Logf("%d moves", moves)
}

func TestARebalanceMovesLittleAndWhatHelpsMost(t *testing.T) {
	over := []int32{5, 5, 5, 5, 4} // 24 of 20
	for _, tc := range []struct {
		name  string
		loads [][]int32
		most  int
		want  string
	}{
		{"nothing there", nil, 10, ""},
		{"one host", [][]int32{{4, 4}}, 10, ""},
		{"even", [][]int32{{4, 2}, {3, 3}, {6}}, 10, ""},
		{"as even as it gets", [][]int32{{4, 1}, {4}}, 10, ""},
		{"one move is enough", [][]int32{{4, 6, 2}, {}, {5}}, 10, "machines/001 h00 h01"},
		{"as few as asked for", [][]int32{{3, 3, 3, 3}, {}, {}}, 1, "machines/000 h00 h01"},
		{"past a limit comes first", [][]int32{{5, 5, 5, 4}, over, {5, 5}, {}}, 1, "machines/004 h01 h03"},
	} {
		f, machines := even(tc.loads...)
		var got []string
		for _, g := range f.Rebalance(Rebalancing{MaxMoves: tc.most, MachinesOn: on(machines)}).Moves {
			got = append(got, fmt.Sprintf("%s %s %s", g.Machine.Name, g.From, g.Plan.Host.ID))
		}
		if strings.Join(got, ", ") != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestALargeFleetIsRebalancedByLookingAtFewHosts(t *testing.T) {
	loads := make([][]int32, 2000)
	for i := range loads {
		loads[i] = slices.Repeat([]int32{2}, 2+i%7)
	}
	f, machines := even(loads...)
	asked, by := map[string]int{}, on(machines)
	out := f.Rebalance(Rebalancing{MaxMoves: 10, MachinesOn: func(host string) []Machine { asked[host]++; return by(host) }})
	if len(out.Moves) != 10 || out.Considered != 2000 || len(asked) > 100 {
		t.Errorf("%d moves of %d hosts, %d were asked about", len(out.Moves), out.Considered, len(asked))
	}
	for host, n := range asked {
		if n > 1 {
			t.Errorf("%s was asked about %d times", host, n)
		}
	}
}
