package inventory

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Whatever happens to hosts and machines, a uid is found by the index just as it
// is by going through everything.
func TestWhatIsDiscoveredIsFoundByTheIndexAsWithoutIt(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.inv.Run(ctx, held{}); err != nil {
			t.Error(err)
		}
	})
	defer func() { cancel(); running.Wait() }()
	hosts := []string{"a", "b"}
	uids := map[string][]string{} // a host that is made anew has another
	for _, host := range hosts {
		uids[host] = []string{uuid.NewString(), uuid.NewString()}
	}
	rapid.Check(t, func(rt *rapid.T) {
		for range 10 {
			host, n := rapid.SampledFrom(hosts).Draw(rt, "host"), rapid.IntRange(0, 3).Draw(rt, "machine")
			w.put(func(tx *store.Txn) {
				switch rapid.IntRange(0, 5).Draw(rt, "what") {
				case 0: // made, or made anew
					store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
						Name: "vmHosts/" + host, Uid: rapid.SampledFrom(uids[host]).Draw(rt, "uid"),
					}}, host)
				case 1: // removed with all that was seen on it
					tx.Delete(store.VmHosts.Key(host))
					tx.DeletePrefix(store.Seen.Prefix(host))
				case 2:
					tx.Delete(store.Seen.Key(host, id(n)))
				default:
					store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: domain(n, "m", true)}, host, id(n))
				}
			})
		}
		v := w.store.Cached()
		late := time.After(20 * time.Second)
		for {
			if _, _, sure := w.inv.Locate(v, uuid.New()); sure {
				break
			}
			select {
			case <-late:
				rt.Fatal("the index does not keep up")
			case <-time.After(time.Millisecond):
			}
		}
		for _, uid := range slices.Concat(uids["a"], uids["b"]) {
			for n := range 4 {
				wanted := view.DiscoveredUID(uid, id(n))
				m, found := view.FindDiscovered(v, w.inv, wanted)
				want, there := view.FindDiscovered(v, nil, wanted)
				if found != there || m.GetName() != want.GetName() || m.GetVmHost() != want.GetVmHost() {
					rt.Fatalf("%s: by the index %v, without %v", wanted, m, want)
				}
			}
		}
	})
}
