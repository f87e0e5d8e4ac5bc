// Package places finds where machines are by something that does not say it: a
// name, a MAC, a uid. An Index is made for a hundred thousand of them and keeps
// no text: what it finds are candidates, a few at most, and whoever asks looks
// them up in a view. None that was added is missing from them.
//
// An Index starts no goroutine, and is for one at a time.
package places

import (
	"hash/maphash"
	"iter"
	"slices"

	"github.com/google/uuid"
)

// Place is a machine on a host, by the hypervisor's uuid; without a host it is a
// machine's record, by its uid.
type Place struct{ Host, Domain string }

// Index has places by the hashes of what they are found by. The zero value is
// empty and ready.
type Index struct {
	seed   maphash.Seed
	shards [][]ref
	odd    map[uint64][]Place // whose uuids are none

	numbers map[string]uint32 // of hosts
	hosts   []string          // by number
}

// ref is a place. Its shard is in the other half of its hash.
type ref struct {
	hash   uint32
	host   uint32
	domain uuid.UUID
}

const (
	shards = 4096
	// grow is by how many a shard grows: there are many, and each is small.
	grow = 6
)

func (x *Index) hash(of []string) uint64 {
	if x.shards == nil {
		x.seed, x.shards = maphash.MakeSeed(), make([][]ref, shards)
		x.odd = map[uint64][]Place{}
		x.numbers, x.hosts = map[string]uint32{"": 0}, []string{""}
	}
	var h maphash.Hash
	h.SetSeed(x.seed)
	for _, part := range of {
		_, _ = h.WriteString(part) // never fails
		_ = h.WriteByte(0)         // what is found by it has no such
	}
	return h.Sum64()
}

// Add adds a place by what it is found by. A place that is added twice is there
// once.
func (x *Index) Add(p Place, by ...string) {
	hash := x.hash(by)
	shard := &x.shards[hash%shards]
	r, ok := x.refOf(hash, p, true)
	switch {
	case !ok:
		if !slices.Contains(x.odd[hash], p) {
			x.odd[hash] = append(x.odd[hash], p)
		}
	case !slices.Contains(*shard, r):
		if len(*shard) == cap(*shard) {
			*shard = append(make([]ref, 0, len(*shard)+grow), *shard...)
		}
		*shard = append(*shard, r)
	}
}

// Pack puts what there is together, after much was added at once: places that
// were added among other work lie among what is left of that.
func (x *Index) Pack() {
	n := 0
	for _, shard := range x.shards {
		n += len(shard)
	}
	all := make([]ref, 0, n)
	for i, shard := range x.shards {
		at := len(all)
		all = append(all, shard...)
		x.shards[i] = all[at:len(all):len(all)]
	}
}

// Drop takes back Add.
func (x *Index) Drop(p Place, by ...string) {
	hash := x.hash(by)
	shard := &x.shards[hash%shards]
	r, ok := x.refOf(hash, p, false)
	if !ok {
		if x.odd[hash] = slices.DeleteFunc(x.odd[hash], func(o Place) bool { return o == p }); len(x.odd[hash]) == 0 {
			delete(x.odd, hash)
		}
		return
	}
	if i := slices.Index(*shard, r); i >= 0 {
		last := len(*shard) - 1
		(*shard)[i] = (*shard)[last]
		*shard = (*shard)[:last]
	}
}

// DropHost drops all places on a host.
func (x *Index) DropHost(host string) {
	if number, known := x.numbers[host]; known {
		for i := range x.shards {
			x.shards[i] = slices.DeleteFunc(x.shards[i], func(r ref) bool { return r.host == number })
		}
	}
	for hash, places := range x.odd {
		if x.odd[hash] = slices.DeleteFunc(places, func(p Place) bool { return p.Host == host }); len(x.odd[hash]) == 0 {
			delete(x.odd, hash)
		}
	}
}

// Find are the places that may be found by something, and a few others hardly
// ever.
func (x *Index) Find(by ...string) iter.Seq[Place] {
	hash := x.hash(by)
	return func(yield func(Place) bool) {
		for _, r := range x.shards[hash%shards] {
			if r.hash == uint32(hash>>32) && !yield(Place{x.hosts[r.host], r.domain.String()}) {
				return
			}
		}
		for _, p := range x.odd[hash] {
			if !yield(p) {
				return
			}
		}
	}
}

// refOf is a place as it is kept; false for one whose uuid is not written as
// uuids are, or, unless it is to be added, whose host is not known.
func (x *Index) refOf(hash uint64, p Place, add bool) (ref, bool) {
	domain, err := uuid.Parse(p.Domain)
	if err != nil || domain.String() != p.Domain {
		return ref{}, false
	}
	number, known := x.numbers[p.Host]
	if !known {
		if !add {
			return ref{}, false
		}
		number = uint32(len(x.hosts))
		x.numbers[p.Host], x.hosts = number, append(x.hosts, p.Host)
	}
	return ref{hash: uint32(hash >> 32), host: number, domain: domain}, true
}
