package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/google/uuid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// locations finds what was seen by the uid that it is discovered with, which
// does not say what host it is of. It follows the store and may be a little
// behind it, so what it finds is looked up in a view.
type locations struct {
	mu       sync.Mutex
	revision int64 // the state it is of; 0: of none
	byUID    map[uuid.UUID]location
	hosts    map[string]hostUID // by id
}

type location struct {
	host   string
	domain uuid.UUID
}

// hostUID is a host as it is known: its id, the one string that all its machines
// share, and its uid.
type hostUID struct{ id, uid string }

// Locate is where a machine was seen that is discovered with the uid: the host
// and the hypervisor's uuid, empty when it was not. Sure is false when the view
// may have one that is not known here.
func (i *Inventory) Locate(v *store.View, uid uuid.UUID) (host, domain string, sure bool) {
	x := &i.locations
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ok := x.byUID[uid]
	if !ok {
		return "", "", x.revision != 0 && x.revision >= v.Revision
	}
	return at.host, at.domain.String(), true
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
	x.byUID, x.hosts = map[uuid.UUID]location{}, map[string]hostUID{}
	for host, r := range store.VmHosts.All(v) {
		x.addHost(v, host, r.Value.GetResource().GetUid())
	}
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
			if x.hosts[host].uid == uid && is != nil {
				continue
			}
			maps.DeleteFunc(x.byUID, func(_ uuid.UUID, at location) bool { return at.host == host })
			delete(x.hosts, host)
			if is != nil {
				x.addHost(v, host, uid)
			}
		case store.Seen.Name():
			host, domain, _ := strings.Cut(store.Seen.ID(c.Key), "/")
			if c.New != nil {
				x.add(host, domain)
			} else if uid, _, ok := x.of(host, domain); ok {
				delete(x.byUID, uid)
			}
		default:
		}
	}
	x.revision = batch.Revision
}

func (x *locations) addHost(v *store.View, host, uid string) {
	x.hosts[host] = hostUID{host, uid}
	for domain := range store.Seen.IDs(v, host) {
		x.add(host, domain)
	}
}

func (x *locations) add(host, domain string) {
	if uid, at, ok := x.of(host, domain); ok {
		x.byUID[uid] = at
	}
}

func (x *locations) of(host, domain string) (uuid.UUID, location, bool) {
	h, ok := x.hosts[host]
	if !ok {
		return uuid.Nil, location{}, false
	}
	uid, err := uuid.Parse(view.DiscoveredUID(h.uid, domain))
	parsed, wrong := uuid.Parse(domain)
	return uid, location{h.id, parsed}, err == nil && wrong == nil
}
