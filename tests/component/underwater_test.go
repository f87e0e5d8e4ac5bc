package component

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/client"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
)

// over is what a host says of itself that is over its limits; empty: it is not.
func over(ctx context.Context, t *testing.T, api *client.Client, h *fake.Host) string {
	t.Helper()
	host, err := api.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + h.Name()})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(host.GetConditions(), func(c *vmhostv1.Condition) bool { return c.GetType() == "Overcommitted" })
	if i < 0 {
		return ""
	}
	return host.GetConditions()[i].GetMessage()
}

// P1, P9: a ratio is lowered below what is on a host already. That is accepted and
// shown with its numbers; from then on nothing new comes to the host, whichever
// way it is asked for, and what is there stays and can be used. Raised again, or
// emptied below its limit, it takes machines.
func TestARatioBelowWhatIsOnAHostStopsNewMachinesAndTouchesNone_P1_P9(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Cores: 4, MemoryMiB: 400}, fake.HostSpec{Name: "h2", Cores: 2, MemoryMiB: 400})
	racktest.Start(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet})
	h1, h2 := fleet.Host("h1"), fleet.Host("h2")
	addHost(t, r.Admin, h1, "r1")
	call, vmhostctl := web(t, r), terminal(t, r)
	var names []string
	compose := func(hostname string) {
		t.Helper()
		req := order(hostname)
		req.Start = true
		op, err := r.Admin.Machines.ComposeMachine(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, succeed(t, r.Admin, op.GetName()).GetTarget())
	}
	for i := range 3 {
		compose(fmt.Sprintf("first-%d", i))
	}
	ratio := func(resource string, to float64) {
		t.Helper()
		status, host := call(http.MethodPatch, "/v1/vmHosts/h1", fmt.Sprintf(`{"overcommit": {%q: %g}}`, resource, to))
		if status != http.StatusOK {
			t.Fatalf("ratio of %s to %g: %d %v", resource, to, status, host)
		}
	}

	// Whichever resource it is, the host says so, and the refusal has the numbers.
	for _, tc := range []struct {
		resource     string
		low          float64
		shown, words string
	}{
		{"cores", 0.5, "cores: 3 committed and 0 of others, limit 2 (4 there, 0 reserved, ratio 0.5)", "3 cores are in use, past the limit 2 (4 physical × ratio 0.5; 3 committed, 0 used by others)"},
		{"memory", 0.25, "memory: 192 MiB committed and 0 MiB of others, limit 100 MiB (400 MiB there, 0 MiB reserved, ratio 0.25)", "192 MiB of memory are in use, past the limit 100 MiB (400 MiB physical × ratio 0.25; 192 MiB committed, 0 MiB used by others)"},
		{"storage", 0, "storage pool default: 3 MiB committed and 0 bytes of others, limit 0 bytes (931.3 GiB there, 0 bytes reserved, ratio 0)", "3 MiB in storage pool default are in use, past the limit 0 bytes (931.3 GiB physical × ratio 0; 3 MiB committed, 0 bytes used by others)"},
	} {
		ratio(tc.resource, tc.low)
		if got := over(t.Context(), t, r.Admin, h1); got != tc.shown {
			t.Errorf("of %s the host says %q, want %q", tc.resource, got, tc.shown)
		}
		if code, out := vmhostctl("vm-host", "get", "h1"); code != 0 || !strings.Contains(out, tc.shown) {
			t.Errorf("of %s vm-host get says %d\n%s", tc.resource, code, out)
		}
		for _, ask := range []struct{ path, body string }{
			{"/v1/machines:compose", `{"cores": 1, "memoryMib": "1", "diskless": true}`},
			{"/v1/machines:compose", `{"cores": 1, "memoryMib": "1", "diskless": true, "vmHost": "vmHosts/h1"}`},
			{"/v1/machines:composeMany", `{"machine": {"cores": 1, "memoryMib": "1", "diskless": true}, "count": 2}`},
			{"/v1/reservations:reserve", `{"machine": {"cores": 1, "memoryMib": "1", "diskless": true}}`},
		} {
			status, answer := call(http.MethodPost, ask.path, ask.body)
			if got := refusalIn(answer); status != http.StatusTooManyRequests || got.reason != "NO_CAPACITY" || got.metadata["refused_overcommitted"] != "1" ||
				!strings.Contains(got.message, "h1 is overcommitted and takes nothing new: "+tc.words) {
				t.Errorf("%s of %s while %s is over: %d %v, want %q", ask.path, ask.body, tc.resource, status, answer, tc.words)
			}
		}
		if status, plan := call(http.MethodPost, "/v1/machines:compose", `{"validateOnly": true}`); status != http.StatusOK || !strings.Contains(fmt.Sprint(plan), "filter:overcommitted") {
			t.Errorf("dry run while %s is over: %d %v", tc.resource, status, plan)
		}
		ratio(tc.resource, 1)
		if got := over(t.Context(), t, r.Admin, h1); got != "" {
			t.Errorf("with the ratio of %s raised again the host says %q", tc.resource, got)
		}
	}

	// Another host has room: it gets what fits there, and this one nothing.
	ratio("cores", 0.5)
	addHost(t, r.Admin, h2, "r1")
	compose("second-0")
	compose("second-1")
	if n := len(h2.All()); n != 2 {
		t.Errorf("%d machines came to the other host", n)
	}
	_, err := r.Admin.Machines.ComposeMachine(t.Context(), order("third"))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["refused_overcommitted"] != "1" || e.Metadata["refused_cores"] != "1" {
		t.Errorf("with no room left elsewhere: %v, %v", err, e.Metadata)
	}

	// What is there stays, runs, and does as it is told.
	agreeOn(t, r.Admin, names, h1, h2)
	for _, m := range h1.All() {
		if m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON {
			t.Errorf("%s is %v", m.GetName(), m.GetPowerState())
		}
	}
	cycled, err := r.Admin.Machines.CycleMachine(t.Context(), &vmhostv1.CycleMachineRequest{Name: names[0]})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, r.Admin, cycled.GetName())

	// One less, and it is at its limit: no more over it, and full.
	deleted, err := r.Admin.Machines.DeleteMachine(t.Context(), &vmhostv1.DeleteMachineRequest{Name: names[0]})
	if err != nil {
		t.Fatal(err)
	}
	succeed(t, r.Admin, deleted.GetName())
	names = names[1:]
	await(t, "the host to be within its limits", func(ctx context.Context) error {
		if got := over(ctx, t, r.Admin, h1); got != "" {
			return errors.New(got)
		}
		return nil
	})
	_, err = r.Admin.Machines.ComposeMachine(t.Context(), order("third"))
	if e := apierror.FromStatus(err); e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["refused_cores"] != "2" {
		t.Errorf("at its limit: %v, %v", err, e.Metadata)
	}
	ratio("cores", 1)
	compose("third")
	if n := len(h1.All()); n != 3 {
		t.Errorf("after the ratio was raised the host has %d machines", n)
	}
	agreeOn(t, r.Admin, names, h1, h2)
}
