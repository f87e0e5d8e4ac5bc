package policy_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
)

// What is known without any host is known of all of them. A predicate that is false
// or fails whatever host it is asked about is found; what depends on the host is not
// taken for it.
func TestAPredicateThatNoHostPassesIsFound(t *testing.T) {
	c := compiler(t)
	for _, tc := range []struct{ text, want string }{
		{"", ""},
		{" ", ""},
		{"true", ""},
		{"1 < 2", ""},
		{"true || 1/0 == 1", ""},
		{"host.kvm", ""},
		{"!host.kvm", ""},
		{"host.kvm || false", ""},
		{"host.kvm || 1/0 == 1", ""},
		{"1/0 == 1 || host.kvm", ""},
		{`host.kvm ? machine.cores > 1 : 1/0 == 1`, ""},
		{`host.tags[3] == "x"`, ""},
		{"machine.cores / host.machines > 1", ""},
		{`host.tags.exists(t, t == "a")`, ""},
		{`machine.tags.all(t, t == "a")`, ""},
		{`["a", "b"].exists(t, t in host.tags)`, ""},
		{`host.id in ["h1", "h2"]`, ""},
		{`host.zone.startsWith("z") && host.id.matches("^h[0-9]+$")`, ""},

		{"false", "is false for every host"},
		{"1 > 2", "is false for every host"},
		{"!(1 < 2)", "is false for every host"},
		{"host.kvm && false", "is false for every host"},
		{"false && 1/0 == 1", "is false for every host"},
		{"[].exists(t, t == 1)", "is false for every host"},
		{`"a" in ["b"]`, "is false for every host"},
		{"1/0 == 1", "fails for every host: division by zero"},
		{"!(1 % 0 == 1)", "fails for every host: modulus by zero"},
		{"1/0 == 1 && true", "fails for every host: division by zero"},
		{"[1][3] == 1 || false", "fails for every host: index out of bounds: 3"},
		{`{"a": 1}["b"] == 1`, "fails for every host: no such key: b"},
		{"9223372036854775807 + 1 > 0", "fails for every host: integer overflow"},
		{`int("x") == 1`, "does not compile: "},
		{"9223372036854775807 + 1 > 0 ? host.kvm : true", "fails for every host: integer overflow"},

		{"host.cores >", "does not compile: at 1:13"},
		{`"a".matches("(")`, "does not compile: "},
		{"host.cores", "must give bool"},
	} {
		err := c.Check("placement_policy.predicate", tc.text)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.text, err)
			}
			continue
		}
		e := apierror.FromStatus(err)
		if err == nil || e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) != 1 || e.Fields[0].GetField() != "placement_policy.predicate" ||
			!strings.Contains(e.Message, tc.want) || strings.Contains(e.Message, "\n") {
			t.Errorf("%s: got %v, want %q", tc.text, err, tc.want)
		}
	}
}

// Whatever a predicate is made of: of one that is refused there is no host that
// passes it.
func TestNoPredicateThatAHostPassesIsRefused(t *testing.T) {
	c := compiler(t)
	atom := rapid.SampledFrom([]string{
		"true", "false", "1 > 2", "1/0 == 1", "[1][3] == 1", "host.kvm", "host.cores > 2", "machine.cores / host.machines > 1", `host.tags[0] == "a"`, `"a" in machine.tags`,
	})
	var expression func(depth int) *rapid.Generator[string]
	expression = func(depth int) *rapid.Generator[string] {
		if depth == 0 {
			return atom
		}
		part := expression(depth - 1)
		return rapid.OneOf(
			atom,
			rapid.Map(part, func(a string) string { return "!(" + a + ")" }),
			rapid.Custom(func(t *rapid.T) string {
				return "(" + part.Draw(t, "a") + rapid.SampledFrom([]string{" && ", " || "}).Draw(t, "op") + part.Draw(t, "b") + ")"
			}),
			rapid.Custom(func(t *rapid.T) string {
				return "(" + part.Draw(t, "if") + " ? " + part.Draw(t, "then") + " : " + part.Draw(t, "else") + ")"
			}),
		)
	}
	tags := rapid.SampledFrom([][]string{nil, {"a"}, {"b"}})
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		text := expression(3).Draw(t, "predicate")
		why := c.Check("predicate", text)
		if why == nil {
			return
		}
		refused++
		p, err := c.Compile("predicate", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for range 20 {
			h := &policy.Host{Cores: rapid.Int64Range(0, 4).Draw(t, "cores"), Machines: rapid.Int64Range(0, 1).Draw(t, "machines"), KVM: rapid.Bool().Draw(t, "kvm"), Tags: tags.Draw(t, "tags")}
			m := &policy.Machine{Cores: rapid.Int64Range(1, 4).Draw(t, "asked"), Tags: tags.Draw(t, "machine tags")}
			if yes, _ := p.Matches(h, m); yes {
				t.Fatalf("%s is refused: %v; %+v passes it", text, why, h)
			}
		}
	})
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
