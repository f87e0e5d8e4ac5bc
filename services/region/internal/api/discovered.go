package api

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// keepUpEvery is how often the index of discovered machines is brought up to date
// when nobody lists: a subscription that is left alone ends.
const keepUpEvery = 250 * time.Millisecond

// discovered knows which machines on hosts are of others, in the order of their
// names, so that a page of a list needs to look at no more machines than it
// shows. It is made by the first list and then follows the store. What is found by
// it is looked up in a view, which may be older or newer.
type discovered struct {
	store *store.Store

	mu    sync.Mutex
	sub   *store.Subscription // nil: not made
	end   context.CancelFunc
	found map[place]string // names
	// others are all that have no record at their host, by uuid: what is found, and
	// what has one at another host, as a machine of another project of an LXD server.
	others map[string][]place
	sorted []foundMachine // nil: to be made of found
}

// place is where a machine was seen.
type place struct{ host, domain string }

type foundMachine struct {
	place
	name string
}

func newDiscovered(s *store.Store) *discovered { return &discovered{store: s} }

// run keeps up with the store until ctx ends.
func (x *discovered) run(ctx context.Context) {
	ticker := time.NewTicker(keepUpEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			x.mu.Lock()
			x.keepUp()
			x.mu.Unlock()
		case <-ctx.Done():
			x.mu.Lock()
			x.drop()
			x.mu.Unlock()
			return
		}
	}
}

// items are the machines of others behind a name, in order. All that was recorded
// before a view that was asked for is among them.
func (x *discovered) items(after string, show func(place) proto.Message) iter.Seq[query.Item] {
	x.mu.Lock()
	x.keepUp()
	if x.sub == nil {
		x.build()
	}
	if x.sorted == nil {
		x.sorted = make([]foundMachine, 0, len(x.found))
		for p, name := range x.found {
			x.sorted = append(x.sorted, foundMachine{p, name})
		}
		slices.SortFunc(x.sorted, func(a, b foundMachine) int { return strings.Compare(a.name, b.name) })
	}
	all := x.sorted // never changed, only replaced
	x.mu.Unlock()
	at, same := slices.BinarySearchFunc(all, after, func(m foundMachine, name string) int { return strings.Compare(m.name, name) })
	if same {
		at++
	}
	return func(yield func(query.Item) bool) {
		for _, m := range all[at:] {
			if !yield(query.Item{Name: m.name, Build: func() proto.Message { return show(m.place) }}) {
				return
			}
		}
	}
}

// keepUp takes in what has changed. The lock is held, as in all that follow.
func (x *discovered) keepUp() {
	for x.sub != nil {
		select {
		case batch, ok := <-x.sub.C:
			if !ok {
				x.drop() // it lagged: the next list makes it anew
				return
			}
			x.apply(x.store.Cached(), batch)
		default:
			return
		}
	}
}

func (x *discovered) drop() {
	if x.sub != nil {
		x.end()
	}
	x.sub, x.found, x.others, x.sorted = nil, nil, nil, nil
}

// build goes through everything once.
func (x *discovered) build() {
	var ctx context.Context
	ctx, x.end = context.WithCancel(context.Background()) // until drop
	x.sub = x.store.Subscribe(ctx)
	v := x.sub.View
	ours := map[place]struct{}{}
	for uid, r := range store.Machines.All(v) {
		m := r.Value.GetResource()
		if view.Domain(m) == uid { // of others it is looked at more closely
			ours[place{idOf(m.GetVmHost()), uid}] = struct{}{}
		}
	}
	x.found, x.others = map[place]string{}, map[string][]place{}
	for key := range store.Seen.IDs(v) {
		host, domain, _ := strings.Cut(key, "/")
		if _, ok := ours[place{host, domain}]; !ok {
			x.judge(v, place{host, domain})
		}
	}
}

func (x *discovered) apply(v *store.View, batch store.Batch) {
	for _, c := range batch.Changes {
		switch c.Family {
		case store.Seen.Name():
			host, domain, _ := strings.Cut(store.Seen.ID(c.Key), "/")
			x.judge(v, place{host, domain})
		case store.Machines.Name():
			for _, value := range []proto.Message{c.Old(), c.New} {
				if m, ok := value.(*storev1.StoredMachine); ok {
					domain := view.Domain(m.GetResource())
					for _, host := range ledger.HostsOf(m) {
						x.judge(v, place{host, domain})
					}
					for _, p := range slices.Clone(x.others[domain]) {
						x.judge(v, p)
					}
				}
			}
		case store.VmHosts.Name():
			old, _ := c.Old().(*storev1.StoredVmHost)
			is, _ := c.New.(*storev1.StoredVmHost)
			if old.GetResource().GetUid() == is.GetResource().GetUid() {
				continue
			}
			host := store.VmHosts.ID(c.Key)
			for p := range x.found {
				if p.host == host {
					x.judge(v, p)
				}
			}
			for domain := range store.Seen.IDs(v, host) {
				x.judge(v, place{host, domain})
			}
		default:
		}
	}
}

// judge notes whether what was seen at a place is a machine of others.
func (x *discovered) judge(v *store.View, p place) {
	name, other := "", false
	if host, ok := store.VmHosts.Get(v, p.host); ok {
		if seen, ok := store.Seen.Get(v, p.host, p.domain); ok {
			spec, o := host.Value.GetResource(), seen.Value.GetObservation()
			_, ours := view.Ours(v, spec, o)
			if other = !ours; other && !view.Known(v, spec, o) {
				name = machinesCollection + view.DiscoveredUID(spec.GetUid(), p.domain)
			}
		}
	}
	switch i := slices.Index(x.others[p.domain], p); {
	case other && i < 0:
		x.others[p.domain] = append(x.others[p.domain], p)
	case !other && i >= 0:
		if x.others[p.domain] = slices.Delete(x.others[p.domain], i, i+1); len(x.others[p.domain]) == 0 {
			delete(x.others, p.domain)
		}
	}
	switch was, known := x.found[p]; {
	case name == "" && known:
		delete(x.found, p)
	case name != "" && name != was:
		x.found[p] = name
	default:
		return
	}
	x.sorted = nil
}
