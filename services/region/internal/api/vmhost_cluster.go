package api

import (
	"context"
	"fmt"
	"hash/crc32"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// maxClusterAdd is how many hosts one call adds: each takes a few compares of
// one transaction. A larger cluster takes several calls.
const maxClusterAdd = 16

// AddClusterMembers adds a VM host for every member of an LXD cluster that has
// none yet.
func (s *vmHosts) AddClusterMembers(ctx context.Context, req *vmhostv1.AddClusterMembersRequest) (*vmhostv1.AddClusterMembersResponse, error) {
	const method = vmhostv1.VmHostService_AddClusterMembers_FullMethodName
	name := req.GetName()
	return mutate(ctx, s.base, method, req, func(v *store.View, tx *store.Txn) (*vmhostv1.AddClusterMembersResponse, error) {
		first, ok := store.VmHosts.Get(v, idOf(name))
		if !ok {
			return nil, apierror.NotFound(name)
		}
		cluster, err := clusterOf(v, first)
		if err != nil {
			return nil, err
		}
		credential, err := s.credentialOf(v, name)
		if err != nil {
			return nil, err
		}
		out := &vmhostv1.AddClusterMembersResponse{}
		for _, h := range cluster.hosts {
			out.VmHosts = append(out.VmHosts, view.VmHost(v, s.seen, s.fleets, h))
		}
		tx.IfRevision(store.VmHosts.Key(idOf(name)), first.Revision)
		if first.Value.GetResource().GetClusterGroup() == "" || first.Value.GetResource().GetClusterMember() == "" {
			named := proto.CloneOf(first.Value)
			if err := s.nameMember(v, tx, named, cluster); err != nil {
				return nil, err
			}
			out.VmHosts[0] = view.VmHost(v, s.seen, s.fleets, store.Record[*storev1.StoredVmHost]{Value: named, Revision: first.Revision})
		}
		for _, member := range cluster.missing[:min(len(cluster.missing), maxClusterAdd)] {
			stored, err := s.addMember(v, tx, first.Value.GetResource(), cluster.group, member, credential)
			if err != nil {
				return nil, err
			}
			added := stored.GetResource().GetName()
			addEvent(ctx, tx, "vm_host.created", added, added)
			out.VmHosts = append(out.VmHosts, view.VmHost(v, s.seen, s.fleets, store.Record[*storev1.StoredVmHost]{Value: stored}))
			out.Added = append(out.Added, added)
		}
		return out, nil
	})
}

// cluster is an LXD cluster as one of its hosts shows it.
type cluster struct {
	group, member string // of the host that was asked
	hosts         []store.Record[*storev1.StoredVmHost]
	missing       []*vmhostv1.ClusterMember
}

func clusterOf(v *store.View, first store.Record[*storev1.StoredVmHost]) (*cluster, error) {
	spec := first.Value.GetResource()
	observed, _ := store.Observed.Get(v, idOf(spec.GetName()))
	o := observed.Value.GetObservation()
	if observed.Value.GetVmHostUid() != spec.GetUid() || len(o.GetClusterMembers()) == 0 {
		return nil, apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s was not seen to be a member of an LXD cluster", spec.GetName()).
			With("resource", spec.GetName()).WithHint("wait until it is READY, or refresh it with `vmhostctl vm-host refresh %s`", idOf(spec.GetName()))
	}
	c := &cluster{group: spec.GetClusterGroup(), member: o.GetClusterMember(), hosts: []store.Record[*storev1.StoredVmHost]{first}}
	if c.group == "" {
		c.group = idOf(spec.GetName())
	}
	there := map[string]bool{c.member: true}
	for _, h := range store.VmHosts.All(v) {
		r := h.Value.GetResource()
		if r.GetClusterGroup() == c.group && r.GetProject() == spec.GetProject() && r.GetName() != spec.GetName() {
			there[r.GetClusterMember()] = true
			c.hosts = append(c.hosts, h)
		}
	}
	c.missing = slices.DeleteFunc(slices.Clone(o.GetClusterMembers()), func(m *vmhostv1.ClusterMember) bool { return there[m.GetName()] })
	return c, nil
}

// nameMember records which member a host stands for that was added before its
// cluster was known.
func (s *vmHosts) nameMember(v *store.View, tx *store.Txn, stored *storev1.StoredVmHost, c *cluster) error {
	spec := stored.GetResource()
	last, err := placeOf(spec)
	if err != nil {
		return err
	}
	spec.ClusterGroup, spec.ClusterMember, spec.UpdateTime = c.group, c.member, timestamppb.Now()
	next, err := placeOf(spec)
	if err != nil {
		return err
	}
	last.give(tx, next)
	if err := next.take(v, tx, spec); err != nil {
		return err
	}
	if stored.ConnectionVersion, err = newUID(); err != nil {
		return err
	}
	store.Put(tx, store.VmHosts, stored, idOf(spec.GetName()))
	return nil
}

// addMember adds the host of one more member, configured like the first.
func (s *vmHosts) addMember(v *store.View, tx *store.Txn, like *vmhostv1.VmHost, group string, member *vmhostv1.ClusterMember, credential *vmhostv1.Credential) (*storev1.StoredVmHost, error) {
	id := memberID(group, member.GetName())
	if _, ok := store.VmHosts.Get(v, id); ok {
		return nil, alreadyExists(vmHostsCollection + id)
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	now := timestamppb.Now()
	spec := &vmhostv1.VmHost{
		Name: vmHostsCollection + id, Uid: uid, CreateTime: now, UpdateTime: now,
		Type: like.GetType(), Address: member.GetAddress(), Zone: like.GetZone(), ResourcePool: like.GetResourcePool(), Tags: slices.Clone(like.GetTags()),
		Overcommit: proto.CloneOf(like.GetOvercommit()), DefaultStoragePool: like.GetDefaultStoragePool(), DefaultMacvlanMode: like.GetDefaultMacvlanMode(),
		ReservedCores: like.GetReservedCores(), ReservedMemoryMib: like.GetReservedMemoryMib(), Project: like.GetProject(),
		ClusterMember: member.GetName(), ClusterGroup: group,
		// All members of a cluster present the cluster's certificate.
		HostKey: like.GetHostKey(),
	}
	place, err := completeSpec(v, spec, credential, nil)
	if err != nil {
		return nil, fmt.Errorf("add member %s: %w", member.GetName(), err)
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
	stored := &storev1.StoredVmHost{Resource: spec, ConnectionVersion: version}
	tx.IfAbsent(store.VmHosts.Key(id))
	store.Put(tx, store.VmHosts, stored, id)
	return stored, nil
}

// credentialOf is the stored credential of a host.
func (s *vmHosts) credentialOf(v *store.View, name string) (*vmhostv1.Credential, error) {
	parts := secretParts(idOf(name))
	secret, ok := store.Secrets.Get(v, parts...)
	if !ok {
		return nil, nil //nolint:nilnil // a local socket has none
	}
	plain, err := s.secrets.Decrypt(store.Secrets.Key(parts...), secret.Value.GetCiphertext())
	if err != nil {
		return nil, fmt.Errorf("read the credential of %s: %w", name, err)
	}
	out := &vmhostv1.Credential{}
	if err := proto.Unmarshal(plain, out); err != nil {
		return nil, fmt.Errorf("decode the credential of %s: %w", name, err)
	}
	return out, nil
}

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// memberID is a host id for a member: its group and name made a label.
func memberID(group, member string) string {
	const longest = 63
	id := group + "-" + strings.Trim(notLabel.ReplaceAllString(strings.ToLower(member), "-"), "-")
	if len(id) > longest || strings.HasSuffix(id, "-") {
		sum := fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(member)))
		id = strings.TrimRight(id[:min(len(id), longest-len(sum)-1)], "-") + "-" + sum
	}
	return id
}
