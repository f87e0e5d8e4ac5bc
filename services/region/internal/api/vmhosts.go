package api

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

type vmHosts struct {
	vmhostv1.UnimplementedVmHostServiceServer
	*base
	turn       Turns
	secrets    Secrets
	operations Operations
}

// secretParts is where the credential of a host is kept.
func secretParts(id string) []string { return []string{"vmHosts", id} }

// CreateVmHost adds a host.
func (s *vmHosts) CreateVmHost(ctx context.Context, req *vmhostv1.CreateVmHostRequest) (*vmhostv1.VmHost, error) {
	id := req.GetVmHostId()
	if err := checkName("vm_host.name", req.GetVmHost().GetName(), vmHostsCollection, id); err != nil {
		return nil, err
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	credential, err := freshCredential(id, req.GetVmHost())
	if err != nil {
		return nil, err
	}
	return mutate(ctx, s.base, vmhostv1.VmHostService_CreateVmHost_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.VmHost, error) {
		if _, ok := store.VmHosts.Get(v, id); ok {
			return nil, alreadyExists(vmHostsCollection + id)
		}
		now := timestamppb.Now()
		in := req.GetVmHost()
		spec := &vmhostv1.VmHost{
			Name: vmHostsCollection + id, Uid: uid, CreateTime: now, UpdateTime: now,
			DisplayName: in.GetDisplayName(), Type: in.GetType(), Address: in.GetAddress(), Zone: in.GetZone(), ResourcePool: in.GetResourcePool(),
			Tags: in.GetTags(), Overcommit: proto.CloneOf(in.GetOvercommit()), DefaultStoragePool: in.GetDefaultStoragePool(),
			DefaultMacvlanMode: in.GetDefaultMacvlanMode(), Rack: in.GetRack(), HostKey: in.GetHostKey(),
			ReservedCores: in.GetReservedCores(), ReservedMemoryMib: in.GetReservedMemoryMib(),
			Project: in.GetProject(), ClusterMember: in.GetClusterMember(), ClusterGroup: in.GetClusterGroup(),
			NetworkLabels: in.GetNetworkLabels(), StoragePoolLabels: in.GetStoragePoolLabels(), SharedStoragePools: in.GetSharedStoragePools(),
		}
		place, err := completeSpec(v, spec, credential, nil)
		if err != nil {
			return nil, err
		}
		if err := place.take(v, tx, spec); err != nil {
			return nil, err
		}
		if err := s.putCredential(tx, spec, credential); err != nil {
			return nil, err
		}
		version, err := newUID()
		if err != nil {
			return nil, err
		}
		stored := &storev1.StoredVmHost{Resource: spec, ConnectionVersion: version, ForgetTrustSecret: hasTrustSecret(credential)}
		tx.IfAbsent(store.VmHosts.Key(id))
		store.Put(tx, store.VmHosts, stored, id)
		addEvent(ctx, tx, "vm_host.created", spec.GetName(), spec.GetName())
		return view.VmHost(v, s.seen, s.fleets, store.Record[*storev1.StoredVmHost]{Value: stored}), nil
	})
}

// putCredential keeps the credential encrypted, and what kind it is.
func (s *vmHosts) putCredential(tx *store.Txn, spec *vmhostv1.VmHost, c *vmhostv1.Credential) error {
	spec.CredentialKind, spec.CredentialInfo = credentialKind(c), credentialInfo(c)
	parts := secretParts(idOf(spec.GetName()))
	if spec.GetCredentialKind() == credentialNone {
		tx.Delete(store.Secrets.Key(parts...))
		return nil
	}
	plain, err := proto.Marshal(c)
	if err != nil {
		return err
	}
	ciphertext, err := s.secrets.Encrypt(store.Secrets.Key(parts...), plain)
	if err != nil {
		return err
	}
	store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: ciphertext}, parts...)
	return nil
}

// GetVmHost is one host.
func (s *vmHosts) GetVmHost(ctx context.Context, req *vmhostv1.GetVmHostRequest) (*vmhostv1.VmHost, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	r, ok := store.VmHosts.Get(v, idOf(req.GetName()))
	if !ok {
		return nil, apierror.NotFound(req.GetName())
	}
	return view.VmHost(v, s.seen, s.fleets, r), nil
}

// ListVmHosts are all hosts.
func (s *vmHosts) ListVmHosts(ctx context.Context, req *vmhostv1.ListVmHostsRequest) (*vmhostv1.ListVmHostsResponse, error) {
	hosts := itemsAfter(store.VmHosts, vmHostsCollection, func(v *store.View, r store.Record[*storev1.StoredVmHost]) proto.Message {
		return view.VmHost(v, s.seen, s.fleets, r)
	}, nil)
	return answerSorted(ctx, s.base, vmhostv1.VmHostService_ListVmHosts_FullMethodName, req, hosts,
		func(page []*vmhostv1.VmHost, next string) *vmhostv1.ListVmHostsResponse {
			return &vmhostv1.ListVmHostsResponse{VmHosts: page, NextPageToken: next}
		})
}

// RefreshVmHost reads the host anew.
func (s *vmHosts) RefreshVmHost(ctx context.Context, req *vmhostv1.RefreshVmHostRequest) (*vmhostv1.Operation, error) {
	return s.operations.Refresh(ctx, principal(ctx), req)
}

// CordonVmHost stops placing on the host.
func (s *vmHosts) CordonVmHost(ctx context.Context, req *vmhostv1.CordonVmHostRequest) (*vmhostv1.VmHost, error) {
	return s.setCordoned(ctx, vmhostv1.VmHostService_CordonVmHost_FullMethodName, req, true)
}

// UncordonVmHost places on the host again.
func (s *vmHosts) UncordonVmHost(ctx context.Context, req *vmhostv1.UncordonVmHostRequest) (*vmhostv1.VmHost, error) {
	return s.setCordoned(ctx, vmhostv1.VmHostService_UncordonVmHost_FullMethodName, req, false)
}

type cordonRequest interface {
	mutationRequest
	GetName() string
	GetEtag() string
}

func (s *vmHosts) setCordoned(ctx context.Context, method string, req cordonRequest, cordoned bool) (*vmhostv1.VmHost, error) {
	name, id := req.GetName(), idOf(req.GetName())
	return mutate(ctx, s.base, method, req, func(v *store.View, tx *store.Txn) (*vmhostv1.VmHost, error) {
		r, ok := store.VmHosts.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		stored := proto.CloneOf(r.Value)
		stored.Resource.Cordoned = cordoned
		stored.Resource.UpdateTime = timestamppb.Now()
		tx.IfRevision(store.VmHosts.Key(id), r.Revision)
		store.Put(tx, store.VmHosts, stored, id)
		kind := "vm_host.uncordoned"
		if cordoned {
			kind = "vm_host.cordoned"
		}
		addEvent(ctx, tx, kind, name, name)
		return view.VmHost(v, s.seen, s.fleets, store.Record[*storev1.StoredVmHost]{Value: stored, Revision: r.Revision}), nil
	})
}

// CheckVmHost tries an address.
func (s *vmHosts) CheckVmHost(ctx context.Context, req *vmhostv1.CheckVmHostRequest) (*vmhostv1.Operation, error) {
	address, err := checkAddress("address", req.GetType(), req.GetAddress())
	if err != nil {
		return nil, err
	}
	if req.GetType() != vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED && req.GetType() != address.Type {
		return nil, apierror.InvalidField("type", "is not that of the address %s", req.GetAddress())
	}
	req = proto.CloneOf(req)
	req.Address = address.String()
	if req.HostKey, err = tokenHostKey("credential.lxd", "host_key", req.GetHostKey(), req.GetCredential()); err != nil {
		return nil, err
	}
	if err := checkHostKey("host_key", address, req.GetHostKey()); err != nil {
		return nil, err
	}
	if err := checkCredential("credential", address, req.GetCredential(), false); err != nil {
		return nil, err
	}
	if l := req.GetCredential().GetLxd(); l != nil {
		// They are good for one use, which adding the host is.
		l.TrustToken, l.TrustPassword = "", ""
		if l.GetCertificatePem() == "" {
			req.Credential = nil
		}
	}
	if req.GetProject() != "" && address.Type != vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return nil, apierror.InvalidField("project", "is set, and only LXD servers have projects")
	}
	rack, err := reference("rack", req.GetRack(), racksCollection, "")
	if err != nil {
		return nil, err
	}
	zone, err := reference("zone", req.GetZone(), zonesCollection, "")
	if err != nil {
		return nil, err
	}
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	unused := store.NewTxn()
	if rack != "" {
		if err := mustExist(v, unused, store.Racks, "rack", racksCollection+rack); err != nil {
			return nil, err
		}
	}
	if zone != "" {
		if err := mustExist(v, unused, store.Zones, "zone", zonesCollection+zone); err != nil {
			return nil, err
		}
	}
	return s.operations.Check(ctx, principal(ctx), req)
}
