// Package feed makes the inventories and request streams of /benchmarks: the same
// hosts and the same requests for vmhost and for whatever it is compared with, as
// JSON lines in the shape of OpenStack Placement's API.
//
// Everything follows from the name of a set and its seed, with a generator of
// random numbers that is written out here, so that another version of Go makes the
// same bytes; a test pins them. The package starts no goroutine and does no I/O
// but to the writer it is given.
package feed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Set is one inventory with its requests.
type Set struct {
	// Name is that of its folder.
	Name string
	// Hosts and Requests are how many.
	Hosts, Requests int
	// Mixed fleets have hosts of several classes, in zones and with tags, and
	// requests of several sizes with constraints. Others have equal hosts and
	// equal requests.
	Mixed bool
	// Seed is what everything random follows from.
	Seed uint64
}

// Sets are those of /benchmarks.
func Sets() []Set {
	return []Set{
		{Name: "uniform-1000", Hosts: 1000, Requests: 20_000, Seed: 1},
		{Name: "uniform-5000", Hosts: 5000, Requests: 20_000, Seed: 1},
		{Name: "mixed-1000", Hosts: 1000, Requests: 20_000, Mixed: true, Seed: 1},
		{Name: "mixed-5000", Hosts: 5000, Requests: 20_000, Mixed: true, Seed: 1},
	}
}

// Inventory is one resource of a host, as Placement has it.
type Inventory struct {
	Total           int64   `json:"total"`
	Reserved        int64   `json:"reserved"`
	MinUnit         int64   `json:"min_unit"`
	MaxUnit         int64   `json:"max_unit"`
	StepSize        int64   `json:"step_size"`
	AllocationRatio float64 `json:"allocation_ratio"`
}

// Resources of one host by Placement's names: cores, memory in MiB, disk in
// units of 10^9 bytes.
type Resources[T any] struct {
	DiskGB   T `json:"DISK_GB"`
	MemoryMB T `json:"MEMORY_MB"`
	VCPU     T `json:"VCPU"`
}

// Host is one line of hosts.jsonl.
type Host struct {
	Provider struct {
		UUID string `json:"uuid"`
		Name string `json:"name"`
	} `json:"resource_provider"`
	Inventories Resources[Inventory] `json:"inventories"`
	// Traits are the tags and Aggregates the zone, in Placement's words.
	Traits     []string `json:"traits"`
	Aggregates []string `json:"aggregates"`
	Tags       []string `json:"tags"`
	Zone       string   `json:"zone"`
}

// Request is one line of requests.jsonl.
type Request struct {
	// Consumer is the uuid of the machine.
	Consumer  string           `json:"consumer_uuid"`
	Resources Resources[int64] `json:"resources"`
	// Zone and tags; empty: any.
	Zone          string   `json:"zone,omitempty"`
	RequiredTags  []string `json:"required_tags,omitempty"`
	ForbiddenTags []string `json:"forbidden_tags,omitempty"`
	// Query is the same as the query of GET /allocation_candidates, without limit.
	Query string `json:"query"`
}

// class is a kind of host.
type class struct {
	weight                  int
	cores, memoryMiB, disk  int64
	coreRatio, memory, room float64
	tags                    []string
}

const gib = 1024 // MiB

// standard is the host of the measurements of the peers.
func standard() class {
	return class{weight: 50, cores: 64, memoryMiB: 256 * gib, disk: 4000, coreRatio: 4, memory: 1.5, room: 1, tags: []string{"ssd"}}
}

func classes() []class {
	return []class{
		standard(),
		{weight: 20, cores: 128, memoryMiB: 1024 * gib, disk: 8000, coreRatio: 2, memory: 1, room: 1, tags: []string{"nvme", "ssd"}},
		{weight: 20, cores: 32, memoryMiB: 128 * gib, disk: 16000, coreRatio: 4, memory: 1.2, room: 1.5, tags: []string{"hdd"}},
		{weight: 5, cores: 48, memoryMiB: 384 * gib, disk: 2000, coreRatio: 1, memory: 1, room: 1, tags: []string{"gpu", "ssd"}},
		{weight: 5, cores: 16, memoryMiB: 64 * gib, disk: 1000, coreRatio: 8, memory: 1, room: 1, tags: []string{"edge"}},
	}
}

// size is a kind of machine.
type size struct {
	weight                   int
	cores, memoryMiB, diskGB int64
}

// usual is the machine of the measurements of the peers.
func usual() size { return size{weight: 40, cores: 2, memoryMiB: 4 * gib, diskGB: 40} }

func sizes() []size {
	return []size{
		usual(), {30, 1, 2 * gib, 20}, {15, 4, 8 * gib, 80}, {8, 8, 32 * gib, 160}, {4, 16, 64 * gib, 320}, {2, 4, 96 * gib, 100}, {1, 2, 4 * gib, 2000},
	}
}

const zones = 6

func zoneName(i int) string { return fmt.Sprintf("zone-%d", i+1) }

// Fleet is the hosts of a set.
func (s Set) Fleet() []Host {
	r := random{s.Seed<<8 | 1}
	out := make([]Host, s.Hosts)
	for i := range out {
		c := standard()
		h := &out[i]
		h.Provider.UUID, h.Provider.Name = r.uuid(), fmt.Sprintf("host-%05d", i)
		h.Zone = zoneName(0)
		if s.Mixed {
			c = pick(&r, classes(), func(c class) int { return c.weight })
			h.Zone = zoneName(r.below(zones))
		}
		h.Tags = c.tags
		for _, t := range c.tags {
			h.Traits = append(h.Traits, trait(t))
		}
		h.Aggregates = []string{aggregate(h.Zone)}
		of := func(total int64, ratio float64) Inventory {
			return Inventory{Total: total, MinUnit: 1, MaxUnit: total, StepSize: 1, AllocationRatio: ratio}
		}
		h.Inventories = Resources[Inventory]{VCPU: of(c.cores, c.coreRatio), MemoryMB: of(c.memoryMiB, c.memory), DiskGB: of(c.disk, c.room)}
	}
	return out
}

// Stream is the requests of a set.
func (s Set) Stream() []Request {
	r := random{s.Seed<<8 | 2}
	out := make([]Request, s.Requests)
	for i := range out {
		q, z := &out[i], usual()
		q.Consumer = r.uuid()
		if s.Mixed {
			z = pick(&r, sizes(), func(s size) int { return s.weight })
			if r.below(10) < 3 {
				q.Zone = zoneName(r.below(zones))
			}
			switch r.below(20) {
			case 0, 1, 2, 3:
				q.RequiredTags = []string{"ssd"}
			case 4:
				q.RequiredTags = []string{"nvme", "ssd"}
			case 5, 6:
				q.ForbiddenTags = []string{"edge"}
			case 7:
				q.RequiredTags, q.ForbiddenTags = []string{"ssd"}, []string{"gpu"}
			}
		}
		q.Resources = Resources[int64]{VCPU: z.cores, MemoryMB: z.memoryMiB, DiskGB: z.diskGB}
		q.Query = q.query()
	}
	return out
}

func (q *Request) query() string {
	var out strings.Builder
	fmt.Fprintf(&out, "resources=VCPU:%d,MEMORY_MB:%d,DISK_GB:%d", q.Resources.VCPU, q.Resources.MemoryMB, q.Resources.DiskGB)
	var required []string
	for _, t := range q.RequiredTags {
		required = append(required, trait(t))
	}
	for _, t := range q.ForbiddenTags {
		required = append(required, "!"+trait(t))
	}
	if len(required) > 0 {
		out.WriteString("&required=" + strings.Join(required, ","))
	}
	if q.Zone != "" {
		out.WriteString("&member_of=" + aggregate(q.Zone))
	}
	return out.String()
}

func trait(tag string) string { return "CUSTOM_" + strings.ToUpper(tag) }

// aggregate is the uuid that stands for a zone.
func aggregate(zone string) string {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(zone) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return (&random{h}).uuid()
}

// Lines writes values as JSON, one on a line.
func Lines[T any](w io.Writer, values []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range values {
		if err := enc.Encode(values[i]); err != nil {
			return fmt.Errorf("write line %d: %w", i+1, err)
		}
	}
	return nil
}

// random is SplitMix64.
type random struct{ state uint64 }

func (r *random) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is a number from 0 to n-1. That it is not quite uniform does no harm.
func (r *random) below(n int) int { return int(r.next() % uint64(n)) }

func (r *random) uuid() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], r.next())
	binary.BigEndian.PutUint64(b[8:], r.next())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func pick[T any](r *random, of []T, weight func(T) int) T {
	sum := 0
	for _, x := range of {
		sum += weight(x)
	}
	n := r.below(sum)
	for _, x := range of {
		if n -= weight(x); n < 0 {
			return x
		}
	}
	return of[len(of)-1]
}
