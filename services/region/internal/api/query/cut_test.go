package query

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// listTag opens a machine in ListMachinesResponse.
var listTag = protowire.EncodeTag(1, protowire.BytesType)

// gaps are items of which some have no resource when it is asked for. Every other
// one appends itself.
func gaps(names []string, there []bool, long []int) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for i, name := range names {
			item := Item{Name: name, Build: func() proto.Message {
				if !there[i] {
					return nil
				}
				return &vmhostv1.Machine{Name: name, Hostname: strings.Repeat("x", long[i])}
			}}
			if i%2 == 0 {
				item.Append = func(b []byte) ([]byte, error) {
					if !there[i] {
						return b, nil
					}
					return proto.MarshalOptions{}.MarshalAppend(b, item.Build())
				}
			}
			if !yield(item) {
				return
			}
		}
	}
}

func TestAnEncodedPageHoldsWhatADecodedOneHolds(t *testing.T) {
	pager := NewPager([]byte("key"))
	rapid.Check(t, func(t *rapid.T) {
		const most = 3 * perWorker
		n := rapid.IntRange(0, most).Draw(t, "items")
		names, there, long := make([]string, n), make([]bool, n), make([]int, n)
		gap := rapid.IntRange(2, 50).Draw(t, "gap")
		for i := range n {
			names[i], there[i] = fmt.Sprintf("machines/%04d", i), i%gap != 0
			// Lengths that take one byte, two, and three.
			long[i] = []int{0, 40, 120, 300, 20_000}[(i*7+gap)%5]
		}
		req := &vmhostv1.ListMachinesRequest{PageSize: rapid.Int32Range(1, most).Draw(t, "size")}
		for {
			l, err := pager.Compile("m", machineKind(), req, "", "name")
			if err != nil {
				t.Fatal(err)
			}
			after, _ := l.After()
			from, found := slices.BinarySearch(names, after)
			if found {
				from++
			}
			items := gaps(names[from:], there[from:], long[from:])
			want, next := l.Cut(items)
			page, able, err := l.CutEncoded(listTag, items)
			if err != nil || !able || page.Next != next {
				t.Fatalf("encoded: %v, %v; next %q, want %q", able, err, page.Next, next)
			}
			got := &vmhostv1.ListMachinesResponse{}
			if err := proto.Unmarshal(bytes.Join(page.Parts, nil), got); err != nil {
				t.Fatal(err)
			}
			if len(got.GetMachines()) != len(want) {
				t.Fatalf("%d machines, want %d", len(got.GetMachines()), len(want))
			}
			for i, m := range got.GetMachines() {
				if !proto.Equal(m, want[i]) {
					t.Fatalf("%d is %s, want %s", i, m.GetName(), want[i].(*vmhostv1.Machine).GetName())
				}
			}
			// As any encoder would write it: no length is longer than it must be.
			if again, err := proto.Marshal(got); err != nil || !bytes.Equal(again, bytes.Join(page.Parts, nil)) {
				t.Fatal("encoded another way than by an encoder")
			}
			if next == "" {
				return
			}
			req.PageToken = next
		}
	})
}

func TestAListThatIsFilteredIsNotEncoded(t *testing.T) {
	l, err := NewPager([]byte("key")).Compile("m", machineKind(), &vmhostv1.ListMachinesRequest{Filter: "cores = 1"}, "", "name")
	if err != nil {
		t.Fatal(err)
	}
	if page, able, err := l.CutEncoded(listTag, slices.Values([]Item{{Name: "a"}})); able || err != nil || page.Parts != nil {
		t.Errorf("got %v, %v, %v", page, able, err)
	}
}

func TestAResourceThatCannotBeEncodedIsTheAnswer(t *testing.T) {
	l, err := NewPager([]byte("key")).Compile("m", machineKind(), &vmhostv1.ListMachinesRequest{}, "", "name")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	_, _, err = l.CutEncoded(listTag, slices.Values([]Item{{Name: "machines/a", Append: func(b []byte) ([]byte, error) { return b, broken }}}))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "machines/a") {
		t.Errorf("got %v", err)
	}
}
