// Package placement chooses the host for a machine: a pure function over hosts
// and a request. It takes nothing, waits for nothing and owns no goroutine; the
// ledger turns its plan into a commitment.
//
// Invariants, each with a property test:
//
//   - A plan never takes more of a resource than its limit leaves (P1).
//   - A request is refused only when no host fits.
//   - The reason given for a host is true of that host.
//
// Hosts are values that nobody changes: Take answers a changed copy, so that one
// snapshot serves many requests.
package placement

import (
	"slices"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Request is a machine that is wanted. Zone, ResourcePool and VMHost are ids,
// not resource names.
type Request struct {
	// Cores are virtual cores, at least 1.
	Cores int32
	// MemoryMiB is at least 1.
	MemoryMiB int64
	// Disks in the order they are attached.
	Disks []Disk
	// Interfaces in the order they are attached.
	Interfaces []Interface
	// Architecture, empty: any.
	Architecture string
	// ResourcePool the host must belong to.
	ResourcePool string
	// Zone the host must be in, empty: any.
	Zone string
	// VMHost is the only host considered, empty: any.
	VMHost string
	// RequiredTags the host must have, ForbiddenTags it must not have.
	RequiredTags, ForbiddenTags []string
	// HypervisorName is the name the machine will have on the hypervisor.
	HypervisorName string
	// NameTaken says whether something on the host has HypervisorName already;
	// nil: nothing has.
	NameTaken func(host string) bool
	// Explain asks for the refusals also when a host was found.
	Explain bool
}

// Disk is one disk that is wanted.
type Disk struct {
	// SizeBytes is more than 0.
	SizeBytes int64
	// Pool is the storage pool, empty: the host's choice.
	Pool string
}

// Interface is one interface that is wanted.
type Interface struct {
	// Source is the network, bridge or device, empty: the host's choice.
	Source string
	// Kind is what Source names, unspecified: a network.
	Kind vmhostv1.InterfaceKind
}

// Plan is where a machine goes, or why it goes nowhere.
type Plan struct {
	// Host is the host chosen, nil when none fits. Index is its place in the
	// hosts that were given.
	Host  *Host
	Index int
	// Architecture is the one asked for, or the host's first.
	Architecture string
	// Pools has the storage pool of each disk.
	Pools []string
	// Networks has what each interface is attached to, with source and kind set.
	Networks []Interface
	// Load of the host after taking the machine, 0 to 1.
	Load float64
	// Considered is how many hosts were looked at.
	Considered int
	// Refusals are why hosts were refused, those nearest to fitting first. Filled
	// when no host fits, or when the request asked for it.
	Refusals []Refusal
	// RefusedCounts has how many hosts each filter refused, filled like Refusals.
	RefusedCounts map[Filter]int
}

// Choose finds the least loaded host that fits. Hosts must be sorted by id: of
// two that are loaded alike the first is chosen.
func Choose(hosts []*Host, req Request) Plan {
	plan := Plan{Index: -1, Considered: len(hosts)}
	var fit fitting
	for i, h := range hosts {
		// The load is cheap and most hosts lose by it: a host that could not win
		// is not looked at any further.
		load := h.loadWith(req.Cores, req.MemoryMiB)
		if plan.Index >= 0 && load >= plan.Load {
			continue
		}
		if _, ok := check(h, &req, &fit); ok {
			plan.Index, plan.Load = i, load
		}
	}
	if plan.Index >= 0 {
		plan.Host = hosts[plan.Index]
		check(plan.Host, &req, &fit)
		plan.Architecture = fit.architecture
		plan.Pools = slices.Clone(fit.pools)
		plan.Networks = slices.Clone(fit.networks)
	}
	if plan.Index < 0 || req.Explain {
		plan.explain(hosts, &req)
	}
	return plan
}

func (p *Plan) explain(hosts []*Host, req *Request) {
	p.RefusedCounts = map[Filter]int{}
	var fit fitting
	for _, h := range hosts {
		refusal, ok := check(h, req, &fit)
		if ok {
			continue
		}
		p.RefusedCounts[refusal.Filter]++
		p.Refusals = append(p.Refusals, refusal)
	}
	slices.SortStableFunc(p.Refusals, func(a, b Refusal) int { return b.Filter.rank() - a.Filter.rank() })
}

// fitting is what check finds on the way; reused between hosts.
type fitting struct {
	architecture string
	pools        []string
	networks     []Interface
	free         []int64
}
