package placement

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// drawSharing gives some pools of some hosts an identity: each host as it would be
// made of its records.
func drawSharing(t *rapid.T, hosts []*Host) []*Host {
	identity := rapid.SampledFrom([]string{"", "nfs://a", "nfs://a", "rbd://b"})
	out := make([]*Host, 0, len(hosts))
	for _, h := range hosts {
		n := *h
		n.Pools = slices.Clone(h.Pools)
		for i := range n.Pools {
			p := &n.Pools[i]
			id := identity.Draw(t, "identity")
			if id == "" {
				continue
			}
			own := rapid.Int64Range(0, 4).Draw(t, "own")
			ours := rapid.Int64Range(0, own).Draw(t, "ours")
			p.Resource = NewResource(rapid.SampledFrom([]int64{40, 40, 40, 44}).Draw(t, "capacity"), 0, rapid.SampledFrom([]float64{1, 1, 1.5}).Draw(t, "ratio"), own, 0)
			p.Shared = Shared{Identity: id, Hosts: 1, own: own, ours: ours, allocated: ours + rapid.Int64Range(0, 12).Draw(t, "others"), reads: p.Active && rapid.IntRange(0, 4).Draw(t, "reads") > 0}
			p.Foreign = p.allocated - p.ours
		}
		out = append(out, &n)
	}
	return out
}

// inPool is the specification of what is in a shared pool: what machines hold on
// all hosts, and the most that any of them reads besides.
func inPool(hosts []*Host, identity string) (committed, foreign int64, sharers int32) {
	ours := int64(0)
	for _, h := range hosts {
		has := int32(0)
		for _, p := range h.Pools {
			if p.Identity == identity {
				committed, ours, has = committed+p.own, ours+p.ours, 1
				if p.reads {
					foreign = max(foreign, p.allocated)
				}
			}
		}
		sharers += has
	}
	return committed, max(foreign-ours, 0), sharers
}

// seen are hosts with what is in their shared pools, by the specification.
func seen(hosts []*Host) []*Host {
	var out []*Host
	for _, h := range hosts {
		n := *h
		n.Pools = slices.Clone(h.Pools)
		for i := range n.Pools {
			if p := &n.Pools[i]; p.Identity != "" {
				p.Committed, p.Foreign, p.Hosts = inPool(hosts, p.Identity)
				for _, twin := range h.Pools {
					if twin.Identity == p.Identity && twin.Active && p.Active {
						p.Limit, p.Physical = min(p.Limit, twin.Limit), min(p.Physical, twin.Physical)
					}
				}
			}
		}
		out = append(out, &n)
	}
	return out
}

// storableShared tries every way to spread the disks over pools, some of which are
// the same.
func storableShared(h *Host, disks []Disk, copies string, taken map[string]int64) bool {
	if len(disks) == 0 {
		return true
	}
	d := disks[0]
	if d.Held != "" {
		has, usable := false, false
		for _, p := range h.Pools {
			has = has || p.Identity == d.Held
			usable = usable || p.Identity == d.Held && p.Active && (len(d.Tags) == 0 || slices.Contains(p.Tags, d.Tags[0]))
		}
		if has || d.Bound { // there it stays, whatever else there is, and takes nothing
			return usable && copies == "" && storableShared(h, disks[1:], copies, taken)
		}
	}
	name := d.Pool
	if name == "" && h.DefaultPool != "" {
		name = h.DefaultPool
		if len(d.Tags) > 0 && !slices.ContainsFunc(h.Pools, func(p Pool) bool { return p.Name == name && slices.Contains(p.Tags, d.Tags[0]) }) {
			name = ""
		}
	}
	for _, p := range h.Pools {
		key := p.Name
		if p.Identity != "" {
			key = "shared " + p.Identity
		}
		if !p.Active || (name != "" && name != p.Name) || d.SizeBytes > p.Physical-p.Reserved || (len(d.Tags) > 0 && !slices.Contains(p.Tags, d.Tags[0])) ||
			p.Committed+p.Foreign+taken[key]+d.SizeBytes > p.Limit {
			continue
		}
		taken[key] += d.SizeBytes
		if storableShared(h, disks[1:], copies, taken) {
			return true
		}
		taken[key] -= d.SizeBytes
	}
	return false
}

// roomFor is fitsSomehow where pools are shared: those that others have filled take
// nothing, and say nothing of the host.
func roomFor(h *Host, r Request) bool {
	bare, disks := *h, r.Disks
	bare.Pools = slices.DeleteFunc(slices.Clone(h.Pools), func(p Pool) bool { return p.Identity != "" })
	r.Disks = nil
	return fitsSomehow(&bare, r) && storableShared(h, disks, r.Copies, map[string]int64{})
}

func TestSharedPoolsAreCountedOnceForTheFleet_P1(t *testing.T) {
	placed, refused, full, stayed := 0, 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawSharing(t, drawFleet(t, 90))
		d := NewFleet(hosts).Draft()
		for range 12 {
			req := drawRequest(t)
			for i := range req.Disks {
				if rapid.IntRange(0, 7).Draw(t, "held") == 0 {
					req.Disks[i].Held, req.Disks[i].In, req.Disks[i].Bound = "nfs://a", "vm", rapid.Bool().Draw(t, "bound")
				}
			}
			req.Copies = rapid.SampledFrom([]string{"", "", "the rack is too old"}).Draw(t, "copies")
			now := seen(hosts)
			e := d.Explain(&req, 1000, 1000)
			for _, r := range e.Plan.Refusals {
				i := slices.IndexFunc(now, func(h *Host) bool { return h.ID == r.Host.ID })
				if roomFor(now[i], req) {
					t.Fatalf("refused: %s %s, but %+v fits %+v", r.Host.ID, r.Message(), now[i], req)
				}
				if r.Filter == FilterStorage && r.sharing() != "" {
					full++
				}
			}
			for _, c := range e.Candidates {
				i := slices.IndexFunc(now, func(h *Host) bool { return h.ID == c.Host.ID })
				if diff := cmp.Diff(now[i].Pools, c.Host.Pools, cmp.AllowUnexported(Shared{})); diff != "" {
					t.Fatalf("what is in the pools of %s (want, got):\n%s", c.Host.ID, diff)
				}
				if !roomFor(now[i], req) {
					t.Fatalf("%+v does not fit %+v", now[i], req)
				}
			}
			plan := d.Choose(&req)
			if plan.Host == nil {
				refused++
				continue
			}
			placed++
			i := slices.IndexFunc(hosts, func(h *Host) bool { return h.ID == plan.Host.ID })
			arrives := plan.Commitment(&req)
			takes := map[string]int64{}
			for k, disk := range req.Disks {
				pool := hosts[i].Pools[hosts[i].pool(plan.Pools[k])]
				if stays := disk.Held != "" && pool.Identity == disk.Held; stays != plan.Stays(k) {
					t.Fatalf("disk %+v is in %+v, and stays: %v", disk, pool, plan.Stays(k))
				} else if stays {
					stayed++
				} else {
					takes[pool.Name] += disk.SizeBytes
				}
			}
			if diff := cmp.Diff(takes, arrives.GetStorageBytes(), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("what is taken of pools (want, got):\n%s", diff)
			}
			hosts[i] = hosts[i].Take(arrives)
			d.Take(plan.Host.ID, arrives, "")
			for j, h := range seen(hosts) {
				if h.ID != plan.Host.ID {
					continue
				}
				for k, p := range h.Pools {
					if arrives.GetStorageBytes()[p.Name] > 0 && p.Over() {
						t.Fatalf("%s took %v past the limit of %+v (before %+v)", h.ID, arrives.GetStorageBytes(), p, now[j].Pools[k])
					}
				}
			}
		}
		// One by one or made anew, it is the same fleet.
		fresh := NewFleet(hosts)
		for h := range d.Fleet().Hosts() {
			if diff := cmp.Diff(fresh.Host(h.ID).Pools, h.Pools, cmp.AllowUnexported(Shared{})); diff != "" {
				t.Fatalf("%s: %s", h.ID, diff)
			}
		}
		req := drawWish(t)
		a, b := d.Explain(req, 1000, 1000), fresh.Explain(req, 1000, 1000)
		if diff := cmp.Diff(a.Plan.Proto(), b.Plan.Proto(), protocmp.Transform()); diff != "" {
			t.Fatalf("changed one by one and made anew differ: %s", diff)
		}
	})
	t.Logf("placed %d, refused %d; of hosts %d by a shared pool; %d disks stayed", placed, refused, full, stayed)
	if stayed == 0 {
		t.Error("no disk stayed: that proves less")
	}
}

func TestHostsOfSharedPoolsComeAndGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawSharing(t, drawFleet(t, 150))
		d, now := NewFleet(nil).Draft(), map[string]*Host{}
		for range rapid.IntRange(0, 200).Draw(t, "changes") {
			if len(hosts) == 0 {
				break
			}
			h := hosts[rapid.IntRange(0, len(hosts)-1).Draw(t, "host")]
			if rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
				d.Remove(h.ID)
				delete(now, h.ID)
				continue
			}
			d.Put(h)
			now[h.ID] = h
		}
		same(t, d.Fleet(), now)
		var list []*Host
		for _, h := range now {
			list = append(list, h)
		}
		for _, want := range seen(list) {
			if diff := cmp.Diff(want.Pools, d.Host(want.ID).Pools, cmp.AllowUnexported(Shared{})); diff != "" {
				t.Fatalf("%s: %s", want.ID, diff)
			}
		}
		if len(list) == 0 && d.Fleet().Shares() {
			t.Fatal("nobody is left, and pools are")
		}
	})
}

func TestNeverMoreIsCountedThanFitsIntoSharedPools(t *testing.T) {
	exact, fewer := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawSharing(t, drawFleet(t, 40))
		alike := rapid.Bool().Draw(t, "alike")
		req := drawWish(t)
		req.Policy.Admits, req.OneNUMANode, req.PinnedCores = nil, false, nil
		if alike {
			// One pool for each disk, with one limit.
			for _, h := range hosts {
				h.DefaultPool, h.Pools = "", h.Pools[:min(len(h.Pools), 1)]
				for i := range h.Pools {
					if p := &h.Pools[i]; p.Identity != "" {
						p.Resource = NewResource(40, 0, 1, p.Committed, p.Foreign)
					}
				}
			}
			req.Disks, req.Interfaces, req.Affinity, req.MaxPerZone = req.Disks[:min(1, len(req.Disks))], nil, nil, 0
		}
		f := NewFleet(hosts)
		room := f.Room(req, 1000)
		d, n := f.Draft(), int64(0)
		for ; n <= room.Machines; n++ {
			plan := d.Choose(req)
			if plan.Host == nil {
				break
			}
			d.Take(plan.Host.ID, plan.Commitment(req), req.groupKey())
		}
		follows := slices.ContainsFunc(req.Affinity, func(r Rule) bool { return r.Near && !r.Soft && r.Group != "" && r.Group == req.Group })
		switch {
		case n == room.Machines:
			exact++
		case n < room.Machines && !follows, alike:
			t.Fatalf("%d fit, counted were %+v for %+v", n, room, req)
		default:
			fewer++
		}
		if (room.Machines == 0) != (len(room.Hosts) == 0) {
			t.Fatalf("%d fit, on %d hosts", room.Machines, len(room.Hosts))
		}
	})
	t.Logf("exact %d, otherwise %d", exact, fewer)
}

// nas is a host of two that share a pool of 100 bytes, of which others use 10.
func nas(id string, committed, ours int64) *Host {
	return NewHost(&storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/" + id, Zone: "zones/" + id, ResourcePool: "resourcePools/a", Type: 1}},
		&storev1.StoredVmHostObservation{State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: &vmhostv1.VmHostObservation{
			Cores: 100, MemoryMib: 1000, Architectures: []string{"x86_64"},
			StoragePools: []*vmhostv1.StoragePool{{Name: "vm", CapacityBytes: 100, AllocationBytes: 40, OursBytes: ours, Active: true}},
		}},
		&storev1.StoredLedger{Machines: 1, Total: &storev1.Commitment{StorageBytes: map[string]int64{"vm": committed}}, SharedPools: map[string]string{"vm": "nfs://nas/vm"}})
}

func TestWhatIsSaidOfASharedPool(t *testing.T) {
	f := NewFleet([]*Host{nas("h1", 25, 10), nas("h2", 35, 20)})
	req := &Request{Cores: 1, MemoryMiB: 1, ResourcePool: "a", Disks: []Disk{{SizeBytes: 11}}}
	u := Usage(f.Host("h1"))
	if p := u.GetStorageBytes()["vm"]; p.GetCommitted() != 60 || p.GetForeign() != 10 || p.GetFree() != 30 {
		t.Errorf("usage %v", p)
	}
	if s := u.GetSharedStorage()["vm"]; s.GetIdentity() != "nfs://nas/vm" || s.GetVmHosts() != 2 {
		t.Errorf("shared %v", s)
	}
	room := f.Room(req, 10)
	if room.Machines != 2 || room.LimitedBy != FilterSharedStorage || len(room.Hosts) != 2 || room.Hosts[0].Machines != 2 || room.Hosts[0].LimitedBy != FilterSharedStorage ||
		room.Zones[0].Machines != 2 || room.Zones[0].LimitedBy != FilterSharedStorage {
		t.Errorf("room %+v", room)
	}
	d := f.Draft()
	many := d.Place([]*Request{req, req, req}, false)
	if many.Unplaced != 1 {
		t.Fatalf("%d of 3 have no place", many.Unplaced)
	}
	why := many.Plans[2].Refusals[0].Message()
	if !strings.Contains(why, "storage pool vm (nfs://nas/vm, which 2 hosts share) has 8 bytes free") {
		t.Error(why)
	}
	if many := f.Draft().Place([]*Request{req, req, req}, true); many.Unplaced != 3 {
		t.Errorf("a gang of 3: %d have no place", many.Unplaced)
	}
	out := f.WhatIf([]Machine{{Name: "machines/m", Host: "h1", Held: &storev1.Commitment{StorageBytes: map[string]int64{"vm": 25}}, Request: Request{
		Cores: 1, MemoryMiB: 1, ResourcePool: "a", Disks: []Disk{{SizeBytes: 25, Held: "nfs://nas/vm"}},
	}}}, Imagined{LostHosts: []string{"h1"}, Request: req})
	if len(out.Moves) != 1 || out.RoomBefore != 2 {
		t.Errorf("%+v", out)
	}
}

// A host that has the pool that a disk is in is no place to move the machine to (P3).
func TestAMachineDoesNotMoveIntoThePoolThatItIsIn_P3(t *testing.T) {
	a, b, c := nas("h1", 60, 10), nas("h2", 30, 20), nas("h3", 0, 0)
	c.Pools[0].Identity = "nfs://elsewhere"
	c.Cores.Committed = 50 // not the first choice
	f := NewFleet([]*Host{a, b, c})
	req := &Request{From: "h1", Cores: 1, MemoryMiB: 1, ResourcePool: "a", Disks: []Disk{{SizeBytes: 5, Held: "nfs://nas/vm", In: "vm"}}, Copies: "the rack is too old"}
	if plan := f.Choose(req); plan.Host == nil || plan.Host.ID != "h3" {
		t.Fatalf("%+v: %s", plan.Host, plan.Summary())
	}
	req.VMHost = "h2"
	if plan := f.Choose(req); plan.Host != nil || !strings.Contains(plan.Summary(), "it would be copied onto itself, and cannot stay as it is: the rack is too old") {
		t.Fatalf("%+v: %s", plan.Host, plan.Summary())
	}
	req.VMHost = ""
	moves, stranded := f.DrainPlan("h1", []Machine{{Name: "machines/m", Host: "h1", Held: &storev1.Commitment{StorageBytes: map[string]int64{"vm": 5}}, Request: *req}})
	if len(moves) != 1 || moves[0].Plan.Host.ID != "h3" || len(stranded) != 0 {
		t.Fatal(moves, stranded)
	}
}
