package query

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func machineKind() protoreflect.MessageDescriptor {
	return (&vmhostv1.Machine{}).ProtoReflect().Descriptor()
}

func itemsOf(machines []*vmhostv1.Machine) []Item {
	var items []Item
	for _, m := range machines {
		items = append(items, Item{Name: m.GetName(), Build: func() proto.Message { return m }})
	}
	return items
}

// behind are the machines behind a name, in order.
func behind(machines []*vmhostv1.Machine, after string) iter.Seq[Item] {
	sorted := slices.SortedFunc(slices.Values(itemsOf(machines)), func(a, b Item) int { return strings.Compare(a.Name, b.Name) })
	return slices.Values(slices.DeleteFunc(sorted, func(i Item) bool { return i.Name <= after }))
}

// A large page is built by several goroutines and is the same; one that is built
// takes no more than it shows, and one more.
func TestALargePageIsCutInOrder(t *testing.T) {
	const all, size = 5000, 1000
	taken := 0
	items := func(yield func(Item) bool) {
		for i := range all {
			name := fmt.Sprintf("machines/%05d", i)
			taken++
			if !yield(Item{Name: name, Build: func() proto.Message { return &vmhostv1.Machine{Name: name} }}) {
				return
			}
		}
	}
	l, err := NewPager([]byte("key")).Compile("m", machineKind(), &vmhostv1.ListMachinesRequest{PageSize: size}, "", "name")
	if err != nil {
		t.Fatal(err)
	}
	page, next := l.Cut(items)
	if len(page) != size || next == "" || taken != size+1 {
		t.Fatalf("page of %d, next %q, %d looked at", len(page), next, taken)
	}
	for i, m := range page {
		if got := m.(*vmhostv1.Machine).GetName(); got != fmt.Sprintf("machines/%05d", i) {
			t.Fatalf("%d is %s", i, got)
		}
	}
}

func TestPagesHoldEverythingOnceInOrder(t *testing.T) {
	pager := NewPager([]byte("key"))
	rapid.Check(t, func(t *rapid.T) {
		byName := map[string]*vmhostv1.Machine{}
		for range rapid.IntRange(0, 30).Draw(t, "machines") {
			m := genMachine(t)
			byName[m.GetName()] = m
		}
		var machines []*vmhostv1.Machine
		for _, m := range byName {
			machines = append(machines, m)
		}
		filter := genTruth(t, 1)
		orderBy := rapid.SampledFrom([]string{"", "name desc", "cores", "cores desc, hostname", "hostname, power_state desc, cores"}).Draw(t, "order")
		req := &vmhostv1.ListMachinesRequest{PageSize: rapid.Int32Range(1, 7).Draw(t, "size"), Filter: filter.text}

		var got []*vmhostv1.Machine
		for {
			l, err := pager.Compile("m", machineKind(), req, orderBy, "name")
			if err != nil {
				t.Fatal(err)
			}
			page, next := l.Page(itemsOf(machines))
			if after, byName := l.After(); byName {
				cut, nextCut := l.Cut(behind(machines, after))
				if !slices.Equal(cut, page) || nextCut != next {
					t.Fatalf("cut %d, next %q; want %d, next %q", len(cut), nextCut, len(page), next)
				}
			}
			if len(page) > int(req.GetPageSize()) || len(page) == 0 && next != "" {
				t.Fatalf("page of %d, next %q", len(page), next)
			}
			for _, m := range page {
				got = append(got, m.(*vmhostv1.Machine))
			}
			if next == "" {
				break
			}
			if len(next) > 2048 {
				t.Fatalf("token of %d bytes", len(next))
			}
			req.PageToken = next
		}
		var want []*vmhostv1.Machine
		for _, m := range machines {
			if filter.says(m) {
				want = append(want, m)
			}
		}
		slices.SortFunc(want, func(a, b *vmhostv1.Machine) int { return less(orderBy, a, b) })
		if !slices.Equal(names(got), names(want)) {
			t.Fatalf("%s by %q:\n got %v\nwant %v", filter.text, orderBy, names(got), names(want))
		}
	})
}

func names(machines []*vmhostv1.Machine) []string {
	var out []string
	for _, m := range machines {
		out = append(out, m.GetName())
	}
	return out
}

func less(orderBy string, a, b *vmhostv1.Machine) int {
	for part := range strings.SplitSeq(orderBy, ",") {
		field, desc := strings.CutSuffix(strings.TrimSpace(part), " desc")
		c := 0
		switch field {
		case "cores":
			c = int(a.GetCores() - b.GetCores())
		case "hostname":
			c = strings.Compare(a.GetHostname(), b.GetHostname())
		case "power_state":
			c = int(a.GetPowerState() - b.GetPowerState())
		case "name":
			c = strings.Compare(a.GetName(), b.GetName())
		}
		if desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return strings.Compare(a.GetName(), b.GetName())
}

func TestAPageTokenIsGoodForItsOwnListOnly(t *testing.T) {
	pager := NewPager([]byte("key"))
	first := &vmhostv1.ListMachinesRequest{PageSize: 1, Filter: "cores >= 0"}
	l, err := pager.Compile("m", machineKind(), first, "cores", "name")
	if err != nil {
		t.Fatal(err)
	}
	_, token := l.Page(itemsOf([]*vmhostv1.Machine{{Name: "machines/a"}, {Name: "machines/b"}}))
	if token == "" {
		t.Fatal("no token")
	}
	last := token[:len(token)-1] + string(token[len(token)-1]^1)
	for name, try := range map[string]struct {
		pager                          *Pager
		method, filter, orderBy, token string
	}{
		"another method":     {pager, "n", "cores >= 0", "cores", token},
		"another filter":     {pager, "m", "cores >= 1", "cores", token},
		"another order":      {pager, "m", "cores >= 0", "cores desc", token},
		"another deployment": {NewPager([]byte("other")), "m", "cores >= 0", "cores", token},
		"a changed token":    {pager, "m", "cores >= 0", "cores", last},
		"a cut token":        {pager, "m", "cores >= 0", "cores", token[:10]},
		"no token at all":    {pager, "m", "cores >= 0", "cores", "%%%"},
	} {
		_, err := try.pager.Compile(try.method, machineKind(), &vmhostv1.ListMachinesRequest{Filter: try.filter, PageToken: try.token}, try.orderBy, "name")
		if apierror.Reason(err) != vmhostv1.ErrorReason_INVALID_FIELD || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pager.Compile("m", machineKind(), &vmhostv1.ListMachinesRequest{Filter: "cores >= 0", PageToken: token}, "cores", "name"); err != nil {
		t.Errorf("the token itself: %v", err)
	}
}

func TestOrdersThatMeanNothingAreRefused(t *testing.T) {
	for _, orderBy := range []string{"colour", "tags", "disks", "cores down", "cores,,name", ",", "disks.size_bytes", "cores desc asc", "a.b.c", "cores, name, hostname, zone"} {
		_, err := NewPager(nil).Compile("m", machineKind(), &vmhostv1.ListMachinesRequest{}, orderBy, "name")
		if apierror.Reason(err) != vmhostv1.ErrorReason_INVALID_FIELD || !strings.Contains(err.Error(), "order_by") {
			t.Errorf("%q: %v", orderBy, err)
		}
	}
}

func TestAnAddedResourceMovesNoOtherToAnotherPage(t *testing.T) {
	pager := NewPager([]byte("key"))
	machines := []*vmhostv1.Machine{{Name: "machines/b"}, {Name: "machines/d"}, {Name: "machines/f"}}
	req := &vmhostv1.ListMachinesRequest{PageSize: 2}
	l, err := pager.Compile("m", machineKind(), req, "", "name")
	if err != nil {
		t.Fatal(err)
	}
	_, req.PageToken = l.Page(itemsOf(machines))
	machines = append(machines, &vmhostv1.Machine{Name: "machines/a"}, &vmhostv1.Machine{Name: "machines/e"})
	if l, err = pager.Compile("m", machineKind(), req, "", "name"); err != nil {
		t.Fatal(err)
	}
	page, _ := l.Page(itemsOf(machines))
	if len(page) != 2 || page[0].(*vmhostv1.Machine).GetName() != "machines/e" || page[1].(*vmhostv1.Machine).GetName() != "machines/f" {
		t.Errorf("got %v", page)
	}
}
