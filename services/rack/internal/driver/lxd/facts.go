package lxd

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"golang.org/x/sync/errgroup"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	// factsFor is how long what seldom changes is kept. LXD tells by event when it
	// changes pools, networks, profiles and images; devices that it does not manage
	// come and go without one.
	factsFor = 5 * time.Minute
	// resourcesFor is how long what the hardware is is kept: memory can be plugged
	// in, and huge pages come and go.
	resourcesFor = 30 * time.Second
)

// kept is something that was read and when. The zero value is nothing.
type kept[T any] struct {
	mu    sync.Mutex
	value T
	at    time.Time
	// dropped counts calls of drop: what was being read then is not kept.
	dropped int
}

// read answers what is kept, or reads it anew.
func (k *kept[T]) read(ctx context.Context, age time.Duration, fresh func(context.Context) (T, error)) (T, error) {
	k.mu.Lock()
	value, at, before := k.value, k.at, k.dropped
	k.mu.Unlock()
	if !at.IsZero() && time.Since(at) < age {
		return value, nil
	}
	value, err := fresh(ctx)
	if err != nil {
		return value, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dropped == before {
		k.value, k.at = value, time.Now()
	}
	return value, nil
}

func (k *kept[T]) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at = time.Time{}
	k.dropped++
}

// facts are what is kept of a server.
type facts struct {
	server    kept[*lxdapi.Server]
	resources kept[*lxdapi.Resources]
	pools     kept[[]*pool]
	networks  kept[[]*network]
	profiles  kept[[]string]
	images    kept[[]lxdapi.Image]
}

// happened drops what an event says has changed.
func (f *facts) happened(action string) {
	for prefix, drop := range map[string]func(){
		"storage-pool-": f.pools.drop, "network-": f.networks.drop, "profile-": f.profiles.drop, "image-": f.images.drop, "config-": f.server.drop,
	} {
		if strings.HasPrefix(action, prefix) {
			drop()
		}
	}
}

func (d *Driver) readServer(ctx context.Context) (*lxdapi.Server, error) {
	return d.facts.server.read(ctx, factsFor, func(ctx context.Context) (*lxdapi.Server, error) {
		s, err := get[lxdapi.Server](ctx, d.conn, "read the server", d.onMember("/1.0"))
		return &s, err
	})
}

func (d *Driver) resources(ctx context.Context, age time.Duration) (*lxdapi.Resources, error) {
	return d.facts.resources.read(ctx, age, func(ctx context.Context) (*lxdapi.Resources, error) {
		r, err := get[lxdapi.Resources](ctx, d.conn, "read the host's resources", d.onMember("/1.0/resources"))
		return &r, err
	})
}

func (d *Driver) readProfiles(ctx context.Context) ([]string, error) {
	return d.facts.profiles.read(ctx, factsFor, func(ctx context.Context) ([]string, error) {
		list, err := get[[]string](ctx, d.conn, "list profiles", d.in("/1.0/profiles"))
		if err != nil {
			return nil, err
		}
		out := make([]string, 0, len(list))
		for _, path := range list {
			out = append(out, lastOf(path))
		}
		slices.Sort(out)
		return out, nil
	})
}

// lastOf is the name at the end of a path of the API.
func lastOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	name := path[strings.LastIndexByte(path, '/')+1:]
	if plain, err := url.PathUnescape(name); err == nil {
		return plain
	}
	return name
}

func (d *Driver) readImages(ctx context.Context) ([]lxdapi.Image, error) {
	return d.facts.images.read(ctx, factsFor, func(ctx context.Context) ([]lxdapi.Image, error) {
		return get[[]lxdapi.Image](ctx, d.conn, "list images", d.in("/1.0/images", "recursion", "1"))
	})
}

// pool is a storage pool as LXD describes it.
type pool struct{ lxdapi.StoragePool }

func (p *pool) option(key string) string {
	if p == nil {
		return ""
	}
	return p.Config[key]
}

// block says whether volumes of the pool are devices, which need a size.
func (p *pool) block() bool { return p != nil && (p.Driver == "lvm" || p.Driver == "ceph") }

// thin says whether volumes take room only as they fill.
func (p *pool) thin() bool {
	return p.Driver != "lvm" || p.Config == nil || p.Config["lvm.use_thinpool"] != "false"
}

// shared is what is behind a pool on storage of its own (Ceph, a storage array),
// which every member of the cluster with that certificate has; empty for a pool on
// a member's disks. LXD gives such a pool one name on all members, and lets no other
// cluster use the same: what servers that are no cluster share, the operator says.
func (p *pool) shared(cluster string) string {
	if cluster == "" || !slices.Contains([]string{"ceph", "cephfs", "powerflex", "pure", "alletra"}, p.Driver) {
		return ""
	}
	return hypervisor.SharedIdentity(p.Driver, cluster, p.Name)
}

func (d *Driver) readPools(ctx context.Context) ([]*pool, error) {
	return d.facts.pools.read(ctx, factsFor, func(ctx context.Context) ([]*pool, error) {
		list, err := get[[]lxdapi.StoragePool](ctx, d.conn, "list storage pools", "/1.0/storage-pools?recursion=1")
		if err != nil {
			return nil, err
		}
		slices.SortFunc(list, func(a, b lxdapi.StoragePool) int { return strings.Compare(a.Name, b.Name) })
		out := make([]*pool, len(list))
		group, gctx := errgroup.WithContext(ctx)
		for n := range list {
			out[n] = &pool{list[n]}
			if d.member == "" {
				continue
			}
			// In a cluster the list leaves out what differs from member to member.
			group.Go(func() error {
				one, err := get[lxdapi.StoragePool](gctx, d.conn, "read storage pool "+out[n].Name, d.onMember("/1.0/storage-pools/"+url.PathEscape(out[n].Name)))
				if err == nil {
					out[n].StoragePool = one
				} else if unknown(err) {
					return err
				}
				return nil
			})
		}
		return out, group.Wait()
	})
}
