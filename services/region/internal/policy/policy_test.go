package policy_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func compiler(t *testing.T) *policy.Compiler {
	t.Helper()
	c, err := policy.NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAPredicateIsTrueOfTheHostsItSays(t *testing.T) {
	host := &policy.Host{
		ID: "h1", Zone: "z1", Tags: []string{"ssd", "gpu"}, Architectures: []string{"x86_64"}, Capabilities: []string{"kvm"},
		Cores: 16, MemoryMiB: 65536, FreeCores: 4, FreeMemoryMiB: 8192, Machines: 3, KVM: true,
	}
	machine := &policy.Machine{Cores: 2, MemoryMiB: 4096, Tags: []string{"db"}, ResourcePool: "prod"}
	c := compiler(t)
	for _, tc := range []struct {
		text string
		want bool
	}{
		{"", true},
		{"  ", true},
		{`host.id == "h1" && host.zone == "z1"`, true},
		{`"ssd" in host.tags`, true},
		{`"hdd" in host.tags`, false},
		{`host.tags.exists(t, t.startsWith("g"))`, true},
		{`host.architectures == ["x86_64"] && "kvm" in host.capabilities`, true},
		{`host.cores == 16 && host.memory_mib == 65536 && host.machines == 3`, true},
		{`host.free_cores >= machine.cores * 2 && host.free_memory_mib >= machine.memory_mib * 2`, true},
		{`host.free_cores > machine.cores * 2`, false},
		{`host.kvm`, true},
		{`machine.resource_pool == "prod" ? host.zone == "z2" : true`, false},
		{`"db" in machine.tags`, true},
		{`true`, true},
	} {
		p, err := c.Compile("predicate", tc.text)
		if err != nil {
			t.Errorf("%s: %v", tc.text, err)
			continue
		}
		if got, err := p.Matches(host, machine); err != nil || got != tc.want {
			t.Errorf("%s: got %v, %v, want %v", tc.text, got, err, tc.want)
		}
	}
}

func TestAPredicateThatIsNoGoodSaysWhatAndWhere(t *testing.T) {
	deep := strings.Repeat("(", 400) + "true" + strings.Repeat(")", 400)
	for _, tc := range []struct{ name, text, want string }{
		{"does not parse", "host.cores >", "at 1:13"},
		{"second line", "host.kvm &&\nhost.cores = 4", "at 2:12"},
		{"unknown field", "host.kores > 3", "undefined field 'kores'"},
		{"unknown variable", "hosts.cores > 3", "undeclared reference to 'hosts'"},
		{"other type", `host.cores == "four"`, "no matching overload"},
		{"a number", "host.cores + 1", "gives int at 1:1, and must give bool"},
		{"a list", "host.tags", "gives list(string) at 1:1, and must give bool"},
		{"dynamic", "dyn(host.kvm)", "and must give bool"},
		{"search in a search", "host.tags.all(a, host.tags.all(b, host.tags.all(c, a != b || b != c)))", "costs too much"},
		{"pattern in a search", `host.tags.exists(t, t.matches("(a+)+(b+)+(c+)+(d+)+(e+)+(f+)+(g+)+(h+)+(i+)+(j+)+(k+)+(l+)+(m+)+"))`, "costs too much"},
		{"a large constant list", "[1].exists(a, " + strings.Repeat("host.tags.exists(t, t == 'x') || ", 100) + "false)", "costs too much"},
		{"too deep", deep, "recursion"},
		{"a new object", "vmhost.Host{} == host", "has no bound"},
	} {
		_, err := compiler(t).Compile("placement_policy.predicate", tc.text)
		e := apierror.FromStatus(err)
		if err == nil || e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) == 0 || e.Fields[0].GetField() != "placement_policy.predicate" {
			t.Errorf("%s: got %v", tc.name, err)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v does not say %q", tc.name, err, tc.want)
		}
	}
}

func TestWhatCannotBeToldOfAHostIsAnErrorAndNoYes(t *testing.T) {
	c := compiler(t)
	for _, text := range []string{`host.tags[3] == "x"`, "machine.cores / host.machines > 1", "host.cores * 9223372036854775807 > 0"} {
		p, err := c.Compile("predicate", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if yes, err := p.Matches(&policy.Host{Cores: 8}, &policy.Machine{Cores: 1}); yes || err == nil {
			t.Errorf("%s: got %v, %v", text, yes, err)
		}
	}
}

func TestACostPastTheEstimateEndsTheEvaluation(t *testing.T) {
	p, err := compiler(t).Compile("predicate", `host.tags.exists(t, t == "last")`)
	if err != nil {
		t.Fatal(err)
	}
	tags := make([]string, 100_000) // a record that was written past the contract
	if yes, err := p.Matches(&policy.Host{Tags: tags}, &policy.Machine{}); yes || err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("got %v, %v", yes, err)
	}
}

func TestAPolicyIsThatOfTheViewAndCompiledOnce(t *testing.T) {
	s := storetest.New(t)
	set := policy.NewSet()
	put := func(predicate string) {
		tx := store.NewTxn()
		store.Put(tx, store.Policies, &storev1.StoredPlacementPolicy{Resource: &vmhostv1.PlacementPolicy{
			Name: "placementPolicies/mine", Weights: &vmhostv1.PlacementWeights{Balance: 3}, Predicate: predicate,
		}}, "mine")
		if _, err := s.Commit(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	put("host.kvm")
	old := s.Cached()
	first, err := set.At(old, "placement_policy", "placementPolicies/mine")
	if err != nil || first.Weights.GetBalance() != 3 || first.Revision == 0 {
		t.Fatalf("got %+v, %v", first, err)
	}
	if again, err := set.At(old, "placement_policy", "placementPolicies/mine"); err != nil || again != first {
		t.Errorf("it was compiled again: %v, %v", again, err)
	}
	put("!host.kvm")
	second, err := set.At(s.Cached(), "placement_policy", "placementPolicies/mine")
	if err != nil || second == first {
		t.Fatalf("got %+v, %v", second, err)
	}
	if yes, err := second.Predicate.Matches(&policy.Host{KVM: true}, &policy.Machine{}); yes || err != nil {
		t.Errorf("the old predicate answers: %v, %v", yes, err)
	}
	if still, err := set.At(old, "placement_policy", "placementPolicies/mine"); err != nil || still.Revision != first.Revision {
		t.Errorf("an old view has %+v, %v", still, err)
	}
	for name, want := range map[string]codes.Code{"placementPolicies/none": codes.NotFound, "mine": codes.InvalidArgument, "placementPolicies/": codes.InvalidArgument} {
		_, err := set.At(s.Cached(), "placement_policy", name)
		if e := apierror.FromStatus(err); err == nil || e.Code != want || e.Fields[0].GetField() != "placement_policy" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPresetsAreThereWithoutAnyRecord(t *testing.T) {
	s := storetest.New(t)
	set := policy.NewSet()
	for _, preset := range policy.Presets() {
		p, err := set.At(s.Cached(), "placement_policy", preset.GetName())
		if err != nil || p.Predicate != nil || p.Revision != 0 || p.Weights == nil {
			t.Errorf("%s: got %+v, %v", preset.GetName(), p, err)
		}
	}
	if p, err := set.At(s.Cached(), "placement_policy", ""); err != nil || p.ID != "spread" {
		t.Errorf("the default is %+v, %v", p, err)
	}
}

func BenchmarkPredicate(b *testing.B) {
	c, err := policy.NewCompiler()
	if err != nil {
		b.Fatal(err)
	}
	p, err := c.Compile("predicate", `"ssd" in host.tags && host.free_cores >= machine.cores * 2`)
	if err != nil {
		b.Fatal(err)
	}
	h, m := &policy.Host{Tags: []string{"a", "b", "ssd"}, FreeCores: 8}, &policy.Machine{Cores: 2}
	b.ReportAllocs()
	for b.Loop() {
		if yes, err := p.Matches(h, m); !yes || err != nil {
			b.Fatal(yes, err)
		}
	}
}
