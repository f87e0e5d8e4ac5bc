package ctl

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// The collections of resource names.
const (
	vmHosts       = "vmHosts"
	machines      = "machines"
	operations    = "operations"
	zones         = "zones"
	resourcePools = "resourcePools"
	racks         = "racks"

	placementPolicies = "placementPolicies"
	reservations      = "reservations"
)

// full makes `zones/a` of `a`, and leaves `zones/a` and nothing as they are.
func full(collection, id string) string {
	if id == "" || strings.HasPrefix(id, collection+"/") {
		return id
	}
	return collection + "/" + id
}

// attempt is one way to read what a user named. What a filter finds is looked at
// again, because a `*` in it stands for anything.
type attempt struct {
	filter string
	meant  func(*vmhostv1.Machine) bool
}

var uidPrefix = regexp.MustCompile(`^[0-9a-f]{4}[-0-9a-f]*$`)

// findMachine finds the machine that a user named: by hostname, within a pool
// if one is given, by its name on the hypervisor, by uid or the beginning of
// it, or by resource name.
func (a *app) findMachine(ctx context.Context, api *region, ref, pool string) (*vmhostv1.Machine, error) {
	if name, ok := exactMachine(ref); ok {
		m, err := call(ctx, api.machines.GetMachine, &vmhostv1.GetMachineRequest{Name: name})
		return m, fail(err, "find machine %s", ref)
	}
	lower := strings.ToLower(ref)
	attempts := []attempt{
		{"hostname = " + quote(ref), func(m *vmhostv1.Machine) bool { return m.GetHostname() == ref }},
		{"hypervisor_name = " + quote(ref), func(m *vmhostv1.Machine) bool { return m.GetHypervisorName() == ref }},
	}
	if uidPrefix.MatchString(lower) {
		attempts = append(attempts, attempt{"uid = " + quote(lower+"*"), func(m *vmhostv1.Machine) bool { return strings.HasPrefix(m.GetUid(), lower) }})
	}
	for _, try := range attempts {
		if pool != "" {
			try.filter += " AND resource_pool = " + quote(full(resourcePools, pool))
		}
		found, _, err := collect(ctx, 20, machinePages(api, try.filter, ""))
		if err != nil {
			return nil, fail(err, "find machine %s", ref)
		}
		found = slices.DeleteFunc(found, func(m *vmhostv1.Machine) bool { return !try.meant(m) })
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return nil, ambiguous(ref, found)
		}
	}
	e := apierror.New(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "no machine has that hostname or uid").
		WithHint("see which there are: `vmhostctl machine list`")
	return nil, fail(e, "find machine %s", ref)
}

// exactMachine is the resource name, when ref is one or is a whole uid.
func exactMachine(ref string) (string, bool) {
	if strings.HasPrefix(ref, machines+"/") {
		return ref, true
	}
	if id, err := uuid.Parse(ref); err == nil && len(ref) == 36 {
		return machines + "/" + id.String(), true
	}
	return "", false
}

func ambiguous(ref string, found []*vmhostv1.Machine) error {
	candidates := make([]string, len(found))
	for i, m := range found {
		candidates[i] = fmt.Sprintf("%s (pool %s, host %s, uid %s)",
			machineTitle(m), display.ID(m.GetResourcePool()), display.ID(m.GetVmHost()), m.GetUid())
	}
	e := apierror.New(codes.InvalidArgument, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED,
		"several machines are meant: %s", strings.Join(candidates, "; ")).
		WithHint("name one by its uid, or give --pool")
	return fail(e, "find machine %s", ref)
}

// quote makes a string of a filter.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// shellQuote makes one word for a shell.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// machineTitle is what people call a machine.
func machineTitle(m *vmhostv1.Machine) string {
	return first(m.GetHostname(), m.GetHypervisorName(), m.GetUid())
}
