package component

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

// refusal is an error as JSON has it.
type refusal struct {
	message, reason string
	metadata        map[string]string
	fields          map[string]string // what is wrong with each
}

// refusalIn reads an answer.
func refusalIn(answer map[string]any) refusal {
	r := refusal{message: fmt.Sprint(answer["message"]), metadata: map[string]string{}, fields: map[string]string{}}
	details, _ := answer["details"].([]any)
	for _, d := range details {
		detail, _ := d.(map[string]any)
		if reason, ok := detail["reason"].(string); ok {
			r.reason = reason
		}
		metadata, _ := detail["metadata"].(map[string]any)
		for k, v := range metadata {
			r.metadata[k] = fmt.Sprint(v)
		}
		violations, _ := detail["fieldViolations"].([]any)
		for _, v := range violations {
			violation, _ := v.(map[string]any)
			r.fields[fmt.Sprint(violation["field"])] = fmt.Sprint(violation["description"])
		}
	}
	return r
}

// P9: what can never be is refused over JSON, and the answer names the field that
// is wrong, or what no host has. Nothing is recorded and nothing is made.
func TestWhatCanNeverBeIsRefusedOverJSONByItsFieldOrItsConstraint_P9(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Cores: 8})
	racktest.Start(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet})
	h := fleet.Host("h1")
	addHost(t, r.Admin, h, "r1")
	call, vmhostctl := web(t, r), terminal(t, r)

	const (
		one, many, hold, policy = "/v1/machines:compose", "/v1/machines:composeMany", "/v1/reservations:reserve", "/v1/placementPolicies?placementPolicyId=p"
		near                    = `{"kind": "AFFINITY_KIND_NEAR", "scope": "AFFINITY_SCOPE_VM_HOST", "group": "db"}`
		away                    = `{"kind": "AFFINITY_KIND_AWAY", "scope": "AFFINITY_SCOPE_VM_HOST", "group": "db"}`
	)
	for _, tc := range []struct {
		name, path, body string
		// field that is wrong; empty: filter of placement refuses every host.
		field, filter string
		says          string
	}{
		{"none of many", many, `{"machine": {}, "count": 0}`, "count", "", "1"},
		{"less than none of many", many, `{"machine": {}, "count": -1}`, "count", "", "1"},
		{"a million of many", many, `{"machine": {}, "count": 1000000}`, "count", "", "1000"},
		{"less than none held", hold, `{"machine": {}, "count": -1}`, "count", "", "0"},
		{"a million held", hold, `{"machine": {}, "count": 1000000}`, "count", "", "1000"},

		{"a tag that no host has", one, `{"requiredTags": ["gpu"]}`, "", "tags", "has no tag gpu"},
		{"a tag that no host has, of many", many, `{"machine": {"requiredTags": ["gpu"]}, "count": 2}`, "", "tags", "has no tag gpu"},
		{"a tag that no host has, held", hold, `{"machine": {"requiredTags": ["gpu"]}}`, "", "tags", "has no tag gpu"},
		{"a tag that is wanted and not", one, `{"requiredTags": ["gpu"], "forbiddenTags": ["gpu"]}`, "forbidden_tags[0]", "", "required_tags[0]"},
		{"more cores than there can be", one, `{"cores": 5000}`, "cores", "", "4096"},
		{"more cores than any host has", one, `{"cores": 9}`, "", "cores", "has 8 cores in all, less than the 9 asked for"},

		{"near to and away from a group", one, `{"group": "db", "affinity": [` + near + `, ` + away + `]}`, "affinity[1]", "", "contradicts affinity[0]"},
		{"away from and near to a group, of many", many, `{"machine": {"affinity": [` + away + `, ` + near + `]}, "count": 2}`, "machine.affinity[1]", "", "contradicts affinity[0]"},
		{"near to and away from a group, held", hold, `{"machine": {"affinity": [` + near + `, ` + away + `]}}`, "machine.affinity[1]", "", "contradicts affinity[0]"},
		{"near to a group of nobody", one, `{"affinity": [` + near + `]}`, "", "affinity", "has no machine of group db"},

		{"CEL that does not compile", policy, `{"predicate": "host.cores >"}`, "placement_policy.predicate", "", "at 1:13"},
		{"CEL that gives a number", policy, `{"predicate": "host.cores * 2"}`, "placement_policy.predicate", "", "must give bool"},
		{"CEL that fails for every host", policy, `{"predicate": "1/0 == 1"}`, "placement_policy.predicate", "", "division by zero"},
		{"CEL that is false for every host", policy, `{"predicate": "1 > 2"}`, "placement_policy.predicate", "", "is false for every host"},
		{"CEL that costs too much", policy, `{"predicate": "host.tags.all(a, host.tags.all(b, a != b))"}`, "placement_policy.predicate", "", "costs too much"},
	} {
		status, answer := call(http.MethodPost, tc.path, tc.body)
		got := refusalIn(answer)
		if tc.field != "" {
			if status != http.StatusBadRequest || got.reason != "INVALID_FIELD" || !slices.Equal(slices.Collect(maps.Keys(got.fields)), []string{tc.field}) ||
				!strings.Contains(got.fields[tc.field], tc.says) {
				t.Errorf("%s: %d %v, want field %s and %q", tc.name, status, answer, tc.field, tc.says)
			}
			continue
		}
		if status != http.StatusTooManyRequests || got.reason != "NO_CAPACITY" || got.metadata["refused_"+tc.filter] != "1" ||
			!strings.Contains(got.message, tc.says) || got.metadata["hint"] == "" {
			t.Errorf("%s: %d %v, want the filter %s and %q", tc.name, status, answer, tc.filter, tc.says)
		}
	}

	// The same at the terminal, where it is the exit code that scripts go by.
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"machine compose m --count 0", 2, "count"},
		{"machine compose m --count -1", 2, "count"},
		{"machine compose m --count 1000000", 2, "count"},
		{"machine compose m --require-tag gpu", 8, "has no tag gpu"},
		{"machine compose m --cores 9", 8, "less than the 9 asked for"},
		{"placement-policy create p --predicate host.cores*2", 2, "must give bool"},
	} {
		if code, out := vmhostctl(strings.Fields(tc.args)...); code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("vmhostctl %s: %d, want %d\n%s", tc.args, code, tc.code, out)
		}
	}

	agree(t, r.Admin, h, nil)
	operations, err := r.Admin.Operations.ListOperations(t.Context(), &vmhostv1.ListOperationsRequest{})
	if err != nil || len(operations.GetOperations()) > 0 {
		t.Errorf("operations: %v, %v", operations, err)
	}
	if status, answer := call(http.MethodGet, "/v1/placementPolicies/p", ""); status != http.StatusNotFound {
		t.Errorf("the policy: %d %v", status, answer)
	}
	if status, answer := call(http.MethodGet, "/v1/reservations", ""); status != http.StatusOK || len(answer["reservations"].([]any)) > 0 {
		t.Errorf("reservations: %d %v", status, answer)
	}
}
