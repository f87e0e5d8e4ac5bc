package placement

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// past is the first host that has more in use than before and than its limits, or
// a core pinned twice.
func past(before, after *Fleet) string {
	for h := range after.Hosts() {
		old := before.Host(h.ID)
		worse := func(r, was Resource) bool { return r.Over() && r.used() > was.used() }
		bad := worse(h.Cores, old.Cores) || worse(h.MemoryMiB, old.MemoryMiB) || worse(h.Hugepages, old.Hugepages)
		for i := range h.Pools {
			bad = bad || worse(h.Pools[i].Resource, old.Pools[i].Resource)
		}
		for i := range h.Networks {
			bad = bad || worse(h.Networks[i].Functions, old.Networks[i].Functions)
		}
		if bad {
			return h.ID
		}
	}
	return ""
}

func TestOfManyEitherAllAreTakenOrNoneAndNothingGoesPastALimit_P1(t *testing.T) {
	all, none := 0, 0
	checks(t, 1000, func(t *rapid.T) {
		f := NewFleet(drawFleet(t, 100))
		req := drawWish(t)
		req.Affinity = append(req.Affinity, rapid.SampledFrom([][]Rule{nil, {{Group: "gang"}}, {{Group: "gang", Zone: true}}, {{Group: "gang", Near: true, Zone: true}}}).Draw(t, "gang")...)
		if req.Group == "" {
			req.Group = "gang"
		}
		reqs := slices.Repeat([]*Request{req}, rapid.IntRange(1, 12).Draw(t, "count"))
		d, some := f.Draft(), f.Draft()
		m, fit := d.Place(reqs, true), some.Place(reqs, false)
		if id := past(f, some.Fleet()); id != "" {
			t.Fatalf("%s is past its limit", id)
		}
		if (m.Unplaced == 0) != (fit.Unplaced == 0) {
			t.Fatalf("all: %d have no place, as many as fit: %d", m.Unplaced, fit.Unplaced)
		}
		if m.Unplaced > 0 {
			none++
			if m.Unplaced != len(reqs) || m.Refused < 0 || m.Plans[m.Refused].Host != nil {
				t.Fatalf("%+v", m)
			}
			for h := range d.Fleet().Hosts() {
				if h != f.Host(h.ID) {
					t.Fatalf("%s has changed", h.ID)
				}
			}
			return
		}
		all++
		hosts, zones := map[string]int{}, map[string]int{}
		for _, p := range m.Plans {
			hosts[p.Host.ID]++
			zones[p.Host.Zone]++
		}
		for _, r := range req.Affinity {
			switch {
			case r.Soft || r.Group != req.Group:
			case r.Near && r.Zone && len(zones) > 1 && f.groupZones(req.groupKey()) == nil:
				t.Fatalf("near one another, and in zones %v", zones)
			case !r.Near && !r.Zone && len(hosts) != len(m.Plans), !r.Near && r.Zone && len(zones) != len(m.Plans):
				t.Fatalf("away from one another, and on %v in %v", hosts, zones)
			}
		}
		for zone, n := range zones {
			if have := f.others(req, req.Group)[zone]; req.MaxPerZone > 0 && have+int32(n) > req.MaxPerZone { // one that moves does not count itself
				t.Fatalf("%d in zone %s", n, zone)
			}
		}
	})
	t.Logf("all of %d, none of %d", all, none)
}

func TestAsManyFitAsAreCounted(t *testing.T) {
	exact, fewer, some := 0, 0, 0
	checks(t, 500, func(t *rapid.T) {
		f := NewFleet(drawFleet(t, 70))
		req := drawWish(t)
		simple := rapid.Bool().Draw(t, "simple")
		if simple {
			req.Disks, req.Interfaces = req.Disks[:min(1, len(req.Disks))], req.Interfaces[:min(1, len(req.Interfaces))]
		}
		req.Policy.Admits = nil // it may change its mind about a host that took some
		if rapid.Bool().Draw(t, "alike") {
			req.Group = "gang"
			req.Affinity = append(req.Affinity, rapid.SampledFrom([]Rule{{Group: "gang"}, {Group: "gang", Zone: true}, {Group: "gang", Near: true}, {Group: "gang", Near: true, Zone: true}}).Draw(t, "rule"))
		}
		room := f.Room(req, 1000)
		d, n := f.Draft(), int64(0)
		for ; n <= room.Machines; n++ {
			plan := d.Choose(req)
			if plan.Host == nil {
				break
			}
			d.Take(plan.Host.ID, plan.Commitment(req), req.groupKey())
		}
		// Where the first one decides where the others must be, it may choose a place
		// with less room than the best.
		follows := slices.ContainsFunc(req.Affinity, func(r Rule) bool { return r.Near && !r.Soft && r.Group != "" && r.Group == req.Group })
		if room.Machines > 0 {
			some++
		}
		switch {
		case n == room.Machines:
			exact++
		case simple && !follows:
			t.Fatalf("%d fit, counted were %+v for %+v", n, room, req)
		case n < room.Machines && !follows:
			t.Fatalf("%d fit, counted were %d for %+v", n, room.Machines, req)
		default:
			fewer++
		}
		refused := 0
		for _, k := range room.RefusedCounts {
			refused += k
		}
		if refused+len(room.Hosts) != f.Len() || (room.Machines == 0) != (len(room.Hosts) == 0) || (f.Len() > 0 && room.LimitedBy == "") {
			t.Fatalf("%d refused, %d hosts with room of %d: %+v", refused, len(room.Hosts), f.Len(), room)
		}
		if simple {
			checkLimits(t, f, req, room)
		}
	})
	t.Logf("exact %d, otherwise %d; some fit in %d", exact, fewer, some)
}

// checkLimits fills each host and looks at what refuses one more.
func checkLimits(t *rapid.T, f *Fleet, req *Request, room Room) {
	for _, hr := range room.Hosts[:min(len(room.Hosts), 3)] {
		one := *req
		one.VMHost = hr.Host.ID
		d := f.Draft()
		for i := range hr.Machines {
			plan := d.Choose(&one)
			if plan.Host == nil {
				if req.MaxPerZone > 0 {
					return // fewer fit in its zone
				}
				t.Fatalf("%s takes %d, not %d: %s", hr.Host.ID, i, hr.Machines, plan.Summary())
			}
			d.Take(plan.Host.ID, plan.Commitment(&one), one.groupKey())
		}
		plan := d.Choose(&one)
		if plan.Host != nil {
			t.Fatalf("%s takes more than %d", hr.Host.ID, hr.Machines)
		}
		if plan.RefusedCounts[hr.LimitedBy] != 1 && plan.RefusedCounts[FilterSpread] != 1 {
			t.Fatalf("%s is limited by %v, not by %s", hr.Host.ID, plan.RefusedCounts, hr.LimitedBy)
		}
	}
}

func drawMachines(t *rapid.T, hosts []*Host) []Machine {
	var out []Machine
	for i := range rapid.IntRange(0, 20).Draw(t, "machines") {
		req := drawEasily(t)
		if rapid.IntRange(0, 3).Draw(t, "of a group") == 0 {
			req.Group, req.MaxPerZone = "web", rapid.Int32Range(0, 6).Draw(t, "max per zone")
		}
		m := Machine{Name: fmt.Sprint("machines/", i), Host: "gone", Request: req, Held: &storev1.Commitment{Cores: req.Cores, MemoryMib: req.MemoryMiB}}
		if req.Group != "" {
			m.Held.Groups = map[string]int32{"a/web": 1}
		}
		if len(hosts) > 0 {
			m.Host = hosts[rapid.IntRange(0, min(5, len(hosts)-1)).Draw(t, "on")].ID
		}
		out = append(out, m)
	}
	return out
}

// replay makes the moves one by one and says what is left then.
func replay(t *rapid.T, d *Draft, moves []Move, stranded []Stranded) {
	asks := func(m *Machine) *Request {
		req := m.Request
		req.From = m.Host
		return &req
	}
	for _, m := range moves {
		req := asks(m.Machine)
		to, hosts := d.Host(m.Plan.Host.ID), withoutIt(slices.Collect(d.Fleet().Hosts()), req)
		if !fitsSomehow(to, *req) || !suits(hosts, to, req) {
			t.Fatalf("%s does not fit %s when it is its turn", m.Machine.Name, m.Plan.Host.ID)
		}
		d.Take(m.Plan.Host.ID, m.Plan.Commitment(req), req.groupKey())
		d.Give(m.From, m.Machine.Held)
	}
	for _, s := range stranded {
		if s.Plan.Host != nil || len(s.Plan.RefusedCounts) == 0 && d.Len() > 0 {
			t.Fatalf("%s has no place for no reason", s.Machine.Name)
		}
		// Whoever came after took room, and gave none back.
		if again := d.Choose(asks(s.Machine)); again.Host != nil && s.Machine.Request.MaxPerZone == 0 {
			t.Fatalf("%s is said to have no place, and fits %s", s.Machine.Name, again.Host.ID)
		}
	}
}

func TestAHostIsDrainedWithinTheLimitsOfTheOthers_P1(t *testing.T) {
	moved, stuck := 0, 0
	checks(t, 500, func(t *rapid.T) {
		hosts := drawFleet(t, 80)
		f, machines := NewFleet(hosts), drawMachines(t, hosts)
		host := "gone"
		if len(hosts) > 0 {
			host = hosts[0].ID
		}
		moves, stranded := f.DrainPlan(host, machines)
		on := 0
		for _, m := range machines {
			if m.Host == host {
				on++
			}
		}
		if len(moves)+len(stranded) != on {
			t.Fatalf("%d move, %d are stranded, of %d", len(moves), len(stranded), on)
		}
		for _, m := range moves {
			if m.From != host || m.Plan.Host.ID == host {
				t.Fatalf("%s moves from %s to %s", m.Machine.Name, m.From, m.Plan.Host.ID)
			}
		}
		d := f.Draft()
		before := d.Fleet()
		replay(t, d, moves, stranded)
		if id := past(before, d.Fleet()); id != "" {
			t.Fatalf("%s is past its limit", id)
		}
		moved, stuck = moved+len(moves), stuck+len(stranded)
	})
	t.Logf("%d moved, %d stranded", moved, stuck)
}

func TestWhatIfAZoneIsLostAndRatiosChange_P1(t *testing.T) {
	moved := 0
	checks(t, 300, func(t *rapid.T) {
		hosts := drawFleet(t, 80)
		f, machines := NewFleet(hosts), drawMachines(t, hosts)
		what := Imagined{LostZones: rapid.SampledFrom([][]string{nil, {"a"}, {"b", "none"}}).Draw(t, "zones"), LostHosts: []string{"h001"}, Request: drawWish(t)}
		if rapid.Bool().Draw(t, "ratio") {
			ratio := rapid.SampledFrom([]float64{0.5, 1, 4}).Draw(t, "cores")
			what.Overcommit = &vmhostv1.OvercommitRatios{Cores: &ratio}
			if rapid.Bool().Draw(t, "of some") {
				what.RatioHosts = []string{"h002", "h003"}
			}
		}
		out := f.WhatIf(machines, what)
		d := f.Draft()
		lost := map[string]bool{}
		for _, h := range hosts {
			if h.ID == "h001" || slices.Contains(what.LostZones, h.Zone) {
				d.Remove(h.ID)
				lost[h.ID] = true
			} else if what.Overcommit != nil && (what.RatioHosts == nil || slices.Contains(what.RatioHosts, h.ID)) {
				n := *h
				n.Cores = NewResource(h.Cores.Physical, h.Cores.Reserved, what.Overcommit.GetCores(), h.Cores.Committed, h.Cores.Foreign)
				d.Put(&n)
			}
		}
		homeless := 0
		for _, m := range machines {
			if lost[m.Host] {
				homeless++
			}
		}
		if len(out.Moves)+len(out.Stranded) != homeless {
			t.Fatalf("%d move, %d are stranded, of %d", len(out.Moves), len(out.Stranded), homeless)
		}
		moved += len(out.Moves)
		replay(t, d, out.Moves, out.Stranded)
		var over []string
		for h := range d.Fleet().Hosts() {
			if _, is := h.over(); is {
				over = append(over, h.ID)
			}
		}
		if diff := cmp.Diff(over, out.Overcommitted); diff != "" {
			t.Fatal(diff)
		}
		if now, then := f.Room(what.Request, 0).Machines, d.Fleet().Room(what.Request, 0).Machines; now != out.RoomBefore || then != out.RoomAfter {
			t.Fatalf("room for %d and then %d, want %d and %d", out.RoomBefore, out.RoomAfter, now, then)
		}
	})
	t.Logf("%d moved", moved)
}
