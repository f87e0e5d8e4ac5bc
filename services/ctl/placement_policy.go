package ctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const policyLong = `A placement policy says how hosts that fit are preferred over one another: by
weights, and by a condition that a host must keep. spread, pack and balanced are
there from the start.

--weights are NAME=NUMBER, 0 to 100, of least_loaded, most_loaded, balance,
free_storage, spread_zones, avoid_overcommit, avoid_emulation, avoid_refusing.
--predicate is a CEL expression over host (id, zone, tags, architectures,
capabilities, cores, memory_mib, free_cores, free_memory_mib, machines, kvm) and
machine (cores, memory_mib, tags, resource_pool).`

func (a *app) policyCommand() *cobra.Command { return labelCommand(a, policyLabel()) }

func policyLabel() label[*vmhostv1.PlacementPolicy] {
	return label[*vmhostv1.PlacementPolicy]{
		noun: "placement-policy", plural: "placement policies", collection: placementPolicies,
		long:    policyLong,
		example: `--weights balance=1 --predicate 'host.kvm'`,
		fresh: func(name, description string) *vmhostv1.PlacementPolicy {
			return &vmhostv1.PlacementPolicy{Name: name, Description: description}
		},
		more: policyFlags,
		columns: []display.Column[*vmhostv1.PlacementPolicy]{
			{Head: "WEIGHTS", Cell: func(p *vmhostv1.PlacementPolicy) string { return weightsText(p.GetWeights()) }},
			{Head: "PREDICATE", Wide: true, Cell: func(p *vmhostv1.PlacementPolicy) string { return p.GetPredicate() }},
		},
		block: func(b *display.Block, p *vmhostv1.PlacementPolicy) {
			b.Add("Weights", weightsText(p.GetWeights()))
			b.Add("Predicate", p.GetPredicate())
		},
		list: func(ctx context.Context, api *region, f listFlags) (listed[*vmhostv1.PlacementPolicy], error) {
			items, next, err := collect(ctx, f.limit, func(ctx context.Context, size int32, token string) ([]*vmhostv1.PlacementPolicy, string, error) {
				r, err := call(ctx, api.policies.ListPlacementPolicies, &vmhostv1.ListPlacementPoliciesRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
				return r.GetPlacementPolicies(), r.GetNextPageToken(), err
			})
			return listed[*vmhostv1.PlacementPolicy]{&vmhostv1.ListPlacementPoliciesResponse{PlacementPolicies: items, NextPageToken: next}, items}, err
		},
		get: func(ctx context.Context, api *region, name string) (*vmhostv1.PlacementPolicy, error) {
			return call(ctx, api.policies.GetPlacementPolicy, &vmhostv1.GetPlacementPolicyRequest{Name: name})
		},
		create: func(ctx context.Context, api *region, id string, p *vmhostv1.PlacementPolicy, f *changeFlags) (*vmhostv1.PlacementPolicy, error) {
			return change(ctx, api.policies.CreatePlacementPolicy, &vmhostv1.CreatePlacementPolicyRequest{
				PlacementPolicyId: id, PlacementPolicy: p, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		update: func(ctx context.Context, api *region, p *vmhostv1.PlacementPolicy, paths []string, f *changeFlags) (*vmhostv1.PlacementPolicy, error) {
			return change(ctx, api.policies.UpdatePlacementPolicy, &vmhostv1.UpdatePlacementPolicyRequest{
				PlacementPolicy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
		},
		remove: func(ctx context.Context, api *region, name string, f *changeFlags) error {
			_, err := change(ctx, api.policies.DeletePlacementPolicy, &vmhostv1.DeletePlacementPolicyRequest{Name: name, RequestId: f.id(), ValidateOnly: f.dryRun})
			return err
		},
	}
}

// policyFlags adds --weights and --predicate.
func policyFlags(c *cobra.Command) func(*vmhostv1.PlacementPolicy) ([]string, error) {
	weights := c.Flags().String("weights", "", "how much each score counts, `NAME=NUMBER,…` as above")
	predicate := c.Flags().String("predicate", "", "`CONDITION` that a host must keep, in CEL, as above; '' is none")
	return func(p *vmhostv1.PlacementPolicy) (paths []string, err error) {
		if c.Flags().Changed("weights") {
			paths = append(paths, "weights")
			if p.Weights, err = parseWeights(*weights); err != nil {
				return nil, err
			}
		}
		if c.Flags().Changed("predicate") {
			paths = append(paths, "predicate")
			p.Predicate = *predicate
		}
		return paths, nil
	}
}

// parseWeights reads `least_loaded=1,balance=0.5`.
func parseWeights(s string) (*vmhostv1.PlacementWeights, error) {
	const hint = "write for example --weights least_loaded=1,balance=0.5"
	w := &vmhostv1.PlacementWeights{}
	fields := w.ProtoReflect().Descriptor().Fields()
	once := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		f := fields.ByName(protoreflect.Name(key))
		if f == nil {
			return nil, usage(hint, "--weights has no %q", key)
		}
		if once[key] {
			return nil, usage(hint, "--weights names %s twice", key)
		}
		once[key] = true
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return nil, usage(hint, "--weights %s is %q, which is no number from 0 to 100", key, value)
		}
		w.ProtoReflect().Set(f, protoreflect.ValueOfFloat64(n))
	}
	return w, nil
}

// weightsText are the weights that count, in the order of the contract.
func weightsText(w *vmhostv1.PlacementWeights) string {
	var parts []string
	fields := (*vmhostv1.PlacementWeights)(nil).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if n := w.ProtoReflect().Get(fields.Get(i)).Float(); n != 0 {
			parts = append(parts, fmt.Sprintf("%s=%g", fields.Get(i).Name(), n))
		}
	}
	return strings.Join(parts, ",")
}
