package placement

import (
	"fmt"
	"testing"
)

func TestCoresOnOneNodeAreChosenWhereFewestAreFree(t *testing.T) {
	for _, tt := range []struct {
		cores  int32
		memory int64
		pinned []int32
		pages  bool
		want   string
	}{
		{cores: 2, memory: 8, want: "node 1 [4 5]"},
		{cores: 3, memory: 8, want: "node 0 [1 2 3]"},
		{cores: 4, memory: 8, want: "refused by numa"},
		{cores: 2, memory: 9, want: "node 0 [1 2]"},
		{cores: 1, memory: 17, want: "refused by numa"},
		{cores: 2, memory: 8, pinned: []int32{2, 3}, want: "node 0 [2 3]"},
		{cores: 2, memory: 8, pinned: []int32{3, 4}, want: "refused by numa"},
		{cores: 2, memory: 4, pages: true, want: "node 1 [4 5]"},
		{cores: 2, memory: 5, pages: true, want: "node 0 [1 2]"},
		{cores: 2, memory: 7, pages: true, want: "refused by numa"}, // though the host has as many
	} {
		h := ready("h", 6, 64, 1, 1)
		h.CoreNumbers, h.Pinned = []int32{0, 1, 2, 3, 4, 5}, []int32{0}
		h.Nodes = []Node{
			{ID: 0, Cores: []int32{0, 1, 2, 3}, MemoryMiB: 16, FreeHugepagesMiB: 6}, {ID: 1, Cores: []int32{4, 5}, MemoryMiB: 8, FreeHugepagesMiB: 4},
		}
		h.Hugepages, h.PageMiB, h.Capabilities = NewResource(10, 0, 1, 0, 0), 1, []string{"hugepages"}
		plan := Choose([]*Host{h}, Request{Cores: tt.cores, MemoryMiB: tt.memory, PinnedCores: tt.pinned, Hugepages: tt.pages, OneNUMANode: true, ResourcePool: "default"})
		got := fmt.Sprint("node ", plan.NUMANode, " ", plan.PinnedCores)
		if plan.Host == nil {
			got = "refused by " + string(plan.Refusals[0].Filter)
		}
		if got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
