package api

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Paths of the update mask of a host.
func mutableHostFields() []string {
	return []string{
		"display_name", "address", "zone", "resource_pool", "tags", "overcommit", "overcommit.cores", "overcommit.memory", "overcommit.storage",
		"default_storage_pool", "default_macvlan_mode", "rack", "host_key", "credential",
		"reserved_cores", "reserved_memory_mib", "network_labels", "storage_pool_labels", "shared_storage_pools",
	}
}

func fixedHostFields() []string {
	return []string{
		"uid", "type", "create_time", "update_time", "cordoned", "state", "conditions", "assigned_rack", "observation", "usage", "credential_kind",
		"credential_info", "project", "cluster_member", "cluster_group",
	}
}

// UpdateVmHost changes what the mask names.
func (s *vmHosts) UpdateVmHost(ctx context.Context, req *vmhostv1.UpdateVmHostRequest) (*vmhostv1.VmHost, error) {
	in := req.GetVmHost()
	name := in.GetName()
	if err := needName("vm_host.name", name, vmHostsCollection); err != nil {
		return nil, err
	}
	mask, err := fields(req.GetUpdateMask(), mutableHostFields(), fixedHostFields())
	if err != nil {
		return nil, err
	}
	return mutate(ctx, s.base, vmhostv1.VmHostService_UpdateVmHost_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.VmHost, error) {
		r, ok := store.VmHosts.Get(v, idOf(name))
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, in.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		credential, err := s.sentCredential(v, r.Value.GetResource(), in)
		if err != nil {
			return nil, err
		}
		stored, err := s.updated(v, tx, r.Value, in, credential, mask)
		if err != nil {
			return nil, err
		}
		tx.IfRevision(store.VmHosts.Key(idOf(name)), r.Revision)
		store.Put(tx, store.VmHosts, stored, idOf(name))
		if mask["shared_storage_pools"] {
			observed := observedNow(v, stored.GetResource())
			tx.IfRevision(store.Observed.Key(idOf(name)), observed.Revision)
			ledger.FollowPools(tx, v, idOf(name), stored.GetResource(), observed.Value.GetObservation())
		}
		addEvent(ctx, tx, "vm_host.updated", name, name)
		return view.VmHost(v, s.seen, s.fleets, store.Record[*storev1.StoredVmHost]{Value: stored, Revision: r.Revision}), nil
	})
}

// updated is the host after the update; tx gets what changes around it.
func (s *vmHosts) updated(v *store.View, tx *store.Txn, before *storev1.StoredVmHost, in *vmhostv1.VmHost, sent *vmhostv1.Credential, mask map[string]bool) (*storev1.StoredVmHost, error) {
	stored := proto.CloneOf(before)
	spec := stored.GetResource()
	apply(spec, in, mask)
	var credential *vmhostv1.Credential
	if mask["credential"] {
		// A mask without a value takes the credential away.
		if credential = sent; credential == nil {
			credential = &vmhostv1.Credential{}
		}
	}
	if err := knownStoragePool(v, spec, mask); err != nil {
		return nil, err
	}
	next, err := s.completeUpdate(v, spec, credential, before.GetResource())
	if err != nil {
		return nil, err
	}
	last, err := placeOf(before.GetResource())
	if err != nil {
		return nil, err
	}
	last.give(tx, next)
	if err := next.take(v, tx, spec); err != nil {
		return nil, err
	}
	if mask["credential"] {
		if err := s.putCredential(tx, spec, credential); err != nil {
			return nil, err
		}
		stored.ForgetTrustSecret = hasTrustSecret(credential)
	}
	spec.UpdateTime = timestamppb.Now()
	old := before.GetResource()
	if mask["credential"] || spec.GetAddress() != old.GetAddress() || spec.GetHostKey() != old.GetHostKey() {
		if stored.ConnectionVersion, err = newUID(); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

// completeUpdate is completeSpec for a credential that may have been taken away.
func (s *vmHosts) completeUpdate(v *store.View, spec *vmhostv1.VmHost, credential *vmhostv1.Credential, before *vmhostv1.VmHost) (hostPlace, error) {
	if credential != nil && credentialKind(credential) == credentialNone {
		// For an address that takes none this is right; for another the check says
		// what is missing, as for a new host.
		fresh := proto.CloneOf(before)
		fresh.CredentialKind = credentialNone
		address, err := checkAddress("vm_host.address", spec.GetType(), spec.GetAddress())
		if err != nil {
			return hostPlace{}, err
		}
		if err := checkCredential("vm_host.credential", address, nil, true); err != nil {
			return hostPlace{}, err
		}
		return completeSpec(v, spec, nil, fresh)
	}
	if credential == nil && before.GetCredentialKind() != credentialNone {
		if err := keepsCredential(spec, before); err != nil {
			return hostPlace{}, err
		}
	}
	return completeSpec(v, spec, credential, before)
}

// keepsCredential refuses an address for which the stored credential is of the
// wrong kind.
func keepsCredential(spec, before *vmhostv1.VmHost) error {
	now, err := checkAddress("vm_host.address", spec.GetType(), spec.GetAddress())
	if err != nil {
		return err
	}
	was, err := checkAddress("vm_host.address", before.GetType(), before.GetAddress())
	if err != nil {
		return err
	}
	if now.Transport != was.Transport {
		return apierror.InvalidField("vm_host.credential", "must be sent with this address: the stored one is for %s", was.Transport)
	}
	return nil
}

// apply copies what the mask names.
func apply(spec, in *vmhostv1.VmHost, mask map[string]bool) {
	set := map[string]func(){
		"display_name":         func() { spec.DisplayName = in.GetDisplayName() },
		"address":              func() { spec.Address = in.GetAddress() },
		"zone":                 func() { spec.Zone = in.GetZone() },
		"resource_pool":        func() { spec.ResourcePool = in.GetResourcePool() },
		"tags":                 func() { spec.Tags = in.GetTags() },
		"default_storage_pool": func() { spec.DefaultStoragePool = in.GetDefaultStoragePool() },
		"default_macvlan_mode": func() { spec.DefaultMacvlanMode = in.GetDefaultMacvlanMode() },
		"rack":                 func() { spec.Rack = in.GetRack() },
		"host_key":             func() { spec.HostKey = in.GetHostKey() },
		"reserved_cores":       func() { spec.ReservedCores = in.GetReservedCores() },
		"reserved_memory_mib":  func() { spec.ReservedMemoryMib = in.GetReservedMemoryMib() },
		"network_labels":       func() { spec.NetworkLabels = in.GetNetworkLabels() },
		"storage_pool_labels":  func() { spec.StoragePoolLabels = in.GetStoragePoolLabels() },
		"shared_storage_pools": func() { spec.SharedStoragePools = in.GetSharedStoragePools() },
		"overcommit":           func() { spec.Overcommit = proto.CloneOf(in.GetOvercommit()) },
	}
	for path, copyField := range set {
		if mask[path] {
			copyField()
		}
	}
	ratios := completeRatios(spec.GetOvercommit())
	sent := completeRatios(in.GetOvercommit())
	if mask["overcommit.cores"] {
		ratios.Cores = sent.Cores
	}
	if mask["overcommit.memory"] {
		ratios.Memory = sent.Memory
	}
	if mask["overcommit.storage"] {
		ratios.Storage = sent.Storage
	}
	spec.Overcommit = ratios
}

// observedNow is what was reported of a host, and not of one that had its id before.
func observedNow(v *store.View, spec *vmhostv1.VmHost) store.Record[*storev1.StoredVmHostObservation] {
	observed, _ := store.Observed.Get(v, idOf(spec.GetName()))
	if observed.Value.GetVmHostUid() != spec.GetUid() {
		observed.Value = nil
	}
	return observed
}

// knownStoragePool refuses a default pool that the host was seen without.
func knownStoragePool(v *store.View, spec *vmhostv1.VmHost, mask map[string]bool) error {
	pool := spec.GetDefaultStoragePool()
	if !mask["default_storage_pool"] || pool == "" {
		return nil
	}
	observed := observedNow(v, spec)
	if observed.Value.GetObservation() == nil {
		return nil
	}
	pools := observed.Value.GetObservation().GetStoragePools()
	if slices.ContainsFunc(pools, func(p *vmhostv1.StoragePool) bool { return p.GetName() == pool }) {
		return nil
	}
	var names []string
	for _, p := range pools {
		names = append(names, p.GetName())
	}
	return apierror.InvalidField("vm_host.default_storage_pool", "names a storage pool that the host does not have; it has %s", list(names))
}
