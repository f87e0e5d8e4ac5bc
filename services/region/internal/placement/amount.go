package placement

import (
	"fmt"
	"strconv"

	"github.com/vmhost-project/vmhost/pkg/units"
)

// The resources of a host, as metadata of errors names them.
const (
	resourceCores     = "cores"
	resourceMemory    = "memory_mib"
	resourceHugepages = "hugepages_mib"
	resourceStorage   = "storage_bytes"
)

// measureOf is what a resource is counted in.
func measureOf(resource string) units.Measure {
	switch resource {
	case resourceCores:
		return units.Count
	case resourceStorage:
		return units.Bytes
	default:
		return units.MiB
	}
}

// ofResource says what an amount is of.
func ofResource(resource, amount string) string {
	switch resource {
	case resourceCores:
		if amount == "1" {
			return "1 core"
		}
		return amount + " cores"
	case resourceMemory:
		return amount + " of memory"
	case resourceHugepages:
		return amount + " of huge pages"
	default:
		return amount
	}
}

func (r Refusal) amount(resource string) string {
	if r.Requested > r.Resource.Most() {
		return r.Resource.tooLarge(resource, r.Requested)
	}
	return r.Resource.notFree(resource, r.Requested)
}

// tooLarge says that no ratio makes room for so much.
func (r Resource) tooLarge(resource string, requested int64) string {
	said := measureOf(resource).Say(units.Room(r.Physical), units.Need(requested), units.Need(r.Reserved))
	less := ""
	if r.Reserved > 0 {
		less = fmt.Sprintf(", %s of them reserved for itself", said[2])
	}
	return fmt.Sprintf("has %s in all%s, less than the %s asked for; overcommit makes no machine possible that is larger than its host",
		ofResource(resource, said[0]), less, said[1])
}

// notFree says that so much is not free.
func (r Resource) notFree(resource string, requested int64) string {
	said := measureOf(resource).Say(append(r.amounts(units.Room), units.Room(r.Free()), units.Need(requested))...)
	return fmt.Sprintf("has %s free of the %s, %s asked for", ofResource(resource, said[5]), r.limit(said), said[6])
}

// amounts are what limit tells; used says how what is in use is told.
func (r Resource) amounts(used func(int64) units.Amount) []units.Amount {
	return []units.Amount{units.Room(r.Limit), units.Room(r.Physical), units.Need(r.Reserved), used(r.Committed), used(r.Foreign)}
}

// limit is the limit and what is in use, by its amounts as they are told.
func (r Resource) limit(said []string) string {
	amount := said[1] + " physical"
	if r.Reserved > 0 {
		amount = fmt.Sprintf("(%s physical − %s reserved)", said[1], said[2])
	}
	return fmt.Sprintf("limit %s (%s × ratio %s; %s committed, %s used by others)",
		said[0], amount, strconv.FormatFloat(r.Ratio, 'g', -1, 64), said[3], said[4])
}

// Over is a resource of which more is in use than its limit allows.
type Over struct {
	Resource

	// Name is which one: cores, memory_mib, storage_bytes.
	Name string
	// Pool is the storage pool, of storage_bytes.
	Pool string
}

// over is the first resource of which more is in use than its limit allows: a
// host that shrank, or got a lower ratio, takes nothing new until it is within
// its limits again.
func (h *Host) over() (Over, bool) {
	switch {
	case h.Cores.Over():
		return Over{Resource: h.Cores, Name: resourceCores}, true
	case h.MemoryMiB.Over():
		return Over{Resource: h.MemoryMiB, Name: resourceMemory}, true
	}
	for i := range h.Pools {
		// One that others have filled takes nothing, which says nothing of the host.
		if h.Pools[i].Identity == "" && h.Pools[i].Over() {
			return Over{Resource: h.Pools[i].Resource, Name: resourceStorage, Pool: h.Pools[i].Name}, true
		}
	}
	return Over{}, false
}

// inUse says what is in use, by the amount as it is told.
func (o *Over) inUse(said string) string {
	what := ofResource(o.Name, said)
	if o.Pool != "" {
		what += " in storage pool " + o.Pool
	}
	return what
}

// refusal is that of a host that has too much of it in use.
func (o *Over) refusal(h *Host, req *Request) Refusal {
	return Refusal{Host: h, Filter: FilterOvercommitted, Resource: o.Resource, Over: o.Name, Pool: o.Pool, req: req}
}

func (r Refusal) overcommitted() string {
	over := Over{Resource: r.Resource, Name: r.Over, Pool: r.Pool}
	said := measureOf(over.Name).Say(append(over.amounts(units.Need), units.Need(over.used()))...)
	return fmt.Sprintf("is overcommitted and takes nothing new: %s are in use, past the %s", over.inUse(said[5]), over.limit(said))
}
