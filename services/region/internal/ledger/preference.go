package ledger

import (
	"fmt"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// prefer takes over what the request says of where the machine shall be, beyond
// what it needs. What depends on the state is found by resolve.
func (w *want) prefer() error {
	req := w.req
	w.place.Group, w.place.MaxPerZone = req.GetGroup(), req.GetMaxPerZone()
	w.place.OneNUMANode, w.place.CPUModel = req.GetOneNumaNode(), req.GetCpuModel()
	w.place.Capabilities = req.GetRequiredCapabilities()
	if _, err := policy.ID("placement_policy", req.GetPlacementPolicy()); err != nil {
		return err
	}
	if n := req.GetMaxPerZone(); n < 0 || n > 0 && req.GetGroup() == "" {
		return apierror.InvalidField("max_per_zone", "is %d, and is about the machines of a group, which the request does not name", n).
			WithHint("name a group, or leave max_per_zone out")
	}
	rules := req.GetAffinity()
	for i, r := range rules {
		if err := w.checkRule(i, r); err != nil {
			return err
		}
		for j, other := range rules[:i] {
			if what, bad := contradict(r, other); bad {
				return apierror.InvalidField(fmt.Sprintf("affinity[%d]", i), "contradicts affinity[%d]: nothing can be both near to %s and away from it", j, what).
					WithHint("make one of them soft, or leave it out")
			}
		}
	}
	return nil
}

func (w *want) checkRule(i int, r *vmhostv1.AffinityRule) error {
	field := func(name string) string { return fmt.Sprintf("affinity[%d].%s", i, name) }
	switch {
	case r.GetKind() == vmhostv1.AffinityKind_AFFINITY_KIND_UNSPECIFIED:
		return apierror.InvalidField(field("kind"), "must be near or away")
	case r.GetScope() == vmhostv1.AffinityScope_AFFINITY_SCOPE_UNSPECIFIED:
		return apierror.InvalidField(field("scope"), "must be host or zone")
	case len(r.GetMachines()) > 0 && r.GetGroup() != "":
		return apierror.InvalidField(field("group"), "is set, and so is machines; a rule is about one of them")
	case len(r.GetMachines()) == 0 && r.GetGroup() == "":
		return apierror.InvalidField(field("machines"), "must name machines, or group a group")
	}
	w.place.Affinity = append(w.place.Affinity, placement.RuleOf(r))
	return nil
}

// contradict says whether no host can keep two hard rules: one near to what the
// other is away from, in the same scope or a wider one. A rule that is near to
// several is kept by any of them.
func contradict(a, b *vmhostv1.AffinityRule) (what string, bad bool) {
	if a.GetKind() == b.GetKind() || a.GetSoft() || b.GetSoft() {
		return "", false
	}
	near, away := a, b
	if a.GetKind() == vmhostv1.AffinityKind_AFFINITY_KIND_AWAY {
		near, away = b, a
	}
	if near.GetScope() == vmhostv1.AffinityScope_AFFINITY_SCOPE_ZONE && away.GetScope() == vmhostv1.AffinityScope_AFFINITY_SCOPE_VM_HOST {
		return "", false // another host of the zone
	}
	if near.GetGroup() != "" {
		return "group " + near.GetGroup(), near.GetGroup() == away.GetGroup()
	}
	for _, m := range near.GetMachines() {
		if !slices.Contains(away.GetMachines(), m) {
			return "", false
		}
	}
	return near.GetMachines()[0], true
}

// resolve looks up what the request names: the policy, and where machines are.
func (l *Ledger) resolve(v *store.View, w *want) error {
	p, err := l.policies.At(v, "placement_policy", w.req.GetPlacementPolicy())
	if err != nil {
		return err
	}
	w.policy = p
	w.place.Policy = preferenceOf(p, &policy.Machine{
		Cores: int64(w.place.Cores), MemoryMiB: w.place.MemoryMiB, Tags: w.req.GetTags(), ResourcePool: w.place.ResourcePool,
	})
	l.judgeBy(&w.place, p)
	for i, r := range w.req.GetAffinity() {
		hosts := make([]string, 0, len(r.GetMachines()))
		for j, name := range r.GetMachines() {
			field := fmt.Sprintf("affinity[%d].machines[%d]", i, j)
			uid, err := idOf(field, "machines/", name)
			if err != nil {
				return err
			}
			m, ok := store.Machines.Get(v, uid)
			if !ok {
				return apierror.NotFound(name).WithField(field, "does not exist, or is not vmhost's")
			}
			hosts = append(hosts, hostOf(m.Value))
		}
		w.place.Affinity[i].Hosts = hosts
	}
	return nil
}

// bindPolicy makes a transaction depend on the policy that was placed by. Presets
// do not change.
func (w *want) bindPolicy(tx *store.Txn) {
	if !policy.IsPreset(w.policy.ID) {
		tx.IfRevision(store.Policies.Key(w.policy.ID), w.policy.Revision)
	}
}

// preferenceOf is a policy as placement takes it, for a machine.
func preferenceOf(p *policy.Policy, machine *policy.Machine) placement.Policy {
	out := placement.Policy{Name: p.ID, Weights: placement.WeightsOf(p.Weights)}
	if p.Predicate == nil {
		return out
	}
	out.Admits = func(h *placement.Host) (bool, string) {
		yes, err := p.Predicate.Matches(&policy.Host{
			ID: h.ID, Zone: h.Zone, Tags: h.Tags, Architectures: h.Architectures, Capabilities: h.Capabilities,
			Cores: h.Cores.Physical, MemoryMiB: h.MemoryMiB.Physical, FreeCores: h.Cores.Free(), FreeMemoryMiB: h.MemoryMiB.Free(),
			Machines: int64(h.Machines), KVM: h.KVM,
		}, machine)
		if err != nil {
			return false, err.Error()
		}
		return yes, ""
	}
	return out
}

// byOtherZones says whether it matters to the request what is in zones other than
// the one it goes to, or on other hosts: its transaction then compares the groups
// it looked at, see groupKeys.
func (w *want) byOtherZones() bool {
	return w.place.MaxPerZone > 0 || slices.ContainsFunc(w.place.Affinity, func(r placement.Rule) bool { return !r.Soft && r.Zone && !r.Near && r.Group != "" })
}

// groupKeys are the groups that a request with byOtherZones depends on and
// belongs to. Two requests of which one could break what the other asks for have
// one in common if both ask.
func (w *want) groupKeys() []string {
	groups := []string{}
	if w.place.Group != "" {
		groups = append(groups, w.place.Group)
	}
	for _, r := range w.place.Affinity {
		if !r.Soft && r.Zone && r.Group != "" {
			groups = append(groups, r.Group)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}
