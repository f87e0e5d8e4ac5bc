package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Refusal is why one host was refused: the first filter it failed. The words are
// made only when somebody reads them.
type Refusal struct {
	// Host that was refused.
	Host *Host
	// Filter it failed.
	Filter Filter
	// Item is the number of the disk, interface or pinned core.
	Item int
	// Requested is what was asked for, for cores, memory, hugepages and storage.
	// Largest is the largest disk of it, when that one alone is too large.
	Requested, Largest int64
	// Disks is how many disks Requested is of.
	Disks int
	// Resource is what the host has of it. Over says which resource it is, see
	// Over.Name, where that is not the filter's: of hosts that are overcommitted.
	Resource Resource
	Over     string
	// Pool is the storage pool; Tagless says that it has not the tags.
	Pool    string
	Tagless bool
	// Missing says that the storage pool or core is not there or not running.
	Missing bool
	// Onto says that the disk is in the storage pool already, on another host, and
	// cannot stay there; Bound that it can do nothing else, and the host has no such
	// pool.
	Onto, Bound bool
	// Why is what the policy's predicate says.
	Why string

	req *Request
}

// Message says the reason for people, with the numbers.
func (r Refusal) Message() string {
	h := r.Host
	switch r.Filter {
	case FilterVMHost:
		if r.req.From == h.ID {
			return "is the host that the machine is on"
		}
		return "is not the host that was asked for, " + r.req.VMHost
	case FilterResourcePool:
		return fmt.Sprintf("belongs to resource pool %s, not %s", h.ResourcePool, r.req.ResourcePool)
	case FilterZone:
		return fmt.Sprintf("is in zone %s, not %s", h.Zone, r.req.Zone)
	case FilterTags:
		return r.tags()
	case FilterCordon:
		return "is cordoned"
	case FilterState:
		return r.state()
	case FilterOvercommitted:
		return r.overcommitted()
	case FilterType:
		return r.kind()
	case FilterCapability:
		return r.capability()
	case FilterImage:
		return r.image()
	case FilterArchitecture:
		if len(h.Architectures) == 0 {
			return "runs no known architecture"
		}
		return fmt.Sprintf("runs %s, not %s", strings.Join(h.Architectures, ", "), r.req.Architecture)
	case FilterHostname:
		return fmt.Sprintf("has something named %s on its hypervisor already", r.req.NameOn(h))
	case FilterCPUModel:
		return r.cpuModel()
	case FilterPolicy:
		return r.policy()
	case FilterAffinity:
		return r.affinity()
	case FilterSpread:
		return fmt.Sprintf("is in zone %s, which has %s of group %s; at most %d are wanted in one zone", h.Zone, counted(r.Requested, "machines"), r.req.Group, r.req.MaxPerZone)
	case FilterNUMA:
		return r.numa()
	case FilterNetwork:
		return r.network()
	case FilterCores:
		return r.amount(resourceCores)
	case FilterMemory:
		return r.amount(resourceMemory)
	case FilterHugepages:
		return r.hugepages()
	case FilterPinnedCores:
		if r.Missing {
			return fmt.Sprintf("has no core %d; it has %s", r.req.PinnedCores[r.Item], counted(h.Cores.Physical, "cores"))
		}
		return fmt.Sprintf("has another machine pinned to core %d", r.req.PinnedCores[r.Item])
	default:
		return r.storage()
	}
}

// counted is so many of a unit, whose first word is in the plural.
func counted(n int64, unit string) string {
	first, rest, _ := strings.Cut(unit+" ", " ")
	if n == 1 {
		first = strings.TrimSuffix(first, "s")
	}
	return strings.TrimSpace(strconv.FormatInt(n, 10) + " " + first + " " + rest)
}

func (r Refusal) capability() string {
	switch word := r.Host.missingCapability(r.req); word {
	case secureBoot:
		return "cannot start machines with secure boot"
	case hugePages:
		return "has no huge pages"
	case srIOV:
		return "has no device with virtual functions (SR-IOV)"
	default:
		return "has not the capability " + word
	}
}

func (r Refusal) hugepages() string {
	if r.oddPages() {
		said := units.MiB.Say(units.Exact(r.Host.PageMiB), units.Exact(r.Requested))
		return fmt.Sprintf("has huge pages of %s; %s of memory is no multiple of that", said[0], said[1])
	}
	return r.amount(resourceHugepages)
}

// oddPages says whether the memory is no multiple of the host's huge pages.
func (r Refusal) oddPages() bool { return r.Host.PageMiB > 0 && r.Requested%r.Host.PageMiB != 0 }

func (r Refusal) storage() string {
	tags := ""
	if want := r.req.Disks[r.Item].Tags; len(want) > 0 {
		tags = " with tags " + strings.Join(want, ", ")
	}
	switch {
	case r.Onto:
		return fmt.Sprintf("has storage pool %s%s, which disk %d of the machine is in already: it would be copied onto itself, and cannot stay as it is: %s",
			r.Pool, r.sharing(), r.Item, r.req.Copies)
	case r.Bound:
		return fmt.Sprintf("has not the storage pool that disk %d of the machine is in (%s), which cannot be copied", r.Item, r.req.Disks[r.Item].Held)
	case r.Missing && r.req.Disks[r.Item].Held != "":
		return fmt.Sprintf("has storage pool %s%s, in which disk %d of the machine stays, but it is not running", r.Pool, r.sharing(), r.Item)
	case r.Missing && r.Pool == "" && tags != "":
		return "has no running storage pool" + tags
	case r.Missing && r.Pool == "":
		return "has no storage pool that is running"
	case r.Missing:
		return "has no running storage pool named " + r.Pool
	case r.Tagless:
		return fmt.Sprintf("has storage pool %s, but not%s", r.Pool, tags)
	case r.Largest > r.Resource.Most():
		return fmt.Sprintf("storage pool %s%s %s", r.Pool, r.sharing(), r.Resource.tooLarge(resourceStorage, r.Largest))
	default:
		in := ""
		if r.Disks > 1 {
			in = fmt.Sprintf(" in %d disks", r.Disks)
		}
		return fmt.Sprintf("storage pool %s%s %s%s", r.Pool, r.sharing(), r.Resource.notFree(resourceStorage, r.Requested), in)
	}
}

// sharing says who else has the pool.
func (r Refusal) sharing() string {
	j := r.Host.pool(r.Pool)
	if j < 0 || r.Host.Pools[j].Identity == "" {
		return ""
	}
	p := &r.Host.Pools[j]
	if p.Hosts <= 1 {
		return fmt.Sprintf(" (%s)", p.Identity)
	}
	return fmt.Sprintf(" (%s, which %d hosts share)", p.Identity, p.Hosts)
}

func (r Refusal) tags() string {
	tag, missing := r.tag()
	if missing {
		return "has no tag " + tag
	}
	return "has the forbidden tag " + tag
}

// tag is the first that the host has not and must have, else the first that it has
// and must not have.
func (r Refusal) tag() (tag string, missing bool) {
	for _, t := range r.req.RequiredTags {
		if !slices.Contains(r.Host.Tags, t) {
			return t, true
		}
	}
	for _, t := range r.req.ForbiddenTags {
		if slices.Contains(r.Host.Tags, t) {
			return t, false
		}
	}
	return "", false
}

func (r Refusal) state() string {
	if r.Host.Barred != "" {
		return "cannot be the destination: " + r.Host.Barred
	}
	word := strings.ToLower(strings.TrimPrefix(r.Host.State.String(), "VM_HOST_STATE_"))
	if r.Host.State == vmhostv1.VmHostState_VM_HOST_STATE_UNSPECIFIED {
		word = "pending"
	}
	if r.Host.Trouble == "" {
		return "is " + strings.ReplaceAll(word, "_", " ")
	}
	return "is " + strings.ReplaceAll(word, "_", " ") + ": " + r.Host.Trouble
}

// Reason is the reason beyond the filter, where one is known.
func (r Refusal) Reason() vmhostv1.ErrorReason {
	if r.Filter != FilterState || r.Host.Barred != "" {
		return vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	switch r.Host.State {
	case vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE:
		return vmhostv1.ErrorReason_HOST_UNREACHABLE
	case vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED:
		return vmhostv1.ErrorReason_HOST_AUTH_FAILED
	case vmhostv1.VmHostState_VM_HOST_STATE_HOST_KEY_CHANGED:
		return vmhostv1.ErrorReason_HOST_KEY_CHANGED
	case vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK:
		return vmhostv1.ErrorReason_NO_RACK
	default:
		return vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
}

// Proto is the refusal as the API shows it.
func (r Refusal) Proto() *vmhostv1.PlacementRefusal {
	out := &vmhostv1.PlacementRefusal{
		VmHost: "vmHosts/" + r.Host.ID, Filter: string(r.Filter), Message: r.Message(), Reason: r.Reason(),
		Requested: r.Requested, StoragePool: r.Pool,
	}
	if out.Resource = r.resource(); out.GetResource() != "" {
		out.Free, out.Limit, out.Ratio, out.Used = r.Resource.Free(), r.Resource.Limit, r.Resource.Ratio, r.Resource.used()
	}
	return out
}

// resource is what the numbers are of; empty when there are none, as for a storage
// pool that is not there.
func (r Refusal) resource() string {
	if r.Requested == 0 && r.Filter != FilterOvercommitted {
		return ""
	}
	switch r.Filter {
	case FilterCores:
		return resourceCores
	case FilterMemory:
		return resourceMemory
	case FilterHugepages:
		return resourceHugepages
	case FilterStorage:
		return resourceStorage
	case FilterOvercommitted:
		return r.Over
	default:
		return ""
	}
}

// Parameters is the refusal as metadata of errors has it, for programs: words, and
// the resource's numbers in its unit (cores, MiB, bytes).
func (r Refusal) Parameters() string {
	text := "vm_host=" + r.Host.ID + " filter=" + string(r.Filter)
	switch {
	case r.Filter == FilterOvercommitted:
		text += fmt.Sprintf(" resource=%s used=%d limit=%d ratio=%g", r.Over, r.Resource.used(), r.Resource.Limit, r.Resource.Ratio)
	case r.resource() != "":
		text += fmt.Sprintf(" requested=%d free=%d limit=%d ratio=%g", r.Requested, r.Resource.Free(), r.Resource.Limit, r.Resource.Ratio)
	}
	if r.Pool != "" {
		text += " storage_pool=" + r.Pool
	}
	return text
}

// maxRefusals is how many refusals an answer carries; the counts have them all.
const maxRefusals = 100

// Proto is the plan as the API shows it.
func (p *Plan) Proto() *vmhostv1.Placement {
	out := &vmhostv1.Placement{Considered: int32(p.Considered), StoragePools: p.Pools}
	if p.Host != nil {
		out.VmHost, out.Load = "vmHosts/"+p.Host.ID, p.Load
	} else {
		out.Hint = p.Advice()
	}
	out.StoragePoolReasons = p.PoolReasons
	for _, n := range p.Networks {
		out.Networks = append(out.Networks, n.Source)
		out.NetworkChoices = append(out.NetworkChoices, &vmhostv1.NetworkChoice{Source: n.Source, Kind: choiceWord(n.Kind), Why: n.Why})
	}
	for _, r := range p.Refusals[:min(len(p.Refusals), maxRefusals)] {
		out.Refusals = append(out.Refusals, r.Proto())
	}
	for f, n := range p.RefusedCounts {
		if out.RefusedCounts == nil {
			out.RefusedCounts = map[string]int32{}
		}
		out.RefusedCounts[string(f)] = int32(n)
	}
	return out
}

// Summary says in one line why nothing fits: how many hosts each filter refused
// and, of those that came nearest, the numbers.
func (p *Plan) Summary() string {
	if p.Considered == 0 {
		return "there is no host"
	}
	const shown = 3
	var words []string
	for _, r := range p.Refusals {
		if len(words) == shown {
			break
		}
		if r.Filter == FilterVMHost && r.Host.ID != r.req.VMHost && p.Considered > 1 { // another was asked for; that is not news
			continue
		}
		words = append(words, r.Host.ID+" "+r.Message())
	}
	text := fmt.Sprintf("none of %d hosts fits: %s", p.Considered, strings.Join(words, "; "))
	if p.Considered == 1 {
		text = "the only host does not fit: " + strings.Join(words, "; ")
	}
	rest := -len(words)
	for _, n := range p.RefusedCounts {
		rest += n
	}
	if rest > 0 {
		var counts []string
		for f, n := range p.RefusedCounts {
			counts = append(counts, fmt.Sprintf("%s %d", f, n))
		}
		slices.SortFunc(counts, cmp.Compare[string])
		text += fmt.Sprintf("; and %d more (by reason: %s)", rest, strings.Join(counts, ", "))
	}
	return text
}
