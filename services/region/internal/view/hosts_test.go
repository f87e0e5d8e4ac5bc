package view

import (
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Whoever asks, with a snapshot of any age, is told what that snapshot says.
func TestWhatIsKnownOfHostsIsWhatTheSnapshotSays(t *testing.T) {
	w := newWorld(t)
	hosts := &Hosts{}
	ids := []string{"a", "b", "c"}
	views := []*store.View{w.store.Cached()}
	step := int64(0)
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.SampledFrom(ids).Draw(t, "host")
		step++
		w.put(func(tx *store.Txn) {
			switch rapid.IntRange(0, 8).Draw(t, "change") {
			case 0:
				tx.Delete(store.VmHosts.Key(host))
			case 1:
				store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/" + host, Uid: few(t, "uid", "u"), Zone: fmt.Sprint("zones/", step)}}, host)
			case 2, 3:
				store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
					VmHostUid: few(t, "observed uid", "u"), State: vmhostv1.VmHostState(rapid.Int32Range(1, 2).Draw(t, "state")),
					Observation: &vmhostv1.VmHostObservation{ObserveTime: &timestamppb.Timestamp{Seconds: step}},
				}, host)
			case 4:
				store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: few(t, "rack", "r1", "r2"), VmHostUid: few(t, "assigned uid", "u")}, host)
			case 5:
				tx.Delete(store.Assignments.Key(host))
			case 6:
				store.Put(tx, store.Sessions, &storev1.StoredSession{Session: fmt.Sprint(step)}, rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "session"))
			case 7:
				tx.Delete(store.Sessions.Key(rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "ended")))
			default:
				store.Put(tx, store.Zones, &storev1.StoredZone{}, "z") // of no host
			}
		})
		views = append(views, w.store.Cached())
		var asking sync.WaitGroup
		defer asking.Wait()
		for range 2 {
			v := views[len(views)-1-min(rapid.IntRange(0, 9).Draw(t, "age"), len(views)-1)]
			asking.Go(func() {
				for _, id := range ids {
					for range 2 { // found out, and known
						got, ok := hosts.get(v, id)
						want, there := factsOf(v, id)
						got.revision, want.revision = 0, 0 // since when
						if ok != there || got != want {
							t.Errorf("%s at %d: got %v, %v, want %v, %v", id, v.Revision, got, ok, want, there)
						}
					}
				}
			})
		}
	})
	for _, id := range ids {
		hosts.get(views[len(views)-1], id)
		if _, ok := store.VmHosts.Get(views[len(views)-1], id); !ok {
			if _, known := hosts.known[id]; known {
				t.Errorf("%s is remembered and gone", id)
			}
		}
	}
}
