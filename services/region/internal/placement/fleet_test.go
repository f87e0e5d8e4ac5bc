package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// drawFleet draws a few hosts and makes many of them that differ a little, so that
// there are several blocks.
func drawFleet(t *rapid.T, most int) []*Host {
	var models, hosts []*Host
	for i := range rapid.IntRange(1, 4).Draw(t, "models") {
		models = append(models, drawHost(t, fmt.Sprint(i)))
	}
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "variation"), 0))
	for i := range rapid.IntRange(0, most).Draw(t, "hosts") {
		h := *models[r.IntN(len(models))]
		h.ID = fmt.Sprintf("h%03d", i)
		h.Zone = []string{"a", "a", "b", "c"}[r.IntN(4)]
		h.KVM, h.CPUModel = r.IntN(4) > 0, []string{"", "m", "n"}[r.IntN(3)]
		h.Cores.Committed = min(h.Cores.Committed+int64(r.IntN(3)), max(h.Cores.Limit, h.Cores.Committed))
		h.MemoryMiB.Committed = min(h.MemoryMiB.Committed+int64(r.IntN(8)), max(h.MemoryMiB.Limit, h.MemoryMiB.Committed))
		if r.IntN(3) == 0 {
			h.Nodes = []Node{{ID: 0, Cores: []int32{0, 1, 8}, MemoryMiB: 12, HugepagesMiB: 8, FreeHugepagesMiB: 6}, {ID: 1, Cores: []int32{2, 3}, MemoryMiB: 20, HugepagesMiB: 8, FreeHugepagesMiB: 8}}
		}
		for _, g := range []string{"a/web", "a/db", "b/web"} {
			if r.IntN(12) == 0 {
				h = *h.Join(g, int32(1+r.IntN(2)))
			}
		}
		hosts = append(hosts, &h)
	}
	return hosts
}

func drawWish(t *rapid.T) *Request {
	r := drawEasily(t)
	few := 3
	if rapid.Bool().Draw(t, "easy") {
		few = 12
	}
	oneOf := func(label string) bool { return rapid.IntRange(0, few).Draw(t, label) == 2 }
	id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("h%03d", rapid.IntRange(0, 99).Draw(t, "n")) })
	r.Seed = rapid.SampledFrom([]uint64{0, 0, 7}).Draw(t, "seed")
	if oneOf("moves") {
		r.From = id.Draw(t, "from")
	}
	if oneOf("host type") {
		r.HostType = rapid.SampledFrom([]vmhostv1.VmHostType{1, 2, 3}).Draw(t, "only on")
	}
	if oneOf("group") {
		r.Group, r.MaxPerZone = "web", rapid.Int32Range(0, 4).Draw(t, "max per zone")
	}
	if oneOf("rules") {
		for range rapid.IntRange(1, 2).Draw(t, "rules") {
			rule := Rule{Near: rapid.Bool().Draw(t, "near"), Zone: rapid.Bool().Draw(t, "by zone"), Soft: rapid.Bool().Draw(t, "soft"), Group: rapid.SampledFrom([]string{"", "web", "db", "none"}).Draw(t, "of")}
			if rule.Group == "" {
				rule.Hosts = rapid.SliceOfN(id, 1, 3).Draw(t, "of hosts")
			}
			r.Affinity = append(r.Affinity, rule)
		}
	}
	if oneOf("one node") {
		r.OneNUMANode = true
	}
	if oneOf("model") {
		r.CPUModel = "m"
	}
	if oneOf("capabilities") {
		r.Capabilities = []string{rapid.SampledFrom([]string{"hugepages", "kvm"}).Draw(t, "capability")}
	}
	if oneOf("predicate") {
		r.Policy.Admits = func(h *Host) (bool, string) { return h.Cores.Free()%3 != 0, "divisible" }
	}
	if rapid.Bool().Draw(t, "weights") {
		w := func(label string) float64 {
			return rapid.SampledFrom([]float64{0, 0, 0.25, 1, 1, 3}).Draw(t, label)
		}
		r.Policy.Weights = Weights{w("least"), w("most"), w("balance"), w("storage"), w("zones"), w("overcommit"), w("emulation"), w("refusing")}
		r.Refusing = map[string]int{id.Draw(t, "refusing"): 2}
	}
	return &r
}

// drawEasily draws a request that, mostly, some host fits.
func drawEasily(t *rapid.T) Request {
	if rapid.IntRange(0, 3).Draw(t, "hard") == 0 {
		return drawRequest(t)
	}
	r := Request{Cores: rapid.Int32Range(1, 2).Draw(t, "cores"), MemoryMiB: rapid.Int64Range(1, 6).Draw(t, "memory"), ResourcePool: "a"}
	for range rapid.IntRange(0, 2).Draw(t, "disks") {
		r.Disks = append(r.Disks, Disk{SizeBytes: rapid.Int64Range(1, 5).Draw(t, "size")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "interfaces") {
		r.Interfaces = append(r.Interfaces, Interface{Kind: rapid.SampledFrom([]vmhostv1.InterfaceKind{0, 0, kindBridge, kindSRIOV}).Draw(t, "kind")})
	}
	return r
}

// withoutIt is the hosts as they are without the machine that moves.
func withoutIt(hosts []*Host, r *Request) []*Host {
	out := slices.Clone(hosts)
	for i, h := range out {
		if r.From == h.ID && r.Group != "" && h.In("a/"+r.Group) > 0 {
			out[i] = h.Join("a/"+r.Group, -1)
		}
	}
	return out
}

// suits is the specification of the filters that fitsSomehow does not know.
func suits(hosts []*Host, h *Host, r *Request) bool {
	members := func(group string, zone bool) (there, some bool) {
		for _, o := range hosts {
			for _, g := range o.Groups {
				if g.Key == "a/"+group {
					some = true
					there = there || o.ID == h.ID || (zone && o.Zone == h.Zone)
				}
			}
		}
		return there, some
	}
	if (r.From != "" && r.From == h.ID) || (r.CPUModel != "" && h.CPUModel != r.CPUModel) {
		return false
	}
	for _, c := range r.Capabilities {
		if !slices.Contains(h.Capabilities, c) {
			return false
		}
	}
	if r.Policy.Admits != nil && h.Cores.Free()%3 == 0 {
		return false
	}
	for i := range r.Affinity {
		if !r.Affinity[i].Soft && !keptBy(hosts, h, r, i, members) {
			return false
		}
	}
	if r.Group != "" && r.MaxPerZone > 0 {
		n := int32(0)
		for _, o := range hosts {
			if o.Zone == h.Zone {
				n += o.In("a/" + r.Group)
			}
		}
		if n >= r.MaxPerZone {
			return false
		}
	}
	return !r.OneNUMANode || onOneNode(h, r)
}

func keptBy(hosts []*Host, h *Host, r *Request, i int, members func(string, bool) (bool, bool)) bool {
	rule := r.Affinity[i]
	var there bool
	if rule.Group == "" {
		for _, id := range rule.Hosts {
			for _, o := range hosts {
				there = there || (o.ID == id && (o.ID == h.ID || (rule.Zone && o.Zone == h.Zone)))
			}
		}
		return there == rule.Near
	}
	there, some := members(rule.Group, rule.Zone)
	if rule.Near && !some && rule.Group == r.Group {
		return true
	}
	return there == rule.Near
}

func onOneNode(h *Host, r *Request) bool {
	nodes := h.Nodes
	if len(nodes) == 0 {
		all := []int32{}
		for c := range int32(64) {
			if h.hasCore(c) {
				all = append(all, c)
			}
		}
		nodes = []Node{{Cores: all, MemoryMiB: math.MaxInt64, FreeHugepagesMiB: math.MaxInt64}}
	}
	for _, n := range nodes {
		free := 0
		for _, c := range n.Cores {
			if !slices.Contains(h.Pinned, c) && (len(r.PinnedCores) == 0 || slices.Contains(r.PinnedCores, c)) {
				free++
			}
		}
		if free >= int(r.Cores) && n.MemoryMiB >= r.MemoryMiB && (!r.Hugepages || n.FreeHugepagesMiB >= r.MemoryMiB) {
			return true
		}
	}
	return false
}

// judge is the specification of the scores.
func judge(hosts []*Host, h *Host, r *Request) float64 {
	cores := float64(h.Cores.Committed+h.Cores.Foreign+int64(r.Cores)) / float64(h.Cores.Limit)
	memory := float64(h.MemoryMiB.Committed+h.MemoryMiB.Foreign+r.MemoryMiB) / float64(h.MemoryMiB.Limit)
	actual := math.Max(cores*float64(h.Cores.Limit)/float64(h.Cores.Most()), memory*float64(h.MemoryMiB.Limit)/float64(h.MemoryMiB.Most()))
	w := r.Policy.Weights
	if w == (Weights{}) {
		w.LeastLoaded = 1
	}
	free, limit, inZone := 0.0, 0.0, 0
	for _, p := range h.Pools {
		if p.Active {
			free, limit = free+float64(p.Free()), limit+float64(p.Limit)
		}
	}
	for _, d := range r.Disks {
		free -= float64(d.SizeBytes)
	}
	if r.Group != "" {
		for _, o := range hosts {
			if o.Zone == h.Zone {
				inZone += int(o.In("a/" + r.Group))
			}
		}
	}
	total := w.LeastLoaded*(1-math.Max(cores, memory)) + w.MostLoaded*math.Max(cores, memory) + w.Balance*(1-math.Abs(cores-memory)) + w.SpreadZones/float64(1+inZone)
	if limit > 0 {
		total += w.FreeStorage * math.Max(0, free/limit)
	}
	total += w.AvoidOvercommit * math.Min(1, 1/actual)
	if h.KVM || r.Type == container {
		total += w.AvoidEmulation
	}
	total += w.AvoidRefusing / float64(1+r.Refusing[h.ID])
	for i := range r.Affinity {
		if r.Affinity[i].Soft && NewFleet(hosts).nearness(r).keeps(h, r, i) {
			total += 1 + w.sum()
		}
	}
	return total
}

func TestTheBestOfAllHostsIsChosenAndARefusedRequestFitsNowhere_P1(t *testing.T) {
	placed, refused := 0, map[Filter]int{}
	rapid.Check(t, func(t *rapid.T) {
		all := drawFleet(t, 150)
		f := NewFleet(all)
		for range 8 {
			req := drawWish(t)
			hosts := withoutIt(all, req)
			plan, e := f.Choose(req), f.Explain(req, 10000, 10000)
			if again := f.Choose(req); again.Host != plan.Host {
				t.Fatal("twice the same gave two plans")
			}
			if plan.Host != e.Plan.Host {
				t.Fatalf("Choose: %+v, Explain: %+v", plan.Host, e.Plan.Host)
			}
			if e.Fitting+len(e.Plan.Refusals) != len(hosts) || e.Fitting != len(e.Candidates) {
				t.Fatalf("%d fit and %d do not, of %d", e.Fitting, len(e.Plan.Refusals), len(hosts))
			}
			for _, c := range e.Candidates {
				if !fitsSomehow(c.Host, *req) || !suits(hosts, c.Host, req) {
					t.Fatalf("%+v does not fit %+v", c.Host, req)
				}
				if dull := judge(hosts, c.Host, req); math.Abs(dull-c.Scores.Total) > 1e-6 {
					t.Fatalf("%s: score %v, want %v: %+v", c.Host.ID, c.Scores.Total, dull, c.Scores)
				}
				if plan.Scores.Total < c.Scores.Total || (req.Seed == 0 && plan.Scores.Total == c.Scores.Total && c.Host.ID < plan.Host.ID) {
					t.Fatalf("%s is better than %s: %+v, %+v", c.Host.ID, plan.Host.ID, c.Scores, plan.Scores)
				}
			}
			near, counts := f.nearness(req), map[Filter]int{}
			for _, r := range e.Plan.Refusals {
				if fitsSomehow(r.Host, *req) && suits(hosts, r.Host, req) {
					t.Fatalf("refused: %s, but %+v fits %+v", r.Message(), r.Host, req)
				}
				slow, _ := check(r.Host, req, near, &fitting{})
				if slow.Filter != r.Filter || slow.Message() != r.Message() {
					t.Fatalf("refused by %s: %s; one by one by %s: %s", r.Filter, r.Message(), slow.Filter, slow.Message())
				}
				counts[r.Filter]++
				refused[r.Filter]++
				checkNewReason(t, hosts, r, req)
			}
			if diff := cmp.Diff(counts, e.Plan.RefusedCounts); diff != "" {
				t.Fatal(diff)
			}
			if plan.Host != nil {
				placed++
				checkPlan(t, plan, *withChosen(req, plan))
			}
		}
	})
	t.Logf("placed %d, refused by %v", placed, refused)
}

// withChosen is the request with the cores that the engine chose.
func withChosen(req *Request, plan Plan) *Request {
	out := *req
	out.PinnedCores = plan.PinnedCores
	return &out
}

// checkNewReason says whether the filter that is named refuses the host.
func checkNewReason(t *rapid.T, hosts []*Host, r Refusal, req *Request) {
	ok, h := true, r.Host
	only := Request{Type: req.Type, ResourcePool: "a", Cores: req.Cores, MemoryMiB: req.MemoryMiB}
	switch r.Filter {
	case FilterCPUModel:
		only.CPUModel = req.CPUModel
	case FilterPolicy:
		only.Policy = req.Policy
	case FilterAffinity:
		only.Affinity, only.Group = req.Affinity[r.Item:r.Item+1], req.Group
	case FilterSpread:
		only.Group, only.MaxPerZone = req.Group, req.MaxPerZone
		ok = r.Requested >= int64(req.MaxPerZone)
	case FilterNUMA:
		only.OneNUMANode, only.PinnedCores, only.Hugepages = true, req.PinnedCores, req.Hugepages
	case FilterCapability:
		for _, c := range req.Capabilities {
			ok = ok && slices.Contains(h.Capabilities, c)
		}
		if ok {
			checkReason(t, r, *req)
		}
		return
	default:
		checkReason(t, r, *req)
		return
	}
	if !ok || suits(hosts, h, &only) || r.Message() == "" {
		t.Fatalf("the reason is not true: %s: %s of %+v for %+v", r.Filter, r.Message(), h, req)
	}
}

func TestADraftIsAFleetOfItsHostsAndSnapshotsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawFleet(t, 200)
		now := map[string]*Host{}
		d := NewFleet(nil).Draft()
		var snapshot *Fleet
		var then []string
		for i := range rapid.IntRange(0, 400).Draw(t, "changes") {
			if len(hosts) == 0 {
				break
			}
			h := hosts[rapid.IntRange(0, len(hosts)-1).Draw(t, "host")]
			switch rapid.IntRange(0, 4).Draw(t, "change") {
			case 0:
				d.Remove(h.ID)
				delete(now, h.ID)
			case 1:
				if old := now[h.ID]; old != nil {
					c := (&Plan{PinnedCores: []int32{2}}).Commitment(&Request{Cores: 1, MemoryMiB: 2})
					d.Take(h.ID, c, "a/web")
					now[h.ID] = old.Take(c).Join("a/web", 1)
				}
			default:
				other := *h
				other.Tags = []string{fmt.Sprint(i % 3)}
				d.Put(&other)
				now[h.ID] = &other
			}
			if rapid.IntRange(0, 50).Draw(t, "snapshot") == 0 {
				snapshot, then = d.Fleet(), nil
				for h := range snapshot.Hosts() {
					then = append(then, fmt.Sprintf("%+v", *h))
				}
			}
		}
		same(t, d.Fleet(), now)
		if snapshot != nil {
			var still []string
			for h := range snapshot.Hosts() {
				still = append(still, fmt.Sprintf("%+v", *h))
			}
			if diff := cmp.Diff(then, still); diff != "" {
				t.Fatalf("a snapshot changed: %s", diff)
			}
		}
	})
}

// same says whether a fleet answers as one made anew of the hosts that it should
// have.
func same(t *rapid.T, f *Fleet, hosts map[string]*Host) {
	var list []*Host
	for _, h := range hosts {
		list = append(list, h)
		if f.Host(h.ID) == nil {
			t.Fatalf("%s is not there", h.ID)
		}
	}
	fresh := NewFleet(list)
	if f.Len() != len(list) || fresh.Len() != len(list) || f.Host("h") != nil {
		t.Fatalf("%d and %d hosts, want %d", f.Len(), fresh.Len(), len(list))
	}
	for range 3 {
		req := drawWish(t)
		a, b := f.Explain(req, 1000, 1000), fresh.Explain(req, 1000, 1000)
		if diff := cmp.Diff(a.Plan.Proto(), b.Plan.Proto(), protocmp.Transform()); diff != "" {
			t.Fatalf("changed one by one and made anew differ: %s", diff)
		}
		if c := f.Choose(req); c.Proto().GetVmHost() != b.Plan.Proto().GetVmHost() {
			t.Fatalf("chose %v, want %v", c.Host, b.Plan.Host)
		}
	}
}

func TestMoreRoomNeverMakesARequestFailThatFits(t *testing.T) {
	checks(t, 1000, func(t *rapid.T) {
		hosts := drawFleet(t, 40)
		req := drawWish(t)
		req.Policy.Admits = nil // an operator may well admit only small hosts
		plan := NewFleet(hosts).Choose(req)
		if plan.Host == nil {
			return
		}
		more := func(r Resource) Resource {
			return NewResource(r.Physical+rapid.Int64Range(0, 8).Draw(t, "more"), r.Reserved, r.Ratio, r.Committed, r.Foreign)
		}
		var larger []*Host
		for _, h := range hosts {
			n := *h
			n.Cores, n.MemoryMiB, n.Pools = more(h.Cores), more(h.MemoryMiB), slices.Clone(h.Pools)
			for i := range n.Pools {
				n.Pools[i].Resource = more(n.Pools[i].Resource)
			}
			larger = append(larger, &n)
		}
		if after := NewFleet(append(larger, drawHost(t, "new"))).Choose(req); after.Host == nil {
			t.Fatalf("%+v fitted %s, and with more room nowhere: %s", req, plan.Host.ID, after.Summary())
		}
	})
}
