package ledger

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// What the fleet of 10,000 hosts costs a question: at the view of the question
// before, at one in which a host has changed, and were it made anew. Machines are
// not part of it: a host's ledger has their sum.
func BenchmarkFleetOfAQuestion(b *testing.B) {
	const hosts = 10_000
	s := storetest.New(b)
	for from := 0; from < hosts; from += 500 {
		tx := store.NewTxn()
		for i := from; i < from+500; i++ {
			spec, observed := hostRecord(hostID(i), 64, 1<<20)
			store.Put(tx, store.VmHosts, spec, hostID(i))
			store.Put(tx, store.Observed, observed, hostID(i))
		}
		commit(b, s, tx)
	}
	l := open(b, s)
	v := s.Cached()
	l.Fleet(v)
	b.Run("same view", func(b *testing.B) {
		for b.Loop() {
			l.Fleet(v).Draft()
		}
	})
	b.Run("one host changed", func(b *testing.B) {
		spec, _ := store.VmHosts.Get(v, hostID(77))
		for b.Loop() {
			b.StopTimer()
			next := proto.CloneOf(spec.Value)
			tx := store.NewTxn()
			store.Put(tx, store.VmHosts, next, hostID(77))
			commit(b, s, tx)
			now := s.Cached()
			b.StartTimer()
			l.Fleet(now).Draft()
		}
	})
	b.Run("made anew", func(b *testing.B) {
		for b.Loop() {
			whole(v)
		}
	})
}

func hostID(i int) string { return fmt.Sprintf("h%05d", i) }
