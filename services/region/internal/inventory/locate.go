package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/places"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// locations finds what was seen by the uid that it is discovered with, which
// does not say what host it is of. It follows the store and may be a little
// behind it, so what it finds is looked up in a view.
type locations struct {
	mu       sync.Mutex
	revision int64 // the state it is of; 0: of none
	byUID    places.Index
	hosts    map[string]string // uids by id
}

// Locate is where a machine was seen that is discovered with the uid: the host
// and the hypervisor's uuid, empty when it was not. Sure is false when the view
// may have one that is not known here.
func (i *Inventory) Locate(v *store.View, uid uuid.UUID) (host, domain string, sure bool) {
	x := &i.locations
	x.mu.Lock()
	defer x.mu.Unlock()
	for at := range x.byUID.Find(uid.String()) {
		if view.DiscoveredUID(x.hosts[at.Host], at.Domain) == uid.String() {
			return at.Host, at.Domain, true
		}
	}
	return "", "", x.revision != 0 && x.revision >= v.Revision
}

func (x *locations) run(ctx context.Context, s *store.Store) error {
	for {
		sub := s.Subscribe(ctx)
		x.rebuild(sub.View)
		for batch := range sub.C {
			x.apply(s.Cached(), batch)
		}
		if err := sub.Err(); !errors.Is(err, store.ErrLagged) {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // ended because it was told to
			}
			return fmt.Errorf("follow the store: %w", err)
		}
	}
}

func (x *locations) rebuild(v *store.View) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byUID, x.hosts = places.Index{}, map[string]string{}
	for host, r := range store.VmHosts.All(v) {
		x.addHost(v, host, strings.Clone(r.Value.GetResource().GetUid()))
	}
	x.byUID.Pack()
	x.revision = v.Revision
}

func (x *locations) apply(v *store.View, batch store.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range batch.Changes {
		switch c.Family {
		case store.VmHosts.Name():
			host := store.VmHosts.ID(c.Key)
			is, _ := c.New.(*storev1.StoredVmHost)
			uid := is.GetResource().GetUid()
			if known, ok := x.hosts[host]; ok && known == uid && is != nil {
				continue
			}
			x.byUID.DropHost(host)
			delete(x.hosts, host)
			if is != nil {
				x.addHost(v, host, uid)
			}
		case store.Seen.Name():
			host, domain, _ := strings.Cut(store.Seen.ID(c.Key), "/")
			if c.New != nil {
				x.add(host, domain)
			} else if uid, ok := x.hosts[host]; ok {
				x.byUID.Drop(places.Place{Host: host, Domain: domain}, view.DiscoveredUID(uid, domain))
			}
		default:
		}
	}
	x.revision = batch.Revision
}

func (x *locations) addHost(v *store.View, host, uid string) {
	x.hosts[host] = uid
	for domain := range store.Seen.IDs(v, host) {
		x.add(host, domain)
	}
}

func (x *locations) add(host, domain string) {
	if uid, ok := x.hosts[host]; ok {
		x.byUID.Add(places.Place{Host: host, Domain: domain}, view.DiscoveredUID(uid, domain))
	}
}
