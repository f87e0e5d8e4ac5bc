package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	lv "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Machines reads all machines of the host, ours and foreign.
func (d *Driver) Machines(ctx context.Context) ([]*rackv1.MachineObservation, error) {
	if err := d.loadPoolsAndNetworks(ctx); err != nil {
		return nil, err
	}
	s, err := d.snapshot(ctx, listing)
	if err != nil {
		return nil, err
	}
	return d.observations(ctx, s), nil
}

// observations are all domains of a snapshot in the protocol's form.
func (d *Driver) observations(ctx context.Context, s *snapshot) []*rackv1.MachineObservation {
	pools, networks := d.facts.pools(), d.facts.networks()
	d.leases.forget(s.domains)
	for _, one := range s.domains {
		d.leases.note(one, networks)
	}
	// One call per network on which something runs, never one per machine.
	d.readLeases(ctx, leasedNetworks(s.domains, networks))
	out := make([]*rackv1.MachineObservation, 0, len(s.domains))
	for _, one := range s.domains {
		out = append(out, d.observation(one, pools, networks))
	}
	return out
}

// Inventory reads the host and all its machines from one bulk read.
func (d *Driver) Inventory(ctx context.Context) (*vmhostv1.VmHostObservation, []*rackv1.MachineObservation, error) {
	o, s, err := d.probe(ctx, whole)
	if err != nil {
		return nil, nil, err
	}
	return o, d.observations(ctx, s), nil
}

func leasedNetworks(domains []*seen, known []network) []string {
	set := map[string]bool{}
	var out []string
	for _, one := range domains {
		if !one.running() || one.record.domain == nil {
			continue
		}
		for _, i := range one.record.domain.interfaces {
			if n := leasedBy(i, known); n != "" && !set[n] {
				set[n] = true
				out = append(out, n)
			}
		}
	}
	return out
}

// Machine reads one machine by its UUID.
func (d *Driver) Machine(ctx context.Context, id string) (*rackv1.MachineObservation, error) {
	raw, err := parseUUID(id)
	if err != nil {
		return nil, err
	}
	one, err := d.look(ctx, raw)
	if err != nil {
		return nil, err
	}
	if one == nil {
		return nil, &hypervisor.Error{Class: hypervisor.ErrNotFound, Op: "read domain " + id, Err: errors.New("no domain has this UUID")}
	}
	if err := d.loadPoolsAndNetworks(ctx); err != nil {
		return nil, err
	}
	networks := d.facts.networks()
	d.leases.note(one, networks)
	d.readLeases(ctx, leasedNetworks([]*seen{one}, networks))
	return d.observation(one, d.facts.pools(), networks), nil
}

// look reads one domain; nil when it is not there.
func (d *Driver) look(ctx context.Context, id lv.UUID) (*seen, error) {
	dom, err := d.find(ctx, id)
	if err != nil || dom == nil {
		return nil, err
	}
	one := &seen{dom: *dom}
	stats, err := d.bulk(ctx, []lv.Domain{*dom})
	switch {
	case err == nil && len(stats) == 1:
		one = readStats(stats[0])
	case err != nil && number(err) == lv.ErrOk:
		return nil, err
	default:
		// It is there and no statistics of it are: the state at least.
		state, serr := call(ctx, d.conn, "read state of domain "+dom.Name, fast, func(a api) (int32, error) {
			state, _, err := a.DomainGetState(*dom, 0)
			return state, err
		})
		if serr != nil {
			if again, ferr := d.find(ctx, id); ferr != nil || again == nil {
				return nil, ferr
			}
			return nil, serr
		}
		one.state = lv.DomainState(state)
	}
	starting, err := call(ctx, d.conn, "list domains with autostart", fast, func(a api) ([]lv.Domain, error) {
		doms, _, err := a.ConnectListAllDomains(1, lv.ConnectListDomainsAutostart)
		return doms, err
	})
	if err != nil {
		return nil, err
	}
	for _, s := range starting {
		one.autostart = one.autostart || s.UUID == id
	}
	if one.record = d.library.find(one.dom); one.record == nil {
		if one.record, err = d.readOne(ctx, one.dom); err != nil || one.record == nil {
			return nil, err
		}
	}
	return one, nil
}

// observation is a domain in the protocol's form.
func (d *Driver) observation(one *seen, pools []pool, networks []network) *rackv1.MachineObservation {
	out := &rackv1.MachineObservation{
		Uuid: one.uuid(), Name: valid(one.dom.Name), PowerState: powerOf(one.state), Autostart: one.autostart, Problem: valid(one.record.problem),
		Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE,
	}
	x := one.record.domain
	if x == nil {
		return out
	}
	if x.ours() {
		// A clone with our metadata is not reported as ours: its uid is another
		// machine's.
		out.Uid, out.Operation = x.uid, x.operation
	}
	out.Cores, out.MemoryMib, out.Architecture, out.ConsoleLogPath = x.cores, x.memoryMiB, x.architecture, x.consoleLog
	out.PinnedCores, out.Hugepages, out.Firmware, out.SecureBoot = x.pinned, x.hugepages, x.firmware, x.secureBoot
	for _, k := range x.disks {
		poolName, volume := volumeOf(k, pools)
		out.Disks = append(out.Disks, &vmhostv1.MachineDisk{
			StoragePool: poolName, Volume: volume, Device: k.device, Path: k.path, SizeBytes: int64(one.block(k.device).capacity), Boot: k.boot,
		})
	}
	function := 0
	for _, i := range x.interfaces {
		n := &vmhostv1.MachineInterface{Mac: i.GetMac(), Source: i.GetSource(), Kind: i.GetKind(), MacvlanMode: i.GetMacvlanMode(), Vlan: i.GetVlan(), Boot: i.GetBoot()}
		switch i.GetKind() {
		case vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK:
			for _, known := range networks {
				if known.name == i.GetSource() {
					n.FixedAddress = known.fixed[i.GetMac()]
				}
				if known.name == i.GetSource() && known.functionsOf != "" {
					n.Kind, n.Source = vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, known.functionsOf
				}
			}
		case vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV:
			if n.GetSource() == "" && function < len(x.functions) {
				n.Source = d.facts.deviceOf(x.functions[function])
				function++
			}
		default:
		}
		if one.running() {
			if by := leasedBy(i, networks); by != "" {
				n.Addresses = slices.Clone(d.leases.of(by, i.GetMac()))
			}
		}
		out.Interfaces = append(out.Interfaces, n)
	}
	return out
}

// powerOf is libvirt's state in the protocol's words. A guest that is shutting
// down still runs; one in S3 is in memory and does not.
func powerOf(state lv.DomainState) vmhostv1.PowerState {
	switch state {
	case lv.DomainRunning, lv.DomainBlocked, lv.DomainShutdown:
		return vmhostv1.PowerState_POWER_STATE_ON
	case lv.DomainPaused, lv.DomainPmsuspended:
		return vmhostv1.PowerState_POWER_STATE_PAUSED
	case lv.DomainShutoff:
		return vmhostv1.PowerState_POWER_STATE_OFF
	case lv.DomainCrashed:
		return vmhostv1.PowerState_POWER_STATE_CRASHED
	case lv.DomainNostate:
	}
	return vmhostv1.PowerState_POWER_STATE_UNSPECIFIED
}

func parseUUID(s string) (lv.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return lv.UUID{}, &hypervisor.Error{Class: hypervisor.ErrRefused, Op: "read the machine's uid", Err: fmt.Errorf("%q is no UUID", s)}
	}
	return lv.UUID(id), nil
}
