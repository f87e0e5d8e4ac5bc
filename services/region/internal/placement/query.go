package placement

import (
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// query is a request as it is asked of a fleet: words as numbers, amounts as
// rows have them, and what was found out about hosts of one shape.
type query struct {
	fleet *Fleet
	req   *Request
	near  *nearness
	fit   fitting
	from  position // of the host that is left; -1: none

	steps []step // the filters that are words, in order
	rules []rule
	full  []uint32 // zones that have as many of the group as they may

	w                  Weights
	keptWeight         float64
	cores, memory      asked
	storage            float64
	diskRoom, poolRoom int64 // the largest disk that names no pool, and that does
	pageRoom           int64
	held               bool // some disk may stay where it is
	plain              bool // every interface is answered alike by hosts of one shape
	zoneScore          []float64
	zoneBest           float64
	refusing           map[position]float64
	soft               []int // rules that are
	softBlock          int   // that softMasks are of; -1: of none
	softMasks          []uint64
	shapes             []verdict
	container          bool
}

// verdict is what is known of a shape.
type verdict struct {
	asked  bool
	filter Filter // that refuses; empty: none
	item   int32
}

func (f *Fleet) query(req *Request) *query {
	q := &query{
		fleet: f, req: req, w: req.Policy.Weights.effective(), cores: askFor(int64(req.Cores), firstCores), memory: askFor(req.MemoryMiB, firstMemory),
		container: req.container(), plain: true, from: -1, softBlock: -1, steps: make([]step, 0, maxSteps),
	}
	if p, found := f.find(req.From); found && req.From != "" {
		q.from = p
	}
	q.keptWeight = 1 + q.w.sum()
	q.near = f.nearness(req)
	q.words()
	q.compileRules()
	for i := range req.Disks {
		d := &req.Disks[i]
		q.storage += float64(d.SizeBytes)
		if d.Held != "" { // what it asks of a host, rows do not say
			q.held = true
			continue
		}
		if d.Pool == "" && len(d.Tags) == 0 {
			q.diskRoom = max(q.diskRoom, d.SizeBytes)
		} else {
			q.poolRoom = max(q.poolRoom, d.SizeBytes)
		}
	}
	if req.Hugepages {
		q.pageRoom = req.MemoryMiB
	}
	for i := range req.Interfaces {
		n := &req.Interfaces[i]
		q.plain = q.plain && !n.Address.IsValid() && n.Kind != vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV
	}
	if q.w.SpreadZones > 0 && req.Group != "" {
		q.zoneScore = make([]float64, f.index.zones.count())
		for i := range q.zoneScore {
			q.zoneScore[i] = 1
		}
		for zone, n := range q.near.inZone {
			if id, ok := f.index.zones.known(zone); ok {
				q.zoneScore[id] = emptiness(n)
			}
		}
		for _, s := range q.zoneScore {
			q.zoneBest = max(q.zoneBest, s)
		}
	}
	if q.w.AvoidRefusing > 0 {
		for id, n := range req.Refusing {
			if p, found := f.find(id); found && n > 0 {
				if q.refusing == nil {
					q.refusing = map[position]float64{}
				}
				q.refusing[p] = 1 / float64(1+n)
			}
		}
	}
	return q
}

// shape is whether hosts of the shape of this one have the image and, where that
// is a matter of the shape, the networks.
func (q *query) shape(b *block, i int) verdict {
	s := b.rests[i].shape
	if int(s) >= len(q.shapes) {
		q.shapes = append(q.shapes, make([]verdict, max(int(s)+1, q.fleet.index.shapes.count())-len(q.shapes))...)
	}
	v := &q.shapes[s]
	if v.asked {
		return *v
	}
	v.asked = true
	h := b.hosts[i]
	if !q.fit.chooseImage(h, q.req) {
		v.filter = FilterImage
	} else if q.plain {
		if item, ok := q.fit.chooseNetworks(h, q.req); !ok {
			v.filter, v.item = FilterNetwork, int32(item)
		}
	}
	return *v
}

// late tries, for a host that passes the masks, the filters that are none, in
// order up to the hostname.
func (q *query) late(b *block, i int) (Refusal, bool) {
	h := b.hosts[i]
	v := q.shape(b, i)
	if v.filter == FilterImage {
		return Refusal{Host: h, Filter: FilterImage, req: q.req}, false
	}
	if why, ok := q.req.Policy.admits(h); !ok {
		return Refusal{Host: h, Filter: FilterPolicy, Why: why, req: q.req}, false
	}
	if v.filter == FilterNetwork {
		return Refusal{Host: h, Filter: FilterNetwork, Item: int(v.item), req: q.req}, false
	}
	if !q.plain {
		if item, ok := q.fit.chooseNetworks(h, q.req); !ok {
			return Refusal{Host: h, Filter: FilterNetwork, Item: item, req: q.req}, false
		}
	}
	if q.req.NameTaken != nil && q.req.NameTaken(h.ID, q.req.NameOn(h)) {
		return Refusal{Host: h, Filter: FilterHostname, req: q.req}, false
	}
	return Refusal{}, true
}

// roomy says whether a host may have room, by what rows say: if not, it has none.
func (q *query) roomy(b *block, i int) bool {
	l, r := &b.loads[i], &b.rests[i]
	return int64(q.req.Cores) <= l.cores.room && q.req.MemoryMiB <= l.memory.room && q.pageRoom <= r.pageRoom && q.diskRoom <= r.diskRoom && q.poolRoom <= r.poolRoom
}

// rooms says the same of all hosts of a summary.
func (q *query) rooms(s *summary) bool {
	return int64(q.req.Cores) <= s.coreRoom && q.req.MemoryMiB <= s.memoryRoom && q.pageRoom <= s.pageRoom && q.diskRoom <= s.diskRoom && q.poolRoom <= s.poolRoom
}

// certain says that rows are all there is to having room.
func (q *query) certain() bool {
	return len(q.req.PinnedCores) == 0 && !q.req.OneNUMANode && !q.req.Hugepages && q.poolRoom == 0 && !q.held && len(q.req.Disks) <= 1
}
