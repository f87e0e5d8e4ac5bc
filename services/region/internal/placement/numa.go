package placement

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Node is a NUMA node of a host.
type Node struct {
	// ID is the node's number.
	ID int32
	// Cores are the numbers of its cores, sorted.
	Cores []int32
	// MemoryMiB is all of its memory.
	MemoryMiB int64
	// HugepagesMiB is its memory in huge pages of the size that the host's are
	// counted in, FreeHugepagesMiB what of that was free when it was seen.
	HugepagesMiB, FreeHugepagesMiB int64
}

func nodes(o *vmhostv1.VmHostObservation) []Node {
	size := pageKiB(o)
	var out []Node
	for _, n := range o.GetNumaNodes() {
		node := Node{ID: n.GetId(), Cores: n.GetCores(), MemoryMiB: n.GetMemoryMib()}
		if !slices.IsSorted(node.Cores) {
			node.Cores = sorted(node.Cores, nil)
		}
		for _, p := range n.GetHugePages() {
			if p.GetSizeKib() == size {
				node.HugepagesMiB += p.GetTotal() * size / 1024
				node.FreeHugepagesMiB += min(p.GetFree(), p.GetTotal()) * size / 1024
			}
		}
		out = append(out, node)
	}
	slices.SortStableFunc(out, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// chooseNode finds the NUMA node that has the cores, the memory and, if asked
// for, the huge pages. Without cores asked for by number it is the node with the
// fewest free cores that are enough, so that large ones stay free, and its first
// free cores. What of a node's huge pages is taken is known as it was last seen;
// the host's own limit holds at any time.
func (f *fitting) chooseNode(h *Host, req *Request) bool {
	if len(h.Nodes) == 0 {
		return f.onlyNode(h, req)
	}
	best := -1
	for i := range h.Nodes {
		n := &h.Nodes[i]
		if req.MemoryMiB > n.MemoryMiB || (req.Hugepages && req.MemoryMiB > n.FreeHugepagesMiB) {
			continue
		}
		if len(req.PinnedCores) > 0 {
			if subset(req.PinnedCores, n.Cores) {
				f.node = n.ID
				return true
			}
			continue
		}
		free := n.free(h.Pinned)
		if free >= int(req.Cores) && (best < 0 || free < h.Nodes[best].free(h.Pinned)) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	n := &h.Nodes[best]
	f.node, f.cores = n.ID, make([]int32, 0, req.Cores)
	for _, c := range n.Cores {
		if _, pinned := slices.BinarySearch(h.Pinned, c); !pinned && len(f.cores) < int(req.Cores) {
			f.cores = append(f.cores, c)
		}
	}
	return true
}

// onlyNode is chooseNode on a host that tells of no nodes.
func (f *fitting) onlyNode(h *Host, req *Request) bool {
	f.node = 0
	if len(req.PinnedCores) > 0 {
		return true
	}
	f.cores = make([]int32, 0, req.Cores)
	most := h.Cores.Physical
	if len(h.CoreNumbers) > 0 {
		most = int64(len(h.CoreNumbers))
	}
	for i := int64(0); i < most && len(f.cores) < int(req.Cores); i++ {
		c := int32(i)
		if len(h.CoreNumbers) > 0 {
			c = h.CoreNumbers[i]
		}
		if _, pinned := slices.BinarySearch(h.Pinned, c); !pinned {
			f.cores = append(f.cores, c)
		}
	}
	return len(f.cores) == int(req.Cores)
}

// free is how many cores of the node no machine is pinned to.
func (n *Node) free(pinned []int32) int {
	free := 0
	for _, c := range n.Cores {
		if _, taken := slices.BinarySearch(pinned, c); !taken {
			free++
		}
	}
	return free
}

func subset(some, all []int32) bool {
	for _, c := range some {
		if !slices.Contains(all, c) {
			return false
		}
	}
	return true
}

// numa says why no NUMA node has all: what the best one has.
func (r Refusal) numa() string {
	h, req := r.Host, r.req
	if len(req.PinnedCores) > 0 && !slices.ContainsFunc(h.Nodes, func(n Node) bool { return subset(req.PinnedCores, n.Cores) }) {
		return fmt.Sprintf("has cores %v on more than one NUMA node", req.PinnedCores)
	}
	cores, memory, pages := 0, int64(0), int64(0)
	for i := range h.Nodes {
		n := &h.Nodes[i]
		cores, memory, pages = max(cores, n.free(h.Pinned)), max(memory, n.MemoryMiB), max(pages, n.FreeHugepagesMiB)
	}
	amounts := []units.Amount{units.Need(req.MemoryMiB), units.Room(memory)}
	if req.Hugepages {
		amounts = append(amounts, units.Room(pages))
	}
	said := units.MiB.Say(amounts...)
	text := fmt.Sprintf("has no NUMA node with %s that nobody is pinned to and %s of memory; the most on one are %s, %s",
		counted(int64(req.Cores), "cores"), said[0], counted(int64(cores), "cores"), said[1])
	if len(h.Nodes) == 0 {
		return fmt.Sprintf("has fewer than %s that nobody is pinned to", counted(int64(req.Cores), "cores"))
	}
	if req.Hugepages {
		text += fmt.Sprintf(", %s in free huge pages", said[2])
	}
	return text
}
