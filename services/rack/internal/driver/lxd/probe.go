package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	lxdapi "github.com/canonical/lxd/shared/api"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// mostImages is how many images of a server are shown.
const mostImages = 1000

// Probe reads everything of the host but its machines' list.
func (d *Driver) Probe(ctx context.Context) (*vmhostv1.VmHostObservation, error) {
	o, _, err := d.probe(ctx)
	return o, err
}

// reading is what one probe reads. What the certificate may not see stays empty,
// and is in problems.
type reading struct {
	listing   *listing
	server    *lxdapi.Server
	resources *lxdapi.Resources
	pools     []*pool
	space     []poolSpace
	networks  []*network
	profiles  []string
	images    []lxdapi.Image
	members   []lxdapi.ClusterMember

	mu       sync.Mutex
	problems []string
}

type poolSpace struct {
	resources *lxdapi.ResourcesStoragePool
	problem   string
}

// tolerate notes what could not be read, unless it is the connection.
func (r *reading) tolerate(what string, err error) error {
	if err == nil || unknown(err) || errors.Is(err, hypervisor.ErrAuth) || errors.Is(err, hypervisor.ErrHostKey) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, what+": "+err.Error())
	return nil
}

func (d *Driver) probe(ctx context.Context) (*vmhostv1.VmHostObservation, *listing, error) {
	r := &reading{}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { r.listing, err = d.listAll(gctx); return err })
	group.Go(func() (err error) { r.server, err = d.readServer(gctx); return err })
	group.Go(func() (err error) {
		r.resources, err = d.resources(gctx, resourcesFor)
		return r.tolerate("the host's resources", err)
	})
	group.Go(func() (err error) {
		r.pools, err = d.readPools(gctx)
		if err = r.tolerate("storage pools", err); err != nil {
			return err
		}
		r.space, err = d.readSpace(gctx, r.pools)
		return err
	})
	group.Go(func() (err error) {
		r.networks, err = d.readNetworks(gctx)
		return r.tolerate("networks", err)
	})
	group.Go(func() (err error) {
		r.profiles, err = d.readProfiles(gctx)
		return r.tolerate("profiles", err)
	})
	group.Go(func() (err error) {
		r.images, err = d.readImages(gctx)
		return r.tolerate("images", err)
	})
	if d.member != "" {
		group.Go(func() (err error) {
			r.members, err = d.readMembers(gctx)
			return r.tolerate("cluster members", err)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	return d.described(r), r.listing, nil
}

// readSpace reads how full pools are, one call each.
func (d *Driver) readSpace(ctx context.Context, pools []*pool) ([]poolSpace, error) {
	out := make([]poolSpace, len(pools))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(idleConns / 2)
	for n, p := range pools {
		group.Go(func() error {
			res, err := d.poolResources(gctx, p.Name)
			switch {
			case err == nil:
				out[n].resources = res
			case unknown(err):
				return err
			default:
				out[n].problem = err.Error()
			}
			return nil
		})
	}
	return out, group.Wait()
}

func (d *Driver) poolResources(ctx context.Context, name string) (*lxdapi.ResourcesStoragePool, error) {
	res, err := get[lxdapi.ResourcesStoragePool](ctx, d.conn, "read storage pool "+name, d.onMember("/1.0/storage-pools/"+url.PathEscape(name)+"/resources"))
	return &res, err
}

// described is what was read in the protocol's form.
func (d *Driver) described(r *reading) *vmhostv1.VmHostObservation {
	env := r.server.Environment
	out := &vmhostv1.VmHostObservation{
		ObserveTime:       timestamppb.New(r.listing.taken),
		HypervisorVersion: "LXD " + env.ServerVersion + " / " + drivers(env),
		Hostname:          env.ServerName,
		Architectures:     slices.Clone(env.Architectures),
		Networks:          hostNetworks(r.networks),
		Kvm:               runs(r.server, "qemu"),
		Project:           d.project, ClusterMember: d.member, ClusterMembers: members(r.members),
		Profiles: slices.Clone(r.profiles),
	}
	if r.listing.partial {
		r.problems = append(r.problems, fmt.Sprintf("instances of other projects: the host's certificate is restricted; only those of project %q are counted", d.project))
	}
	if r.pools != nil && r.server.Config == nil {
		r.problems = append(r.problems, "details of storage pools and networks: the host's certificate is restricted")
	}
	d.describeHardware(out, r)
	d.describePools(out, r)
	d.describeImages(out, r.images)
	out.Foreign = d.foreign(r.listing.instances, out.GetMemoryMib())
	out.Capabilities = capabilities(out, r.server)
	slices.Sort(r.problems)
	for _, p := range r.problems {
		out.Problems = append(out.Problems, strings.ToValidUTF8(p, "\uFFFD"))
	}
	return out
}

// drivers are LXD's drivers with their versions.
func drivers(env lxdapi.ServerEnvironment) string {
	names, versions := strings.Split(env.Driver, " | "), strings.Split(env.DriverVersion, " | ")
	parts := make([]string, 0, len(names))
	for n, name := range names {
		if n < len(versions) {
			name += " " + versions[n]
		}
		parts = append(parts, name)
	}
	slices.Sort(parts)
	return strings.Join(parts, " / ")
}

// runs says whether a server has a driver: lxc makes containers, qemu virtual
// machines.
func runs(s *lxdapi.Server, driver string) bool {
	return slices.ContainsFunc(strings.Split(s.Environment.Driver, "|"), func(d string) bool { return strings.TrimSpace(d) == driver })
}

func (d *Driver) describePools(out *vmhostv1.VmHostObservation, r *reading) {
	ours := d.addresses.usage(r.listing.instances, d.ours)
	for n, p := range r.pools {
		o := &vmhostv1.StoragePool{
			Name: p.Name, Type: p.Driver, Path: p.option("source"), Thin: p.thin(), Problem: r.space[n].problem,
			Active: p.Status == "Created" && r.space[n].problem == "", Shared: p.shared(r.server.Environment.CertificateFingerprint),
		}
		if s := r.space[n].resources; s != nil {
			o.CapacityBytes, o.AllocationBytes = int64(s.Space.Total), int64(min(s.Space.Used, s.Space.Total))
			o.AvailableBytes = o.GetCapacityBytes() - o.GetAllocationBytes()
		}
		o.OursBytes = min(ours[p.Name], o.GetAllocationBytes())
		out.StoragePools = append(out.StoragePools, o)
	}
}

func (d *Driver) describeImages(out *vmhostv1.VmHostObservation, images []lxdapi.Image) {
	for _, i := range images[:min(len(images), mostImages)] {
		o := &vmhostv1.HostImage{
			Fingerprint: i.Fingerprint, Architecture: i.Architecture, Description: strings.ToValidUTF8(i.Properties["description"], "\uFFFD"), SizeBytes: i.Size,
			Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER,
		}
		if i.Type == typeVM {
			o.Type = vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE
		}
		for _, a := range i.Aliases {
			o.Aliases = append(o.Aliases, a.Name)
		}
		slices.Sort(o.GetAliases())
		out.Images = append(out.Images, o)
	}
	slices.SortFunc(out.GetImages(), func(a, b *vmhostv1.HostImage) int { return strings.Compare(a.GetFingerprint(), b.GetFingerprint()) })
}

// foreign sums up what instances that are not ours use, whether they run or not.
func (d *Driver) foreign(list []*instance, hostMiB int64) *vmhostv1.ForeignUsage {
	out := &vmhostv1.ForeignUsage{}
	for _, i := range list {
		if d.ours(i) {
			continue
		}
		out.Machines++
		cores, pinned, _ := cpuLimit(i.option("limits.cpu"))
		memory, _ := memoryLimit(i.option("limits.memory"), hostMiB)
		out.Cores += cores
		out.MemoryMib += memory
		out.PinnedCores = append(out.PinnedCores, pinned...)
	}
	slices.Sort(out.GetPinnedCores())
	out.PinnedCores = slices.Compact(out.GetPinnedCores())
	return out
}

// capabilities are the capabilities that requests can ask for.
func capabilities(o *vmhostv1.VmHostObservation, server *lxdapi.Server) []string {
	var out []string
	if runs(server, "lxc") {
		out = append(out, "containers")
	}
	if runs(server, "qemu") {
		// LXD runs virtual machines by KVM only, and always with UEFI.
		out = append(out, "virtual-machines", "kvm", "secure-boot")
	}
	if slices.ContainsFunc(o.GetNumaNodes(), func(n *vmhostv1.NumaNode) bool { return len(n.GetHugePages()) > 0 }) {
		out = append(out, "hugepages")
	}
	if slices.ContainsFunc(o.GetSriovDevices(), func(s *vmhostv1.SriovDevice) bool { return s.GetFunctions() > 0 }) {
		out = append(out, "sr-iov")
	}
	if slices.ContainsFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetThin() && p.GetActive() }) {
		out = append(out, "thin-volumes")
	}
	slices.Sort(out)
	return out
}
