package placement

import (
	"cmp"
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// WhatIf is what would be of machines if something happened to the fleet. Of the
// machines only those of lost hosts are looked at.
func (f *Fleet) WhatIf(machines []Machine, what Imagined) Outcome {
	var out Outcome
	if what.Request != nil {
		out.RoomBefore = f.Room(what.Request, 0).Machines
	}
	d, lost := f.Draft(), map[string]bool{}
	for h := range f.Hosts() {
		if slices.Contains(what.LostZones, h.Zone) {
			lost[h.ID] = true
		}
	}
	for _, id := range what.LostHosts {
		lost[id] = true
	}
	for id := range lost {
		d.Remove(id)
	}
	if what.Overcommit != nil {
		for h := range f.Hosts() {
			if !lost[h.ID] && (len(what.RatioHosts) == 0 || slices.Contains(what.RatioHosts, h.ID)) {
				d.Put(h.withRatios(what.Overcommit))
			}
		}
	}
	homeless := func(all []Machine) (out []*Machine) {
		for i := range all {
			if lost[all[i].Host] {
				out = append(out, &all[i])
			}
		}
		return out
	}
	machines = slices.Clone(machines)
	for i := range machines { // nobody copies from a host that is lost, and its room in pools is free
		machines[i].Request.Disks = slices.Clone(machines[i].Request.Disks)
		for j := range machines[i].Request.Disks {
			machines[i].Request.Disks[j].Held = ""
		}
	}
	out.Moves, out.Stranded = d.move(homeless(machines))
	out.PlacesMoved, out.PlacesStranded = d.move(homeless(what.Places))
	after := d.Fleet()
	for h := range after.Hosts() {
		if _, over := h.over(); over {
			out.Overcommitted = append(out.Overcommitted, h.ID)
		}
	}
	if what.Request != nil {
		out.RoomAfter = after.Room(what.Request, 0).Machines
	}
	return out
}

// DrainPlan is where the machines of a host would go, and which cannot move, with
// why. The moves are possible in their order, each after those before it: the
// largest machines first, as those find a place hardest. Of the machines only
// those of the host are looked at; those that have no place stay on it, and count
// there for the rules of others.
func (f *Fleet) DrainPlan(host string, machines []Machine) ([]Move, []Stranded) {
	d := f.Draft()
	var mine []*Machine
	for i := range machines {
		if machines[i].Host == host {
			mine = append(mine, &machines[i])
		}
	}
	return d.move(mine)
}

// move places machines that are or were elsewhere, the largest first.
func (d *Draft) move(machines []*Machine) ([]Move, []Stranded) {
	var moves []Move
	var stranded []Stranded
	for _, m := range largestFirst(machines) {
		req := m.Request
		req.From = m.Host
		plan := d.Choose(&req)
		if plan.Host == nil {
			stranded = append(stranded, Stranded{Machine: m, From: m.Host, Plan: plan})
			continue
		}
		d.Take(plan.Host.ID, plan.Arrived(&req, m.Held), req.groupKey())
		d.Give(m.Host, m.Held)
		moves = append(moves, Move{Machine: m, From: m.Host, Plan: plan})
	}
	return moves, stranded
}

// largestFirst orders machines by the larger of their shares of the cores, the
// memory and the storage of all of them together; alike ones by name.
func largestFirst(machines []*Machine) []*Machine {
	type sized struct {
		m    *Machine
		size [3]float64
		key  float64
	}
	list := make([]sized, 0, len(machines))
	var sum [3]float64
	for _, m := range machines {
		s := sized{m: m, size: [3]float64{float64(m.Request.Cores), float64(m.Request.MemoryMiB), 0}}
		for _, d := range m.Request.Disks {
			s.size[2] += float64(d.SizeBytes)
		}
		for i := range sum {
			sum[i] += s.size[i]
		}
		list = append(list, s)
	}
	for i := range list {
		for j := range sum {
			if sum[j] > 0 {
				list[i].key = max(list[i].key, list[i].size[j]/sum[j])
			}
		}
	}
	slices.SortFunc(list, func(a, b sized) int {
		return cmp.Or(cmp.Compare(b.key, a.key), cmp.Compare(a.m.Name, b.m.Name))
	})
	out := make([]*Machine, len(list))
	for i := range list {
		out[i] = list[i].m
	}
	return out
}

// withRatios is the host with other overcommit ratios; what is not set stays.
func (h *Host) withRatios(o *vmhostv1.OvercommitRatios) *Host {
	out := *h
	if o != nil && o.Cores != nil {
		r := h.Cores
		out.Cores = newCores(r.Physical, r.Reserved, o.GetCores(), r.Committed, r.Foreign)
	}
	if o != nil && o.Memory != nil {
		out.MemoryMiB = h.MemoryMiB.withRatio(o.GetMemory())
	}
	if o != nil && o.Storage != nil {
		out.Pools = slices.Clone(h.Pools)
		for i := range out.Pools { // of a shared pool Put fills in the rest
			out.Pools[i].Resource = h.Pools[i].withRatio(o.GetStorage())
		}
	}
	return &out
}

func (r Resource) withRatio(ratio float64) Resource {
	return NewResource(r.Physical, r.Reserved, ratio, r.Committed, r.Foreign)
}
