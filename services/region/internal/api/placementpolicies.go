package api

import (
	"context"
	"iter"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// placementPolicies answers for policies. Those that are there from the start are
// no records, so that no call can lose them.
type placementPolicies struct {
	vmhostv1.UnimplementedPlacementPolicyServiceServer
	*base
	policies *policy.Set
}

func showPolicy(r store.Record[*storev1.StoredPlacementPolicy]) *vmhostv1.PlacementPolicy {
	p := proto.CloneOf(r.Value.GetResource())
	p.Etag = view.Etag(r.Revision)
	return p
}

// weightFields are the weights, as update masks name them.
func weightFields() []string {
	var paths []string
	fields := (*vmhostv1.PlacementWeights)(nil).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		paths = append(paths, "weights."+string(fields.Get(i).Name()))
	}
	return paths
}

// changeWeights is the weights with those that the mask names as they are asked
// for.
func changeWeights(now, asked *vmhostv1.PlacementWeights, set map[string]bool) *vmhostv1.PlacementWeights {
	if set["weights"] {
		return proto.CloneOf(asked)
	}
	out := proto.CloneOf(now)
	fields := out.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); set["weights."+string(f.Name())] {
			out.ProtoReflect().Set(f, asked.ProtoReflect().Get(f))
		}
	}
	return out
}

// checkWeights refuses weights by which no host is preferred.
func checkWeights(p *vmhostv1.PlacementPolicy) error {
	counts := false
	p.GetWeights().ProtoReflect().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		counts = true // fields of 0 are not set
		return false
	})
	if !counts {
		return apierror.InvalidField("placement_policy.weights", "are all 0, so that no host would be preferred").
			WithHint("give at least one weight, as in least_loaded: 1")
	}
	return nil
}

// checkPredicate refuses a predicate that no host could pass. It is for one that is
// being set: another change of a policy leaves it the predicate that it has.
func (s *placementPolicies) checkPredicate(p *vmhostv1.PlacementPolicy) error {
	return s.policies.Check("placement_policy.predicate", p.GetPredicate())
}

// CreatePlacementPolicy adds a placement policy.
func (s *placementPolicies) CreatePlacementPolicy(ctx context.Context, req *vmhostv1.CreatePlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	id, asked := req.GetPlacementPolicyId(), req.GetPlacementPolicy()
	if err := checkName("placement_policy.name", asked.GetName(), policiesCollection, id); err != nil {
		return nil, err
	}
	if policy.Preset(id) != nil {
		return nil, alreadyExists(policiesCollection + id)
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	p := &vmhostv1.PlacementPolicy{
		Name: policiesCollection + id, Uid: uid, Description: asked.GetDescription(), Weights: proto.CloneOf(asked.GetWeights()), Predicate: asked.GetPredicate(),
	}
	if p.GetWeights() == nil {
		p.Weights = policy.Preset(policy.Default).GetWeights()
	}
	if err := checkWeights(p); err != nil {
		return nil, err
	}
	if err := s.checkPredicate(p); err != nil {
		return nil, err
	}
	return mutate(ctx, s.base, vmhostv1.PlacementPolicyService_CreatePlacementPolicy_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.PlacementPolicy, error) {
		if _, ok := store.Policies.Get(v, id); ok {
			return nil, alreadyExists(policiesCollection + id)
		}
		p.CreateTime = timestamppb.Now()
		p.UpdateTime = p.GetCreateTime()
		tx.IfAbsent(store.Policies.Key(id))
		store.Put(tx, store.Policies, &storev1.StoredPlacementPolicy{Resource: p}, id)
		addEvent(ctx, tx, "placement_policy.created", p.GetName(), "")
		return proto.CloneOf(p), nil
	})
}

// GetPlacementPolicy is one policy.
func (s *placementPolicies) GetPlacementPolicy(ctx context.Context, req *vmhostv1.GetPlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	if p := policy.Preset(idOf(req.GetName())); p != nil {
		return p, nil
	}
	r, err := get(ctx, s.base, store.Policies, req.GetName())
	if err != nil {
		return nil, err
	}
	return showPolicy(r), nil
}

// ListPlacementPolicies are all policies.
func (s *placementPolicies) ListPlacementPolicies(ctx context.Context, req *vmhostv1.ListPlacementPoliciesRequest) (*vmhostv1.ListPlacementPoliciesResponse, error) {
	made := itemsOf(store.Policies, policiesCollection, func(_ *store.View, r store.Record[*storev1.StoredPlacementPolicy]) proto.Message {
		return showPolicy(r)
	})
	page, next, err := answerList[*vmhostv1.PlacementPolicy](ctx, s.base, vmhostv1.PlacementPolicyService_ListPlacementPolicies_FullMethodName, req, "name",
		func(v *store.View) iter.Seq[query.Item] {
			return func(yield func(query.Item) bool) {
				for _, p := range policy.Presets() {
					if !yield(query.Item{Name: p.GetName(), Build: func() proto.Message { return p }}) {
						return
					}
				}
				made(v)(yield)
			}
		})
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListPlacementPoliciesResponse{PlacementPolicies: page, NextPageToken: next}, nil
}

// UpdatePlacementPolicy changes what the mask names.
func (s *placementPolicies) UpdatePlacementPolicy(ctx context.Context, req *vmhostv1.UpdatePlacementPolicyRequest) (*vmhostv1.PlacementPolicy, error) {
	asked := req.GetPlacementPolicy()
	name, id := asked.GetName(), idOf(asked.GetName())
	if err := needName("placement_policy.name", name, policiesCollection); err != nil {
		return nil, err
	}
	set, err := fields(req.GetUpdateMask(), append([]string{"description", "weights", "predicate"}, weightFields()...), []string{"uid", "create_time", "update_time"})
	if err != nil {
		return nil, err
	}
	if policy.Preset(id) != nil {
		return nil, unchangeable(name)
	}
	return mutate(ctx, s.base, vmhostv1.PlacementPolicyService_UpdatePlacementPolicy_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.PlacementPolicy, error) {
		r, ok := store.Policies.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, asked.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		stored := proto.CloneOf(r.Value)
		p := stored.GetResource()
		if set["description"] {
			p.Description = asked.GetDescription()
		}
		if set["predicate"] {
			p.Predicate = asked.GetPredicate()
			if err := s.checkPredicate(p); err != nil {
				return nil, err
			}
		}
		p.Weights = changeWeights(p.GetWeights(), asked.GetWeights(), set)
		if err := checkWeights(p); err != nil {
			return nil, err
		}
		p.UpdateTime = timestamppb.Now()
		tx.IfRevision(store.Policies.Key(id), r.Revision)
		store.Put(tx, store.Policies, stored, id)
		addEvent(ctx, tx, "placement_policy.updated", name, "")
		return showPolicy(store.Record[*storev1.StoredPlacementPolicy]{Value: stored, Revision: r.Revision}), nil
	})
}

// DeletePlacementPolicy removes a policy. Nothing refers to one but composes that
// are being decided on, and they compare its revision.
func (s *placementPolicies) DeletePlacementPolicy(ctx context.Context, req *vmhostv1.DeletePlacementPolicyRequest) (*vmhostv1.DeletePlacementPolicyResponse, error) {
	name, id := req.GetName(), idOf(req.GetName())
	if policy.Preset(id) != nil {
		return nil, unchangeable(name)
	}
	return mutate(ctx, s.base, vmhostv1.PlacementPolicyService_DeletePlacementPolicy_FullMethodName, req, func(v *store.View, tx *store.Txn) (*vmhostv1.DeletePlacementPolicyResponse, error) {
		r, ok := store.Policies.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		tx.IfRevision(store.Policies.Key(id), r.Revision)
		tx.Delete(store.Policies.Key(id))
		addEvent(ctx, tx, "placement_policy.deleted", name, "")
		return &vmhostv1.DeletePlacementPolicyResponse{}, nil
	})
}

func unchangeable(name string) error {
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "%s is there from the start and cannot be changed or deleted", name).
		With("resource", name).WithHint("make one of your own: `vmhostctl placement-policy create`")
}
