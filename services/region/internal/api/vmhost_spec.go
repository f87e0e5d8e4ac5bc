package api

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/reach"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// hostPlace is what a host holds among the other records: its address, and
// references to a zone, a pool and perhaps a rack.
type hostPlace struct {
	host, address, zone, pool, rack string
}

// placeOf is the place of a stored host.
func placeOf(spec *vmhostv1.VmHost) (hostPlace, error) {
	address, err := hypervisor.ParseAddress(spec.GetAddress())
	if err != nil {
		return hostPlace{}, err
	}
	p := hostPlace{
		host: idOf(spec.GetName()), address: address.String(),
		zone: idOf(spec.GetZone()), pool: idOf(spec.GetResourcePool()), rack: idOf(spec.GetRack()),
	}
	if address.Transport == hypervisor.TransportUnix {
		// Each rack's machine has sockets of its own.
		p.address += "@" + p.rack
	}
	if spec.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		// One VM host is one server and project, in a cluster one member of it.
		p.address += "#" + spec.GetProject() + "/" + spec.GetClusterMember()
	}
	return p, nil
}

// references are the keys by which others see that the host uses them.
func (p hostPlace) references() []string {
	refs := []string{
		store.References.Key("zones", p.zone, "vmHosts", p.host),
		store.References.Key("pools", p.pool, "vmHosts", p.host),
	}
	if p.rack != "" {
		refs = append(refs, store.References.Key("racks", p.rack, "vmHosts", p.host))
	}
	return refs
}

// take records the place; what it refers to must be there.
func (p hostPlace) take(v *store.View, tx *store.Txn, spec *vmhostv1.VmHost) error {
	if err := mustExist(v, tx, store.Zones, "vm_host.zone", spec.GetZone()); err != nil {
		return err
	}
	if err := mustExist(v, tx, store.ResourcePools, "vm_host.resource_pool", spec.GetResourcePool()); err != nil {
		return err
	}
	store.Put(tx, store.References, &storev1.StoredReference{}, "zones", p.zone, "vmHosts", p.host)
	store.Put(tx, store.References, &storev1.StoredReference{}, "pools", p.pool, "vmHosts", p.host)
	if p.rack != "" {
		if err := mustExist(v, tx, store.Racks, "vm_host.rack", spec.GetRack()); err != nil {
			return err
		}
		store.Put(tx, store.References, &storev1.StoredReference{}, "racks", p.rack, "vmHosts", p.host)
	}
	key := store.EscapeID(p.address)
	taken, ok := store.Addresses.Get(v, key)
	if ok && taken.Value.GetVmHost() != p.host {
		other := vmHostsCollection + taken.Value.GetVmHost()
		return apierror.New(codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "the address %s is that of %s", spec.GetAddress(), other).
			With("resource", other).WithField("vm_host.address", "is that of "+other)
	}
	tx.IfRevision(store.Addresses.Key(key), taken.Revision)
	store.Put(tx, store.Addresses, &storev1.StoredAddress{VmHost: p.host}, key)
	return nil
}

// give removes what the place holds and next does not hold again.
func (p hostPlace) give(tx *store.Txn, next hostPlace) {
	if p.address != next.address {
		tx.Delete(store.Addresses.Key(store.EscapeID(p.address)))
	}
	keep := next.references()
	for _, ref := range p.references() {
		if !slices.Contains(keep, ref) {
			tx.Delete(ref)
		}
	}
}

// completeSpec fills in what the operator left out, and refuses what cannot be.
// before is the host as it was, nil for a new one.
func completeSpec(v *store.View, spec *vmhostv1.VmHost, credential *vmhostv1.Credential, before *vmhostv1.VmHost) (hostPlace, error) {
	address, err := checkAddress("vm_host.address", spec.GetType(), spec.GetAddress())
	if err != nil {
		return hostPlace{}, err
	}
	spec.Address = address.String()
	switch {
	case spec.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED:
		spec.Type = address.Type
	case spec.GetType() != address.Type && before != nil:
		return hostPlace{}, apierror.InvalidField("vm_host.address", "is that of another hypervisor; the type of a host never changes").
			WithHint("add it as another host")
	case spec.GetType() != address.Type:
		return hostPlace{}, apierror.InvalidField("vm_host.type", "is not that of the address %s", spec.GetAddress())
	}
	zone, err := reference("vm_host.zone", spec.GetZone(), zonesCollection, defaultID)
	if err != nil {
		return hostPlace{}, err
	}
	pool, err := reference("vm_host.resource_pool", spec.GetResourcePool(), resourcePoolsCollection, defaultID)
	if err != nil {
		return hostPlace{}, err
	}
	if _, err := reference("vm_host.rack", spec.GetRack(), racksCollection, ""); err != nil {
		return hostPlace{}, err
	}
	if err := completeProject(spec); err != nil {
		return hostPlace{}, err
	}
	if err := checkLabels(spec); err != nil {
		return hostPlace{}, err
	}
	spec.Zone, spec.ResourcePool = zonesCollection+zone, resourcePoolsCollection+pool
	spec.Overcommit = completeRatios(spec.GetOvercommit())
	moved := before == nil || before.GetAddress() != spec.GetAddress() || before.GetRack() != ""
	if address.Transport == hypervisor.TransportUnix && spec.GetRack() == "" && moved {
		if spec.Rack, err = onlyRackWithSocket(v, address); err != nil {
			return hostPlace{}, err
		}
	}
	// A host that keeps its credential was checked with it.
	if before == nil || credential != nil {
		if err := checkCredential("vm_host.credential", address, credential, true); err != nil {
			return hostPlace{}, err
		}
	}
	if spec.HostKey, err = tokenHostKey("vm_host.credential.lxd", "vm_host.host_key", spec.GetHostKey(), credential); err != nil {
		return hostPlace{}, err
	}
	if err := checkHostKey("vm_host.host_key", address, spec.GetHostKey()); err != nil {
		return hostPlace{}, err
	}
	if err := needHostKey(address, spec, credential, before); err != nil {
		return hostPlace{}, err
	}
	return placeOf(spec)
}

// completeProject fills in the project of an LXD host; other hosts have none.
func completeProject(spec *vmhostv1.VmHost) error {
	if spec.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		if spec.GetProject() == "" {
			spec.Project = defaultID
		}
		return nil
	}
	for field, value := range map[string]string{"project": spec.GetProject(), "cluster_member": spec.GetClusterMember(), "cluster_group": spec.GetClusterGroup()} {
		if value != "" {
			return apierror.InvalidField("vm_host."+field, "is set, and only LXD hosts have one")
		}
	}
	return nil
}

func completeRatios(o *vmhostv1.OvercommitRatios) *vmhostv1.OvercommitRatios {
	out := &vmhostv1.OvercommitRatios{Cores: proto.Float64(1), Memory: proto.Float64(1), Storage: proto.Float64(1)}
	if o != nil {
		proto.Merge(out, o)
	}
	return out
}

// onlyRackWithSocket is the rack whose machine a local address means: the only
// connected one that has the socket. When none is connected the host waits for
// one.
func onlyRackWithSocket(v *store.View, address hypervisor.Address) (string, error) {
	found := reach.Racks(v, address.String(), "", "")
	for i, rack := range found {
		found[i] = racksCollection + rack
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", apierror.InvalidField("vm_host.rack", "must be set: %s have the socket of %s", list(found), address).
		With("racks", list(found)).WithHint("name the rack whose machine is meant")
}

// needHostKey refuses a host whose key nobody has confirmed.
func needHostKey(address hypervisor.Address, spec *vmhostv1.VmHost, credential *vmhostv1.Credential, before *vmhostv1.VmHost) error {
	if spec.GetHostKey() != "" {
		return nil
	}
	switch address.Transport {
	case hypervisor.TransportSSH, hypervisor.TransportHTTPS:
	case hypervisor.TransportTLS:
		if credential.GetTls().GetCaPem() != "" || credential == nil && before.GetCredentialKind() == credentialTLS && before.GetHostKey() == "" {
			return nil
		}
	default:
		return nil
	}
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_REQUIRED, "the key of %s is not confirmed", spec.GetAddress()).
		WithField("vm_host.host_key", "is needed for this address").
		WithHint("look at it with `vmhostctl vm-host check %s`, compare it with the host's, and send it as host_key", spec.GetAddress())
}
