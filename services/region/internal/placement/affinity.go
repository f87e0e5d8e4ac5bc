package placement

import (
	"cmp"
	"slices"
	"strings"
)

// Rule is nearness to other machines: to those of a group, or on hosts.
type Rule struct {
	// Near asks for at least one of them, otherwise for none.
	Near bool
	// Zone is about the zone that they share, otherwise about the host.
	Zone bool
	// Group of the request's resource pool, empty: Hosts.
	Group string
	// Hosts are the ids of the hosts that the machines are on.
	Hosts []string
	// Soft rules are preferred only.
	Soft bool
}

// GroupKey is how a host counts the machines of a group.
func GroupKey(pool, group string) string { return pool + "/" + group }

// GroupCount is how many machines of a group are on a host.
type GroupCount struct {
	// Key is the GroupKey, Machines is more than 0.
	Key      string
	Machines int32
}

// In is how many machines of a group are on the host.
func (h *Host) In(key string) int32 {
	i, found := slices.BinarySearchFunc(h.Groups, key, func(g GroupCount, key string) int { return strings.Compare(g.Key, key) })
	if !found {
		return 0
	}
	return h.Groups[i].Machines
}

// WithGroups answers the host with these counts.
func (h *Host) WithGroups(counts map[string]int32) *Host {
	out := *h
	out.Groups = make([]GroupCount, 0, len(counts))
	for key, n := range counts {
		if n > 0 {
			out.Groups = append(out.Groups, GroupCount{key, n})
		}
	}
	slices.SortFunc(out.Groups, func(a, b GroupCount) int { return cmp.Compare(a.Key, b.Key) })
	return &out
}

// Join answers the host with so many more machines of a group.
func (h *Host) Join(key string, machines int32) *Host {
	out := *h
	i, found := slices.BinarySearchFunc(h.Groups, key, func(g GroupCount, key string) int { return strings.Compare(g.Key, key) })
	out.Groups = slices.Clone(h.Groups)
	if !found {
		out.Groups = slices.Insert(out.Groups, i, GroupCount{Key: key})
	}
	if out.Groups[i].Machines += machines; out.Groups[i].Machines <= 0 {
		out.Groups = slices.Delete(out.Groups, i, i+1)
	}
	return &out
}

// groupKey is that of the machine that is wanted; empty: it is in no group.
func (r *Request) groupKey() string {
	if r.Group == "" {
		return ""
	}
	return GroupKey(r.ResourcePool, r.Group)
}

// nearness is where the machines are that a request's rules name. It is found
// once for a fleet and a request.
type nearness struct {
	// zones of each rule that is about zones, by rule.
	zones []map[string]bool
	// first says of a rule that it is near to the request's own group, which has no
	// machine yet: somebody has to be the first.
	first []bool
	// inZone is how many machines of the request's group are in each zone.
	inZone map[string]int32
}

// keeps says whether a host keeps a rule.
func (n *nearness) keeps(h *Host, req *Request, i int) bool {
	var there bool
	r := &req.Affinity[i]
	switch {
	case r.Zone:
		there = n.zones[i][h.Zone]
	case r.Group != "":
		there = h.In(GroupKey(req.ResourcePool, r.Group)) > 0
	default:
		there = slices.Contains(r.Hosts, h.ID)
	}
	return there == r.Near || n.first[i]
}

// broken is the first hard rule that a host does not keep; -1: none.
func (n *nearness) broken(h *Host, req *Request) int {
	for i := range req.Affinity {
		if !req.Affinity[i].Soft && !n.keeps(h, req, i) {
			return i
		}
	}
	return -1
}

// full says whether the host's zone has as many machines of the group as it may,
// and how many those are.
func (n *nearness) full(h *Host, req *Request) (int32, bool) {
	if req.MaxPerZone <= 0 || req.Group == "" {
		return 0, false
	}
	have := n.inZone[h.Zone]
	return have, have >= req.MaxPerZone
}

func (r Refusal) affinity() string {
	rule, h := r.req.Affinity[r.Item], r.Host
	who := "those machines"
	if rule.Group != "" {
		who = "group " + rule.Group
	}
	where, no := "is on no host of a machine of ", "has a machine of "
	if rule.Zone {
		where, no = "is in zone "+h.Zone+", which has no machine of ", "is in zone "+h.Zone+", which has a machine of "
	}
	if !rule.Zone && rule.Near {
		where = "has no machine of "
	}
	if rule.Near {
		return where + who + ", which it must be near to"
	}
	return no + who + ", which it must be away from"
}
