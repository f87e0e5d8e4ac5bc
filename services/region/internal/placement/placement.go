// Package placement chooses the host for a machine: a pure function over hosts
// and a request. It takes nothing, waits for nothing and owns no goroutine; the
// ledger turns its plan into a commitment.
//
// Invariants, each with a property test:
//
//   - A plan never takes more of a resource than its limit leaves (P1), no core
//     and no address that another machine has.
//   - A request is refused only when no host fits.
//   - The reason given for a host is true of that host.
//
// Hosts are values that nobody changes: Take answers a changed copy, so that one
// snapshot serves many requests. The same hosts and the same request give the
// same plan.
package placement

import (
	"slices"
	"strings"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Plan is where a machine goes, or why it goes nowhere.
type Plan struct {
	// Host is the host chosen, nil when none fits. Index is its place in the
	// hosts that were given.
	Host  *Host
	Index int
	// Architecture is the one asked for, or the host's first.
	Architecture string
	// Pools has the storage pool of each disk, PoolReasons why.
	Pools, PoolReasons []string
	// Staying says of each disk whether it stays where it is; nil: none does.
	Staying []bool
	// Networks has what each interface is attached to.
	Networks []Attachment
	// PinnedCores are the host's cores that the machine is pinned to: those asked
	// for, or those chosen on NUMANode; NUMANode is -1 unless one was asked for.
	PinnedCores []int32
	NUMANode    int32
	// Scores are how the host was judged.
	Scores Scores
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

// Attachment is what an interface is attached to.
type Attachment struct {
	// Source is the network, bridge or device, Kind what it is.
	Source string
	Kind   vmhostv1.InterfaceKind
	// VLAN is the tag that the interface's frames get, 0 for none.
	VLAN int32
	// Why it was chosen, for people.
	Why string
}

// Commitment is all that the machine takes of its host. Of one that is moved, disks
// that stay where they are take nothing: see Arrived.
func (p *Plan) Commitment(req *Request) *storev1.Commitment {
	c := &storev1.Commitment{Cores: req.Cores, MemoryMib: req.MemoryMiB, PinnedCores: slices.Clone(p.PinnedCores)}
	slices.Sort(c.GetPinnedCores())
	if req.Hugepages {
		c.HugepagesMib = req.MemoryMiB
	}
	for i, d := range req.Disks {
		if p.Stays(i) {
			continue
		}
		if c.StorageBytes == nil {
			c.StorageBytes = map[string]int64{}
		}
		c.StorageBytes[p.Pools[i]] += d.SizeBytes
	}
	for i, n := range p.Networks {
		if n.Kind == vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV {
			if c.SriovFunctions == nil {
				c.SriovFunctions = map[string]int32{}
			}
			c.SriovFunctions[n.Source]++
		}
		if a := req.Interfaces[i].Address; a.IsValid() {
			c.FixedAddresses = append(c.FixedAddresses, FixedAddress(n.Source, a.String()))
		}
	}
	slices.Sort(c.GetFixedAddresses())
	return c
}

// FixedAddress is how a ledger holds an address of a network.
func FixedAddress(network, address string) string { return network + "/" + strings.ToLower(address) }

// fitting is what check finds on the way; reused between hosts.
type fitting struct {
	architecture string
	pools        []string
	poolHow      []how
	networks     []pick
	free         []int64
	cores        []int32 // pinned
	node         int32   // of the NUMA node, where one is asked for
}
