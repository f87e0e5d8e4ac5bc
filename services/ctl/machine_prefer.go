package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const preferLong = `--near and --away say which machines it goes to the same place as, or to
another: GROUP or machines/UID, and after commas more machines, zone for the
zone instead of the host, and soft where it is a wish only.`

// preferFlags say where a machine shall be, beyond what it needs.
type preferFlags struct {
	policy, group, cpuModel  string
	near, away, capabilities []string
	maxPerZone               int32
	oneNode                  bool
}

func (f *preferFlags) register(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.policy, "policy", "", "placement `POLICY` by which hosts are preferred; spread when left out")
	c.Flags().StringVar(&f.group, "group", "", "`WORD` for machines that belong together, within the pool")
	c.Flags().StringArrayVar(&f.near, "near", nil, "`MACHINES` to share a host or zone with, see above; repeat for more")
	c.Flags().StringArrayVar(&f.away, "away", nil, "`MACHINES` not to share one with, see above; repeat for more")
	c.Flags().Int32Var(&f.maxPerZone, "max-per-zone", 0, "`NUMBER` of machines of its group that one zone may have")
	c.Flags().BoolVar(&f.oneNode, "one-numa-node", false, "cores and memory on one NUMA node of the host")
	c.Flags().StringArrayVar(&f.capabilities, "capability", nil, "`WORD` for what the host must be able to, such as kvm; repeat for more")
	c.Flags().StringVar(&f.cpuModel, "cpu-model", "", "CPU `MODEL` that the host must have")
	a.completeFlag(c, "policy", completePolicies)
}

func (f *preferFlags) apply(r *vmhostv1.ComposeMachineRequest) error {
	r.PlacementPolicy, r.Group, r.CpuModel = full(placementPolicies, f.policy), f.group, f.cpuModel
	r.MaxPerZone, r.OneNumaNode, r.RequiredCapabilities = f.maxPerZone, f.oneNode, f.capabilities
	for _, side := range []struct {
		flag  string
		kind  vmhostv1.AffinityKind
		given []string
	}{
		{"--near", vmhostv1.AffinityKind_AFFINITY_KIND_NEAR, f.near},
		{"--away", vmhostv1.AffinityKind_AFFINITY_KIND_AWAY, f.away},
	} {
		for _, s := range side.given {
			rule, err := parseRule(side.flag, s)
			if err != nil {
				return err
			}
			rule.Kind = side.kind
			r.Affinity = append(r.Affinity, rule)
		}
	}
	return nil
}

// parseRule reads `GROUP[,zone][,soft]` or `machines/UID[,machines/UID…][,zone][,soft]`.
func parseRule(flag, s string) (*vmhostv1.AffinityRule, error) {
	hint := "write for example " + flag + " web, " + flag + " web,zone,soft or " + flag + " machines/UID"
	r := &vmhostv1.AffinityRule{Scope: vmhostv1.AffinityScope_AFFINITY_SCOPE_VM_HOST}
	for i, part := range strings.Split(s, ",") {
		switch {
		case strings.HasPrefix(part, machines+"/"):
			r.Machines = append(r.Machines, part)
		case i == 0 && part != "":
			r.Group = part
		case part == "zone":
			r.Scope = vmhostv1.AffinityScope_AFFINITY_SCOPE_ZONE
		case part == "soft":
			r.Soft = true
		default:
			return nil, usage(hint, "%s %q: %q is not understood", flag, s, part)
		}
	}
	if r.GetGroup() != "" && len(r.GetMachines()) > 0 {
		return nil, usage(hint, "%s %q names a group and machines; give it twice", flag, s)
	}
	return r, nil
}

func completePolicies(ctx context.Context, api *region) ([]string, error) {
	r, err := call(ctx, api.policies.ListPlacementPolicies, &vmhostv1.ListPlacementPoliciesRequest{PageSize: completionLimit})
	out := make([]string, len(r.GetPlacementPolicies()))
	for i, p := range r.GetPlacementPolicies() {
		out[i] = describe(display.ID(p.GetName()), p.GetDescription())
	}
	return out, err
}
