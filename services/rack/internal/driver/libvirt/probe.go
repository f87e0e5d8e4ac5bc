package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	lv "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"
	"libvirt.org/go/libvirtxml"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// thinPools are the types of pools in which a volume takes room only as it
// fills: by qcow2 in folders, by itself in the others.
var thinPools = map[string]bool{"dir": true, "fs": true, "netfs": true, "rbd": true, "zfs": true}

type nodeInfo struct {
	memoryKiB uint64
	cpus, mhz int32
}

// Probe reads everything of the host but its machines' list.
func (d *Driver) Probe(ctx context.Context) (*vmhostv1.VmHostObservation, error) {
	o, _, err := d.probe(ctx, probing)
	return o, err
}

// probe reads the host, and its domains as they are at that moment.
func (d *Driver) probe(ctx context.Context, by reader) (*vmhostv1.VmHostObservation, *snapshot, error) {
	var (
		info   nodeInfo
		static *staticFacts
		caps   *libvirtxml.Caps
		links  []*vmhostv1.HostNetwork
		s      *snapshot
		free   map[int32]map[uint32]uint64
		sriov  []sriovDevice
		secure bool
	)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { s, err = d.snapshot(gctx, by); return err })
	group.Go(func() error { return d.readPools(gctx) })
	group.Go(func() (err error) {
		if err = d.readNetworks(gctx); err != nil {
			return err
		}
		if links, err = d.readLinks(gctx); err != nil {
			return err
		}
		sriov, err = d.readSriov(gctx)
		return err
	})
	group.Go(func() (err error) {
		if info, err = d.nodeInfo(gctx); err != nil {
			return err
		}
		if static, err = d.readStatic(gctx); err != nil {
			return err
		}
		if caps, err = d.capabilities(gctx); err != nil {
			return err
		}
		if free, err = d.freePages(gctx, caps); err != nil {
			return err
		}
		secure, err = d.secureBoot(gctx, caps)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	pools := d.facts.pools()
	ours, foreign := usage(s, pools)
	unclaimed := d.unclaimed(ctx, s, pools)
	out := &vmhostv1.VmHostObservation{
		ObserveTime:       timestamppb.New(s.taken),
		HypervisorVersion: fmt.Sprintf("QEMU %s / libvirt %s", versionOf(static.driver), versionOf(static.libvirt)),
		Hostname:          valid(static.hostname),
		Architectures:     architectures(caps),
		Cores:             info.cpus,
		CpuMhz:            info.mhz,
		CpuModel:          cpuModel(caps),
		MemoryMib:         int64(info.memoryKiB >> 10),
		NumaNodes:         numaNodes(caps, free),
		Networks:          hostNetworks(d.facts.networks(), links),
		Kvm:               hasKVM(caps, ""),
		Foreign:           foreign,
		HostUuid:          strings.ToLower(caps.Host.UUID),
		SriovDevices:      observedSriov(sriov, d.facts.networks(), s.domains),
	}
	for _, p := range pools {
		out.StoragePools = append(out.StoragePools, &vmhostv1.StoragePool{
			Name: p.name, Type: p.kind, Path: p.path, Active: p.active, Thin: thinPools[p.kind], Problem: p.problem,
			CapacityBytes: int64(p.capacity), AllocationBytes: int64(p.allocation), AvailableBytes: int64(p.available),
			OursBytes: int64(min(ours[p.name], p.allocation)), Shared: p.shared, UnclaimedBytes: unclaimed[p.name],
		})
	}
	out.Capabilities = words(out, secure)
	return out, s, nil
}

// words are the capabilities that requests can ask for.
func words(o *vmhostv1.VmHostObservation, secure bool) []string {
	out := []string{"virtual-machines"}
	if secure {
		out = append(out, "secure-boot")
	}
	if len(o.GetSriovDevices()) > 0 {
		out = append(out, "sr-iov")
	}
	if o.GetKvm() {
		out = append(out, "kvm")
	}
	if slices.ContainsFunc(o.GetNumaNodes(), func(n *vmhostv1.NumaNode) bool {
		return slices.ContainsFunc(n.GetHugePages(), func(h *vmhostv1.HugePages) bool { return h.GetTotal() > 0 })
	}) {
		out = append(out, "hugepages")
	}
	if slices.ContainsFunc(o.GetStoragePools(), func(p *vmhostv1.StoragePool) bool { return p.GetThin() && p.GetActive() }) {
		out = append(out, "thin-volumes")
	}
	slices.Sort(out)
	return out
}

// usage sums up what our volumes have allocated in each pool, and what foreign
// machines have. A volume counts once, however many domains have it.
func usage(s *snapshot, pools []pool) (ours map[string]uint64, foreign *vmhostv1.ForeignUsage) {
	ours, foreign = map[string]uint64{}, &vmhostv1.ForeignUsage{}
	counted := map[[2]string]bool{}
	for _, one := range s.domains {
		x := one.record.domain
		if !x.ours() {
			foreign.Machines++
			if x != nil {
				foreign.Cores += x.cores
				foreign.MemoryMib += x.memoryMiB
			}
			continue
		}
		for _, k := range x.disks {
			poolName, volume := volumeOf(k, pools)
			// Volumes of adopted machines have other names; they are not committed, and
			// stay among what others have allocated.
			if key := [2]string{poolName, volume}; strings.HasPrefix(volume, volumePrefix(x.uid)) && !counted[key] {
				counted[key] = true
				ours[poolName] += one.block(k.device).allocation
			}
		}
	}
	return ours, foreign
}

func (d *Driver) nodeInfo(ctx context.Context) (nodeInfo, error) {
	return call(ctx, d.conn, "read the host's size", fast, func(a api) (nodeInfo, error) {
		_, memory, cpus, mhz, _, _, _, _, err := a.NodeGetInfo()
		return nodeInfo{memoryKiB: memory, cpus: cpus, mhz: max(mhz, 0)}, err
	})
}

func (d *Driver) readStatic(ctx context.Context) (*staticFacts, error) {
	d.facts.mu.Lock()
	kept := d.facts.static
	d.facts.mu.Unlock()
	if kept != nil {
		return kept, nil
	}
	var (
		out staticFacts
		err error
	)
	if out.hostname, err = call(ctx, d.conn, "read the host's name", fast, func(a api) (string, error) { return a.ConnectGetHostname() }); err != nil {
		return nil, err
	}
	if out.libvirt, err = call(ctx, d.conn, "read libvirt's version", fast, func(a api) (uint64, error) { return a.ConnectGetLibVersion() }); err != nil {
		return nil, err
	}
	if out.driver, err = call(ctx, d.conn, "read QEMU's version", fast, func(a api) (uint64, error) { return a.ConnectGetVersion() }); err != nil {
		return nil, err
	}
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.static = &out
	return &out, nil
}

func versionOf(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1_000%1_000, v%1_000)
}

func (d *Driver) capabilities(ctx context.Context) (*libvirtxml.Caps, error) {
	d.facts.mu.Lock()
	kept, at := d.facts.caps, d.facts.capsAt
	d.facts.mu.Unlock()
	if kept != nil && time.Since(at) < slowFactsFor {
		return kept, nil
	}
	text, err := call(ctx, d.conn, "read the host's capabilities", fast, func(a api) (string, error) { return a.ConnectGetCapabilities() })
	if err != nil {
		return nil, err
	}
	var caps libvirtxml.Caps
	if err := xml.Unmarshal([]byte(text), &caps); err != nil {
		return nil, classify("read the host's capabilities", err)
	}
	d.facts.mu.Lock()
	defer d.facts.mu.Unlock()
	d.facts.caps, d.facts.capsAt = &caps, time.Now()
	return &caps, nil
}

// hasKVM says whether guests of an architecture, empty for the host's own, run
// by KVM. libvirt lists the domain type only if it could open /dev/kvm.
func hasKVM(caps *libvirtxml.Caps, architecture string) bool {
	if architecture == "" && caps.Host.CPU != nil {
		architecture = caps.Host.CPU.Arch
	}
	for _, g := range caps.Guests {
		if g.OSType == "hvm" && g.Arch.Name == architecture &&
			slices.ContainsFunc(g.Arch.Domains, func(d libvirtxml.CapsGuestDomain) bool { return d.Type == "kvm" }) {
			return true
		}
	}
	return false
}

// architectures are those that machines can be made for here: those that the
// host can run and this package can define. The host's own first, then those
// with KVM.
func architectures(caps *libvirtxml.Caps) []string {
	var out []string
	for _, g := range caps.Guests {
		if g.OSType == "hvm" && machineTypes[g.Arch.Name] != "" && !slices.Contains(out, g.Arch.Name) {
			out = append(out, g.Arch.Name)
		}
	}
	rank := func(a string) int {
		switch {
		case caps.Host.CPU != nil && a == caps.Host.CPU.Arch:
			return 0
		case hasKVM(caps, a):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	return out
}

func cpuModel(caps *libvirtxml.Caps) string {
	if caps.Host.CPU == nil {
		return ""
	}
	return caps.Host.CPU.Model
}

// basePage is the smallest page size, KiB; larger ones are huge.
const basePage = 4

func cells(caps *libvirtxml.Caps) []libvirtxml.CapsHostNUMACell {
	if caps.Host.NUMA == nil || caps.Host.NUMA.Cells == nil {
		return nil
	}
	return caps.Host.NUMA.Cells.Cells
}

func numaNodes(caps *libvirtxml.Caps, free map[int32]map[uint32]uint64) []*vmhostv1.NumaNode {
	var out []*vmhostv1.NumaNode
	for _, c := range cells(caps) {
		n := &vmhostv1.NumaNode{Id: int32(c.ID)}
		if c.Memory != nil {
			n.MemoryMib, _ = mebibytes(strconv.FormatUint(c.Memory.Size, 10), c.Memory.Unit)
		}
		if c.CPUS != nil {
			for _, cpu := range c.CPUS.CPUs {
				n.Cores = append(n.Cores, int32(cpu.ID))
			}
		}
		for _, p := range c.PageInfo {
			if p.Size > basePage {
				n.HugePages = append(n.HugePages, &vmhostv1.HugePages{
					SizeKib: int64(p.Size), Total: int64(p.Count), Free: int64(free[int32(c.ID)][uint32(p.Size)]),
				})
			}
		}
		out = append(out, n)
	}
	return out
}

// freePages reads the free huge pages of all nodes by one call.
func (d *Driver) freePages(ctx context.Context, caps *libvirtxml.Caps) (map[int32]map[uint32]uint64, error) {
	var sizes []uint32
	list := cells(caps)
	for _, c := range list {
		for _, p := range c.PageInfo {
			if p.Size > basePage && p.Count > 0 && !slices.Contains(sizes, uint32(p.Size)) {
				sizes = append(sizes, uint32(p.Size))
			}
		}
	}
	out := map[int32]map[uint32]uint64{}
	if len(sizes) == 0 {
		return out, nil
	}
	for _, c := range list {
		counts, err := call(ctx, d.conn, "read free huge pages", fast, func(a api) ([]uint64, error) {
			return a.NodeGetFreePages(sizes, int32(c.ID), 1, 0)
		})
		if err != nil && number(err) == lv.ErrOk {
			return nil, err
		}
		byPage := map[uint32]uint64{}
		for i, n := range counts {
			if i < len(sizes) {
				byPage[sizes[i]] = n
			}
		}
		out[int32(c.ID)] = byPage
	}
	return out, nil
}
