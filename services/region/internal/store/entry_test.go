package store

import (
	"bytes"
	"runtime"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func TestAValueOfAListIsWhatItsBytesDecodeToHoweverItIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s slab
		type read struct {
			f     *kind
			e     entry
			bytes []byte
		}
		var all []read
		for range rapid.IntRange(1, 20).Draw(t, "records") {
			f := anyFamily(t)
			m := f.empty()
			anyValue(t, m.ProtoReflect(), 3)
			data, err := proto.Marshal(m)
			if err != nil {
				continue // text that is no UTF-8
			}
			data = append(data, 0xf8, 0xff, 0xff, 0xff, 0x0f, 1) // a field of a later version
			e, err := newEntryUntold(f, &mvccpb.KeyValue{Value: data, ModRevision: 7, CreateRevision: 5}, &s)
			if err != nil {
				t.Fatalf("a %s is refused: %v", f.name(), err)
			}
			all = append(all, read{f, e, bytes.Clone(data)})
			clear(data) // what etcd's client does with it later is its business
		}
		for round := range 2 {
			if round == 1 {
				runtime.GC() // what was lent is gone
			}
			for _, r := range all {
				want := r.f.empty()
				if err := proto.Unmarshal(r.bytes, want); err != nil {
					t.Fatal(err)
				}
				if got := r.e.value(r.f); !same(t, got, want) || r.e.modRevision != 7 || r.e.createRevision != 5 {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
		}
	})
}

// same compares by the bytes: numbers that are none are not equal to themselves.
func same(t *rapid.T, a, b proto.Message) bool {
	t.Helper()
	x, err := encode(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

func TestOnlyAValueThatWasDecodedForItsReaderIsHisOwn(t *testing.T) {
	for name, lent := range map[string]bool{"machines": false, "observed": true, "zones": true} {
		f := kinds[name]
		e, _, err := newEntry(f, &mvccpb.KeyValue{ModRevision: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, second := e.value(f), e.value(f)
		if shared := first == second; shared != lent {
			t.Errorf("%s: two readers share a value: %v", name, shared)
		}
		runtime.KeepAlive(first)
	}
	m := Machines.record(&entry{modRevision: 1})
	if m.Own() != m.Value {
		t.Error("a machine that was decoded for its reader is copied")
	}
	z := kinds["zones"].empty()
	if r := (Family[proto.Message]{prefix: "zones/"}).record(&entry{kept: &kept{value: z}}); r.Own() == z {
		t.Error("a zone that others read is handed out to be changed")
	}
}
