package ledger

import (
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// MachineOf is a recorded machine as a view has it, with what it asks of another
// host: what its place was asked for with, and the same kind of hypervisor. The
// host that it is on is none of its candidates, and the machine does not count in
// its own group.
//
// What was asked for and is gone binds nobody: a policy that was deleted gives way
// to the default, a machine that a rule names is left out of it, and a rule that
// only named such is dropped.
func (l *Ledger) MachineOf(v *store.View, m *storev1.StoredMachine) placement.Machine {
	out := placement.MachineOf(m)
	req := &out.Request
	spec, _ := store.VmHosts.Get(v, out.Host)
	req.HostType = spec.Value.GetResource().GetType()
	p := l.policyOf(v, m)
	req.Policy = preferenceOf(p, &policy.Machine{Cores: int64(req.Cores), MemoryMiB: req.MemoryMiB, Tags: m.GetResource().GetTags(), ResourcePool: req.ResourcePool})
	l.judgeBy(req, p)
	req.NameTaken = func(host, name string) bool { return l.index.nameTaken(v, host, name) }
	req.Affinity = boundBy(v, m.GetPlacement().GetAffinity(), req.Affinity)
	holdDisks(v, m, req)
	return out
}

// policyOf is the policy that a machine was placed by, as it is now.
func (l *Ledger) policyOf(v *store.View, m *storev1.StoredMachine) *policy.Policy {
	p, err := l.policies.At(v, "placement_policy", m.GetPlacement().GetPlacementPolicy())
	if err != nil {
		return defaultPolicy()
	}
	return p
}

// whereabouts are the hosts of machines, those that are not there left out.
func whereabouts(v *store.View, names []string) []string {
	var hosts []string
	for _, name := range names {
		if m, ok := store.Machines.Get(v, strings.TrimPrefix(name, "machines/")); ok {
			hosts = append(hosts, hostOf(m.Value))
		}
	}
	return hosts
}
