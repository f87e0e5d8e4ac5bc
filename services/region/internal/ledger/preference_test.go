package ledger

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func rule(kind vmhostv1.AffinityKind, scope vmhostv1.AffinityScope, who ...string) *vmhostv1.AffinityRule {
	r := &vmhostv1.AffinityRule{Kind: kind, Scope: scope}
	for _, w := range who {
		if strings.HasPrefix(w, "machines/") {
			r.Machines = append(r.Machines, w)
		} else {
			r.Group = w
		}
	}
	return r
}

func soft(r *vmhostv1.AffinityRule) *vmhostv1.AffinityRule {
	r.Soft = true
	return r
}

const (
	near, away   = vmhostv1.AffinityKind_AFFINITY_KIND_NEAR, vmhostv1.AffinityKind_AFFINITY_KIND_AWAY
	onHost, zone = vmhostv1.AffinityScope_AFFINITY_SCOPE_VM_HOST, vmhostv1.AffinityScope_AFFINITY_SCOPE_ZONE
)

func TestAPreferenceThatCannotBeKeptIsRefusedAndTheFieldNamed(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 2)
	made, err := l.Compose(t.Context(), "alice", small())
	if err != nil {
		t.Fatal(err)
	}
	there := made.GetTarget()
	type rules = []*vmhostv1.AffinityRule
	for _, tc := range []struct {
		name, field string
		code        codes.Code
		req         *vmhostv1.ComposeMachineRequest
	}{
		{"policy of no form", "placement_policy", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{PlacementPolicy: "spread"}},
		{"unknown policy", "placement_policy", codes.NotFound, &vmhostv1.ComposeMachineRequest{PlacementPolicy: "placementPolicies/none"}},
		{"spread of no group", "max_per_zone", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{MaxPerZone: 3}},
		{"less than none", "max_per_zone", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{MaxPerZone: -3, Group: "g"}},
		{"of no kind", "affinity[0].kind", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(0, zone, "g")}}},
		{"of no scope", "affinity[0].scope", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(near, 0, "g")}}},
		{"to nothing", "affinity[1].machines", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(near, zone, "g"), rule(near, zone)}}},
		{"to both", "affinity[0].group", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(near, zone, "g", there)}}},
		{"no such machine", "affinity[0].machines[1]", codes.NotFound, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(near, zone, there, "machines/none")}}},
		{"near and away", "affinity[1]", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(near, zone, "g"), rule(away, zone, "g")}}},
		{"on the host and not in the zone", "affinity[1]", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(away, zone, "g"), rule(near, onHost, "g")}}},
		{"near and away of a machine", "affinity[1]", codes.InvalidArgument, &vmhostv1.ComposeMachineRequest{Affinity: rules{rule(away, onHost, there), rule(near, onHost, there)}}},
	} {
		_, err := l.Compose(t.Context(), "alice", tc.req)
		if e := apierror.FromStatus(err); err == nil || e.Code != tc.code || len(e.Fields) != 1 || e.Fields[0].GetField() != tc.field {
			t.Errorf("%s: got %v, fields %v", tc.name, err, e.Fields)
		}
	}
	for name, r := range map[string]rules{
		"in the zone and not on the host": {rule(near, zone, there), rule(away, onHost, there)},
		"one of them is soft":             {rule(near, zone, there), soft(rule(away, zone, there))},
	} {
		if _, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Affinity: r}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMachinesOfAGroupAreCountedWhereTheyAreAndGivenBack(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 2, 2)
	one := small()
	one.Group, one.Affinity = "db", []*vmhostv1.AffinityRule{rule(away, onHost, "db")}
	var ops []*vmhostv1.Operation
	for range 2 {
		op, err := l.Compose(t.Context(), "alice", one)
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, op)
	}
	if ops[0].GetVmHost() == ops[1].GetVmHost() {
		t.Errorf("both are on %s", ops[0].GetVmHost())
	}
	if _, err := l.Compose(t.Context(), "alice", one); reasonOf(err) != vmhostv1.ErrorReason_NO_CAPACITY || !strings.Contains(err.Error(), "group db") {
		t.Errorf("a third: %v", err)
	}
	near := small()
	near.Affinity = []*vmhostv1.AffinityRule{rule(1, onHost, ops[1].GetTarget())}
	if op, err := l.Compose(t.Context(), "alice", near); err != nil || op.GetVmHost() != ops[1].GetVmHost() {
		t.Errorf("near to the second: %v, %v", op, err)
	}
	if !release(t, l, s, strings.TrimPrefix(ops[0].GetTarget(), "machines/")) {
		t.Fatal("it was not released")
	}
	if op, err := l.Compose(t.Context(), "alice", one); err != nil || op.GetVmHost() != ops[0].GetVmHost() {
		t.Errorf("after the first went: %v, %v", op, err)
	}
	for _, h := range []string{"h0000", "h0001"} {
		if led := checkBooks(t, s, h); led.GetTotal().GetGroups()["default/db"] != 1 {
			t.Errorf("%s has %v", h, led)
		}
	}
}

func TestAPolicyDecidesAndACompositionDependsOnIt(t *testing.T) {
	s := storetest.New(t)
	l := open(t, s)
	fleetOf(t, s, 3, 3)
	tx := store.NewTxn()
	store.Put(tx, store.Policies, &storev1.StoredPlacementPolicy{Resource: &vmhostv1.PlacementPolicy{
		Name: "placementPolicies/z1", Weights: &vmhostv1.PlacementWeights{LeastLoaded: 1}, Predicate: `host.zone == "z1" && machine.cores < 3`,
	}}, "z1")
	commit(t, s, tx)
	one := &vmhostv1.ComposeMachineRequest{Cores: 2, MemoryMib: 64, PlacementPolicy: "placementPolicies/z1"}
	for range 2 {
		if op, err := l.Compose(t.Context(), "alice", one); err != nil || op.GetVmHost() != "vmHosts/h0001" {
			t.Errorf("got %v, %v", op, err)
		}
	}
	_, err := l.Compose(t.Context(), "alice", one)
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["refused_policy"] != "2" || e.Metadata["refused_cores"] != "1" {
		t.Errorf("got %v, %v", err, e.Metadata)
	}
	pack := &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64, PlacementPolicy: "placementPolicies/pack"}
	first, err := l.Compose(t.Context(), "alice", pack)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := l.Compose(t.Context(), "alice", pack); err != nil || second.GetVmHost() != first.GetVmHost() {
		t.Errorf("pack chose %s and then %v, %v", first.GetVmHost(), second, err)
	}

	// What was decided by a policy that changes before it is committed fails.
	w, err := newWant("alice", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 64, PlacementPolicy: "placementPolicies/z1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.resolve(s.Cached(), w); err != nil {
		t.Fatal(err)
	}
	late := store.NewTxn()
	w.bindPolicy(late)
	store.Put(late, store.Names, &storev1.StoredName{}, "default", "x")
	tx = store.NewTxn()
	tx.Delete(store.Policies.Key("z1"))
	commit(t, s, tx)
	if _, err := s.Commit(t.Context(), late); err != store.ErrConflict { //nolint:errorlint // it is that one
		t.Errorf("got %v", err)
	}
}
