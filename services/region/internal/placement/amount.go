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

// told is where an amount is told to, in a sentence.
type told struct {
	words  *string
	amount units.Amount
}

// tell tells the amounts of one sentence, so that they compare as they do.
func tell(resource string, sentence ...told) {
	amounts := make([]units.Amount, len(sentence))
	for i := range sentence {
		amounts[i] = sentence[i].amount
	}
	for i, words := range measureOf(resource).Say(amounts...) {
		*sentence[i].words = words
	}
}

// tooLarge says that no ratio makes room for so much.
func (r Resource) tooLarge(resource string, requested int64) string {
	var physical, reserved, asked string
	tell(resource, told{&physical, units.Room(r.Physical)}, told{&reserved, units.Need(r.Reserved)}, told{&asked, units.Need(requested)})
	less := ""
	switch {
	case r.Reserved > 0 && resource == resourceCores:
		less = fmt.Sprintf(", %s of them reserved for itself", reserved)
	case r.Reserved > 0:
		less = fmt.Sprintf(", %s of it reserved for itself", reserved)
	}
	return fmt.Sprintf("has %s in all%s, less than the %s asked for; overcommit makes no machine possible that is larger than its host",
		ofResource(resource, physical), less, asked)
}

// notFree says that so much is not free.
func (r Resource) notFree(resource string, requested int64) string {
	var free, asked string
	limit := r.limit(resource, units.Room, told{&free, units.Room(r.Free())}, told{&asked, units.Need(requested)})
	return fmt.Sprintf("has %s free of the %s, %s asked for", ofResource(resource, free), limit, asked)
}

// limit is the limit and what is in use, and tells what else the sentence has. What
// is in use is told as a room where it is compared with less, as a need where it is
// too much.
func (r Resource) limit(resource string, used func(int64) units.Amount, more ...told) string {
	var limit, physical, reserved, committed, foreign string
	tell(resource, append(more,
		told{&limit, units.Room(r.Limit)}, told{&physical, units.Room(r.Physical)}, told{&reserved, units.Need(r.Reserved)},
		told{&committed, used(r.Committed)}, told{&foreign, used(r.Foreign)},
	)...)
	amount := physical + " physical"
	if r.Reserved > 0 {
		amount = fmt.Sprintf("(%s physical − %s reserved)", physical, reserved)
	}
	return fmt.Sprintf("limit %s (%s × ratio %s; %s committed, %s used by others)",
		limit, amount, strconv.FormatFloat(r.Ratio, 'g', -1, 64), committed, foreign)
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
	var used string
	limit := over.limit(over.Name, units.Need, told{&used, units.Need(over.used())})
	return fmt.Sprintf("is overcommitted and takes nothing new: %s are in use, past the %s", over.inUse(used), limit)
}
