package placement

import "slices"

// nearness finds where the machines are that the request's rules are about.
func (f *Fleet) nearness(req *Request) *nearness {
	n := &nearness{zones: make([]map[string]bool, len(req.Affinity)), first: make([]bool, len(req.Affinity))}
	if req.Group != "" && (req.MaxPerZone > 0 || req.Policy.Weights.SpreadZones > 0) {
		n.inZone = f.others(req, req.Group)
	}
	for i := range req.Affinity {
		r := &req.Affinity[i]
		own := r.Near && r.Group != "" && r.Group == req.Group
		if !r.Zone && !own {
			continue
		}
		zones := map[string]bool{}
		for _, id := range r.Hosts {
			if h := f.Host(id); h != nil && r.Group == "" {
				zones[h.Zone] = true
			}
		}
		if r.Group != "" {
			for zone := range f.others(req, r.Group) {
				zones[zone] = true
			}
		}
		n.zones[i], n.first[i] = zones, own && len(zones) == 0
	}
	return n
}

// others is how many machines of a group beside the request's own are in each
// zone that has any.
func (f *Fleet) others(req *Request, group string) map[string]int32 {
	key := GroupKey(req.ResourcePool, group)
	zones := f.groupZones(key)
	if req.From == "" || group != req.Group {
		return zones
	}
	if h := f.Host(req.From); h != nil && h.In(key) > 0 {
		if zones[h.Zone]--; zones[h.Zone] <= 0 {
			delete(zones, h.Zone)
		}
	}
	return zones
}

// groupZones is how many machines of a group are in each zone that has any.
func (f *Fleet) groupZones(key string) map[string]int32 {
	word, ok := f.index.facts.known(wordGroup + key)
	if !ok {
		return nil
	}
	sums := make([]int32, f.index.zones.count())
	for _, st := range f.stacks {
		i, _ := slices.BinarySearchFunc(st.tallies, tally{group: word}, compareTally)
		for ; i < len(st.tallies) && st.tallies[i].group == word; i++ {
			sums[st.tallies[i].zone] += st.tallies[i].machines
		}
	}
	out := map[string]int32{}
	for zone, id := range f.index.zones.all() {
		if int(id) < len(sums) && sums[id] > 0 {
			out[zone] = sums[id]
		}
	}
	return out
}

// emptiness is the score of a zone with so many machines of the group.
func emptiness(machines int32) float64 { return 1 / float64(1+machines) }
