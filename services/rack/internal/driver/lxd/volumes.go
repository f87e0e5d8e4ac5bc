package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Kinds of volumes, in LXD's words.
const (
	contentBlock      = "block"
	contentFilesystem = "filesystem"
)

// rounding is how much LXD may round the size of a volume up to: the largest
// extent of an LVM pool that is in use.
const rounding = 256 << 20

// What volumes that are made here are described with, around the name of the
// instance.
const volumeOwner, volumeMaker = "Disk of ", ", made by vmhost"

func volumeMadeFor(description string) bool {
	return strings.HasPrefix(description, volumeOwner) && strings.HasSuffix(description, volumeMaker)
}

// volumeKey names a custom volume of a server.
type volumeKey struct{ pool, project, name string }

// volumes are the sizes of the custom volumes of instances. LXD tells by event
// when one changes.
type volumes struct {
	mu      sync.Mutex
	sizes   map[string]map[volumeKey]int64 // by pool
	at      map[string]time.Time
	changes uint64
}

func newVolumes() *volumes {
	return &volumes{sizes: map[string]map[volumeKey]int64{}, at: map[string]time.Time{}}
}

func (v *volumes) drop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes++
	clear(v.at)
}

// volumeSizes answers the sizes of the custom volumes of instances, by one call
// per pool that has any, when it is not kept.
func (d *Driver) volumeSizes(ctx context.Context, list []*instance) (map[volumeKey]int64, error) {
	out := map[volumeKey]int64{}
	for _, p := range customPools(list, d.project) {
		sizes, err := d.volumesOf(ctx, p)
		if err != nil {
			if unknown(err) {
				return nil, err
			}
			continue // the disks are there without their sizes
		}
		for k, size := range sizes {
			out[k] = size
		}
	}
	return out, nil
}

// customPools are the pools of custom volumes that instances of a project have.
func customPools(list []*instance, project string) []string {
	var out []string
	seen := map[string]bool{}
	for _, i := range list {
		if i.Project != project {
			continue
		}
		for _, dev := range i.expanded() {
			if p := dev["pool"]; dev["type"] == "disk" && p != "" && dev["source"] != "" && !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}

func (d *Driver) volumesOf(ctx context.Context, poolName string) (map[volumeKey]int64, error) {
	v := d.volumes
	v.mu.Lock()
	sizes, at, before := v.sizes[poolName], v.at[poolName], v.changes
	v.mu.Unlock()
	if !at.IsZero() && time.Since(at) < factsFor {
		return sizes, nil
	}
	list, err := get[[]lxdapi.StorageVolume](ctx, d.conn, "list volumes of storage pool "+poolName,
		d.onMember(d.in("/1.0/storage-pools/"+url.PathEscape(poolName)+"/volumes/custom", "recursion", "1")))
	if err != nil {
		return nil, err
	}
	sizes = map[volumeKey]int64{}
	for _, vol := range list {
		// A volume without a size may grow as far as its pool.
		size, _ := byteSize(firstOf(vol.Config["size"], vol.Config["volatile.size"], "0"))
		sizes[volumeKey{poolName, d.project, vol.Name}] = size
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changes == before {
		v.sizes[poolName], v.at[poolName] = sizes, time.Now()
	}
	return sizes, nil
}

// usablePool finds a pool by the list of pools, the only proof that it is not
// there.
func (d *Driver) usablePool(ctx context.Context, name string) (*pool, error) {
	d.facts.pools.drop()
	list, err := d.readPools(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if p.Name != name {
			continue
		}
		if p.Status != "Created" {
			return p, &hypervisor.Error{
				Class: hypervisor.ErrRefused, Op: "find storage pool " + name, Err: fmt.Errorf("storage pool %q is %s", name, p.Status),
				Hint: "`lxc storage show " + name + "` on the server says more",
			}
		}
		return p, nil
	}
	return nil, &hypervisor.Error{
		Class: hypervisor.ErrNotFound, Op: "find storage pool " + name, Err: fmt.Errorf("the server has no storage pool %q", name),
		Hint: "refresh the host and choose one of its storage pools",
	}
}

// roomFor refuses a disk that the pool can never hold, and in a pool that is not
// thin one that it cannot hold now.
func (d *Driver) roomFor(ctx context.Context, p *pool, size int64, what string) error {
	res, err := d.poolResources(ctx, p.Name)
	if err != nil {
		if unknown(err) {
			return err
		}
		return nil // a certificate that may not see it; LXD will say
	}
	total, free := int64(res.Space.Total), int64(res.Space.Total)-int64(res.Space.Used)
	if total > 0 && (size > total || (!p.thin() && size > free)) {
		said := units.Bytes.Say(units.Room(total), units.Room(max(free, 0)), units.Need(size))
		return &hypervisor.Error{
			Class: hypervisor.ErrCapacity, Op: "make " + what,
			Err: fmt.Errorf("storage pool %q has %s, of which %s are free; the disk needs %s", p.Name, said[0], said[1], said[2]),
		}
	}
	return nil
}

// full classes a failed creation by what is left in the pool, where LXD's words
// did not.
func (d *Driver) full(ctx context.Context, p *pool, size int64, cause error) error {
	if e, ok := errors.AsType[*hypervisor.Error](cause); !ok || e.Class != nil {
		return cause
	}
	res, err := d.poolResources(ctx, p.Name)
	if err != nil || res.Space.Total == 0 {
		return cause
	}
	need := size
	if p.thin() {
		need = 4 << 20
	}
	if int64(res.Space.Total)-int64(res.Space.Used) >= need {
		return cause
	}
	return &hypervisor.Error{Class: hypervisor.ErrCapacity, Op: opCreate, Err: fmt.Errorf("storage pool %q is full: %w", p.Name, cause)}
}

func (d *Driver) volumePath(poolName, name string) string {
	return d.onMember(d.in("/1.0/storage-pools/" + url.PathEscape(poolName) + "/volumes/custom/" + url.PathEscape(name)))
}

// findVolume reads a custom volume; nil when it is not there.
func (d *Driver) findVolume(ctx context.Context, poolName, name string) (*lxdapi.StorageVolume, error) {
	v, err := get[lxdapi.StorageVolume](ctx, d.conn, "find volume "+name, d.volumePath(poolName, name))
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil, nil //nolint:nilnil // absent is no error
	}
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// makeVolume makes the volume of a disk, or takes the one that a broken create of
// the same machine left behind. created says whether this call made it.
func (d *Driver) makeVolume(ctx context.Context, m *vmhostv1.Machine, k *vmhostv1.MachineDisk, content string) (created bool, err error) {
	p, err := d.usablePool(ctx, k.GetStoragePool())
	if err != nil {
		return false, err
	}
	v, err := d.findVolume(ctx, p.Name, k.GetVolume())
	if err != nil {
		return false, err
	}
	if v != nil {
		return false, takeVolume(v, p.Name, m.GetUid(), k, content)
	}
	what := "volume " + k.GetVolume()
	if err := d.roomFor(ctx, p, k.GetSizeBytes(), what); err != nil {
		return false, err
	}
	post := lxdapi.StorageVolumesPost{Name: k.GetVolume(), Type: "custom", ContentType: content}
	post.Description = volumeOwner + m.GetHypervisorName() + volumeMaker
	post.Config = map[string]string{"size": strconv.FormatInt(k.GetSizeBytes(), 10), labelUID: m.GetUid()}
	path := d.onMember(d.in("/1.0/storage-pools/" + url.PathEscape(p.Name) + "/volumes/custom"))
	err = d.change(ctx, "make "+what, http.MethodPost, path, post, "")
	d.volumes.drop()
	return err == nil, d.full(ctx, p, k.GetSizeBytes(), err)
}

// takeVolume uses a volume that is there, if it is ours and as large as asked.
func takeVolume(v *lxdapi.StorageVolume, poolName, uid string, k *vmhostv1.MachineDisk, content string) error {
	foreign := func(why string) error {
		return &hypervisor.Error{Class: hypervisor.ErrForeign, Op: "make volume " + v.Name, Err: fmt.Errorf("storage pool %q has a volume %q %s", poolName, v.Name, why)}
	}
	if !strings.HasPrefix(v.Name, volumePrefix(uid)) {
		return foreign("that vmhost did not make for this machine")
	}
	if v.ContentType != "" && v.ContentType != content {
		return foreign("of the kind " + v.ContentType + ", where this machine's is " + content)
	}
	size, err := byteSize(firstOf(v.Config["size"], "0"))
	if err != nil || size < k.GetSizeBytes() || size > k.GetSizeBytes()+rounding {
		said := units.Bytes.Say(units.Room(size), units.Need(k.GetSizeBytes()))
		return foreign(fmt.Sprintf("of %s, where this machine's has %s", said[0], said[1]))
	}
	return nil
}

func (d *Driver) deleteVolume(ctx context.Context, poolName, name string) error {
	err := d.change(ctx, "delete volume "+name, http.MethodDelete, d.volumePath(poolName, name), nil, "")
	d.volumes.drop()
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil
	}
	return err
}

// removeVolume removes the volume of a disk and answers when the pool was seen
// without it. A volume that an instance has stays.
func (d *Driver) removeVolume(ctx context.Context, uid string, k *vmhostv1.MachineDisk) error {
	op := "delete volume " + k.GetVolume()
	if !strings.HasPrefix(k.GetVolume(), volumePrefix(uid)) {
		return nil // it was there before the machine was adopted
	}
	v, err := d.findVolume(ctx, k.GetStoragePool(), k.GetVolume())
	if err != nil || v == nil {
		return err
	}
	if user := userOf(v); user != "" {
		return &hypervisor.Error{
			Class: hypervisor.ErrBusy, Op: op, Err: fmt.Errorf("instance %q uses the volume", user),
			Hint: "detach the volume from that instance, which vmhost did not make",
		}
	}
	err = d.deleteVolume(ctx, k.GetStoragePool(), k.GetVolume())
	if unknown(err) {
		return err
	}
	still, ferr := d.findVolume(ctx, k.GetStoragePool(), k.GetVolume())
	switch {
	case ferr != nil:
		return ferr
	case still == nil:
		return nil
	case err != nil:
		return err
	}
	return &hypervisor.Error{Class: hypervisor.ErrBusy, Op: op, Err: errors.New("the volume is still there")}
}

// userOf is an instance that has a volume, empty when none has.
func userOf(v *lxdapi.StorageVolume) string {
	for _, path := range v.UsedBy {
		if strings.Contains(path, "/instances/") {
			return lastOf(path)
		}
	}
	return ""
}
