package placement

import (
	"slices"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// A disk in a storage pool that several hosts have stays where it is when its machine
// is moved between two of them (ADR 0026). Its bytes are in the sum of the pool
// already, so it asks for no room, however full the pool is. But it asks for the pool:
// it goes into none but that, whatever pool was named or has room, since a copy would
// be the disk itself.

// holds is the pool of the host that a disk is in already, on another host that has
// it as well; -1 when it is in none. Of several it is one that takes the disk, if any
// does.
func (h *Host) holds(d *Disk) int {
	if d.Held == "" {
		return -1
	}
	if j := slices.IndexFunc(h.Pools, func(p Pool) bool { return p.Identity == d.Held && p.takes(d) }); j >= 0 {
		return j
	}
	return slices.IndexFunc(h.Pools, func(p Pool) bool { return p.Identity == d.Held })
}

// stay has a disk stay in a pool of the host, -1: it has none that the disk is in.
func (f *fitting) stay(h *Host, req *Request, i, j int) (Refusal, bool) {
	d := &req.Disks[i]
	no := Refusal{Host: h, Filter: FilterStorage, Item: i, Requested: d.SizeBytes, req: req}
	if j < 0 {
		no.Bound = true
		return no, false
	}
	p := &h.Pools[j]
	no.Pool, no.Resource = p.Name, p.Resource
	switch {
	case req.Copies != "":
		no.Onto = true
	case !p.Active:
		no.Missing = true
	case !all(d.Tags, p.Tags):
		no.Tagless = true
	default:
		f.pools[i], f.poolHow[i] = p.Name, byStaying
		return Refusal{}, true
	}
	return no, false
}

// Stays says whether a disk stays where it is.
func (p *Plan) Stays(disk int) bool { return disk < len(p.Staying) && p.Staying[disk] }

// Disks is how many disks stay where they are, and how many are made or copied.
func (p *Plan) Disks() (staying, made int32) {
	for i := range p.Pools {
		if p.Stays(i) {
			staying++
		} else {
			made++
		}
	}
	return staying, made
}

// Arrived is all that a machine takes of its host once it was moved there, which held
// so much of the one that it left: what it held in the pools of its staying disks goes
// with it.
func (p *Plan) Arrived(req *Request, held *storev1.Commitment) *storev1.Commitment {
	c := p.Commitment(req)
	var from, to []string
	for i := range req.Disks {
		if p.Stays(i) {
			from, to = append(from, req.Disks[i].In), append(to, p.Pools[i])
		}
	}
	HandOver(held, from, c, to)
	return c
}

// HandOver adds to what a machine holds on one host what it holds on another in the
// pools of disks that stay where they are: the names of these pools there and here,
// disk by disk.
func HandOver(held *storev1.Commitment, from []string, c *storev1.Commitment, to []string) {
	for i, pool := range from {
		bytes := held.GetStorageBytes()[pool]
		if bytes == 0 || slices.Contains(from[:i], pool) {
			continue
		}
		if c.StorageBytes == nil {
			c.StorageBytes = map[string]int64{}
		}
		c.StorageBytes[to[i]] += bytes
	}
}
