package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

func TestAPlacementPolicyIsMadeChangedAndRemoved(t *testing.T) {
	f := start(t)
	ctx := f.as(storev1.Role_ROLE_OPERATOR)
	create := &vmhostv1.CreatePlacementPolicyRequest{
		PlacementPolicyId: "gpu-last", RequestId: uuid.NewString(),
		PlacementPolicy: &vmhostv1.PlacementPolicy{
			Description: "keeps GPUs free", Weights: &vmhostv1.PlacementWeights{LeastLoaded: 2, Balance: 0.5}, Predicate: `!("gpu" in host.tags)`,
		},
	}
	made, err := f.rules.CreatePlacementPolicy(ctx, create)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.rules.CreatePlacementPolicy(ctx, create); err != nil || !cmp.Equal(made, again, protocmp.Transform()) {
		t.Errorf("the same request answers %v, %v", again, err)
	}
	got, err := f.rules.GetPlacementPolicy(ctx, &vmhostv1.GetPlacementPolicyRequest{Name: "placementPolicies/gpu-last"})
	if err != nil || !cmp.Equal(made, got, protocmp.Transform()) {
		t.Fatalf("got %v, %v, want %v", got, err, made)
	}
	create.RequestId = ""
	_, err = f.rules.CreatePlacementPolicy(ctx, create)
	wantReason(t, "twice", err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS)

	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	changed, err := f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{
		PlacementPolicy: &vmhostv1.PlacementPolicy{Name: made.GetName(), Etag: made.GetEtag(), Description: "other", Weights: &vmhostv1.PlacementWeights{Balance: 3}},
		UpdateMask:      mask("weights.balance"),
	})
	want := &vmhostv1.PlacementWeights{LeastLoaded: 2, Balance: 3}
	if err != nil || changed.GetDescription() != "keeps GPUs free" || !cmp.Equal(changed.GetWeights(), want, protocmp.Transform()) || changed.GetEtag() == made.GetEtag() {
		t.Errorf("changed to %v, %v", changed, err)
	}
	_, err = f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{
		PlacementPolicy: &vmhostv1.PlacementPolicy{Name: made.GetName(), Etag: made.GetEtag()}, UpdateMask: mask("predicate"),
	})
	wantReason(t, "an old etag", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	_, err = f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{
		PlacementPolicy: &vmhostv1.PlacementPolicy{Name: made.GetName()}, UpdateMask: mask("weights"),
	})
	wantReason(t, "no weights left", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "placement_policy.weights")
	_, err = f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{
		PlacementPolicy: &vmhostv1.PlacementPolicy{Name: made.GetName(), Uid: "x"}, UpdateMask: mask("uid"),
	})
	wantReason(t, "uid", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "update_mask")

	list, err := f.rules.ListPlacementPolicies(ctx, &vmhostv1.ListPlacementPoliciesRequest{PageSize: 3})
	if err != nil || list.GetNextPageToken() == "" {
		t.Fatal(list, err)
	}
	rest, err := f.rules.ListPlacementPolicies(ctx, &vmhostv1.ListPlacementPoliciesRequest{PageSize: 3, PageToken: list.GetNextPageToken()})
	var names []string
	for _, p := range append(list.GetPlacementPolicies(), rest.GetPlacementPolicies()...) {
		names = append(names, p.GetName())
	}
	if diff := cmp.Diff([]string{"placementPolicies/balanced", "placementPolicies/gpu-last", "placementPolicies/pack", "placementPolicies/spread"}, names); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}

	if _, err := f.rules.DeletePlacementPolicy(ctx, &vmhostv1.DeletePlacementPolicyRequest{Name: made.GetName(), ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	if _, err := f.rules.DeletePlacementPolicy(ctx, &vmhostv1.DeletePlacementPolicyRequest{Name: made.GetName(), Etag: changed.GetEtag()}); err != nil {
		t.Error(err)
	}
	_, err = f.rules.GetPlacementPolicy(ctx, &vmhostv1.GetPlacementPolicyRequest{Name: made.GetName()})
	wantReason(t, "after its removal", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)

	kinds := map[string]int{}
	for _, e := range store.Events.All(f.store.Cached()) {
		if e.Value.GetResource().GetResource() == made.GetName() {
			kinds[e.Value.GetResource().GetType()]++
		}
	}
	if diff := cmp.Diff(map[string]int{"placement_policy.created": 1, "placement_policy.updated": 1, "placement_policy.deleted": 1}, kinds); diff != "" {
		t.Error(diff)
	}
}

func TestAPolicyThatPlacesNothingIsRefusedAndTheFieldNamed(t *testing.T) {
	f := start(t)
	ctx := f.as(storev1.Role_ROLE_OPERATOR)
	for _, tc := range []struct {
		name, id string
		policy   *vmhostv1.PlacementPolicy
		field    string
	}{
		{"does not compile", "a", &vmhostv1.PlacementPolicy{Predicate: "host.cores >"}, "placement_policy.predicate"},
		{"gives a number", "a", &vmhostv1.PlacementPolicy{Predicate: "host.cores * 2"}, "placement_policy.predicate"},
		{"costs too much", "a", &vmhostv1.PlacementPolicy{Predicate: "host.tags.all(a, host.tags.all(b, a != b))"}, "placement_policy.predicate"},
		{"weighs nothing", "a", &vmhostv1.PlacementPolicy{Weights: &vmhostv1.PlacementWeights{}}, "placement_policy.weights"},
		{"a weight below zero", "a", &vmhostv1.PlacementPolicy{Weights: &vmhostv1.PlacementWeights{Balance: -1}}, "placement_policy.weights.balance"},
		{"other name", "a", &vmhostv1.PlacementPolicy{Name: "placementPolicies/b"}, "placement_policy.name"},
		{"no id", "", &vmhostv1.PlacementPolicy{}, "placement_policy_id"},
	} {
		_, err := f.rules.CreatePlacementPolicy(ctx, &vmhostv1.CreatePlacementPolicyRequest{PlacementPolicyId: tc.id, PlacementPolicy: tc.policy})
		wantReason(t, tc.name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, tc.field)
	}
	if p, err := f.rules.CreatePlacementPolicy(ctx, &vmhostv1.CreatePlacementPolicyRequest{
		PlacementPolicyId: "zone-a", PlacementPolicy: &vmhostv1.PlacementPolicy{Predicate: `host.zone == "a"`}, ValidateOnly: true,
	}); err != nil || p.GetWeights().GetLeastLoaded() != 1 {
		t.Errorf("without weights: %v, %v", p, err)
	}
	if n := store.Policies.Count(f.store.Cached(), 10); n != 0 {
		t.Errorf("%d were recorded", n)
	}
}

// A predicate that no host can pass would be accepted and then refuse every compose.
func TestAPredicateThatNoHostCanPassIsRefusedWhenItIsSet_P9(t *testing.T) {
	f := start(t)
	ctx := f.as(storev1.Role_ROLE_OPERATOR)
	made, err := f.rules.CreatePlacementPolicy(ctx, &vmhostv1.CreatePlacementPolicyRequest{
		PlacementPolicyId: "mine", PlacementPolicy: &vmhostv1.PlacementPolicy{Predicate: "true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	update := func(p *vmhostv1.PlacementPolicy, paths ...string) error {
		p.Name = made.GetName()
		_, err := f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{PlacementPolicy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return err
	}
	for predicate, says := range map[string]string{"1/0 == 1": "fails for every host: division by zero", "1 > 2": "is false for every host"} {
		_, created := f.rules.CreatePlacementPolicy(ctx, &vmhostv1.CreatePlacementPolicyRequest{PlacementPolicyId: "b", PlacementPolicy: &vmhostv1.PlacementPolicy{Predicate: predicate}})
		for what, err := range map[string]error{"create": created, "update": update(&vmhostv1.PlacementPolicy{Predicate: predicate}, "description", "predicate")} {
			wantReason(t, what+" "+predicate, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "placement_policy.predicate")
			if e := apierror.FromStatus(err); err != nil && (!strings.Contains(e.Message, says) || e.Hint == "") {
				t.Errorf("%s %s: %q, %q", what, predicate, e.Message, e.Hint)
			}
		}
	}

	// One of before stays, and does not keep other fields from being changed, also
	// when it would not even compile now.
	for _, old := range []string{"1/0 == 1", "host.rack == 3"} {
		tx := store.NewTxn()
		record, _ := store.Policies.Get(f.store.Cached(), "mine")
		record.Value = proto.CloneOf(record.Value)
		record.Value.Resource.Predicate = old
		store.Put(tx, store.Policies, record.Value, "mine")
		if _, err := f.store.Commit(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if err := update(&vmhostv1.PlacementPolicy{Description: "says " + old}, "description"); err != nil {
			t.Errorf("%s: %v", old, err)
		}
		if err := update(&vmhostv1.PlacementPolicy{Weights: &vmhostv1.PlacementWeights{Balance: 2}}, "weights.balance"); err != nil {
			t.Errorf("%s: %v", old, err)
		}
		got, err := f.rules.GetPlacementPolicy(ctx, &vmhostv1.GetPlacementPolicyRequest{Name: made.GetName()})
		if err != nil || got.GetPredicate() != old || got.GetDescription() != "says "+old || got.GetWeights().GetBalance() != 2 {
			t.Errorf("%s: %v, %v", old, got, err)
		}
	}
	if err := update(&vmhostv1.PlacementPolicy{}, "predicate"); err != nil {
		t.Errorf("take it away: %v", err)
	}
}

func TestPoliciesThatAreThereFromTheStartStayAsTheyAre(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	for _, id := range []string{"spread", "pack", "balanced"} {
		name := "placementPolicies/" + id
		if p, err := f.rules.GetPlacementPolicy(ctx, &vmhostv1.GetPlacementPolicyRequest{Name: name}); err != nil || p.GetName() != name {
			t.Errorf("%s: got %v, %v", id, p, err)
		}
		_, err := f.rules.CreatePlacementPolicy(ctx, &vmhostv1.CreatePlacementPolicyRequest{PlacementPolicyId: id, PlacementPolicy: &vmhostv1.PlacementPolicy{}})
		wantReason(t, "create "+id, err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS)
		_, err = f.rules.UpdatePlacementPolicy(ctx, &vmhostv1.UpdatePlacementPolicyRequest{
			PlacementPolicy: &vmhostv1.PlacementPolicy{Name: name, Description: "mine"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}},
		})
		wantReason(t, "update "+id, err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
		_, err = f.rules.DeletePlacementPolicy(ctx, &vmhostv1.DeletePlacementPolicyRequest{Name: name})
		wantReason(t, "delete "+id, err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
	}
}
