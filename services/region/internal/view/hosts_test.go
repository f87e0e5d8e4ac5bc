package view

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
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
			switch rapid.IntRange(0, 6).Draw(t, "change") {
			case 0:
				tx.Delete(store.VmHosts.Key(host))
			case 1:
				store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/" + host, Uid: few(t, "uid", "u"), Zone: fmt.Sprint("zones/", step)}}, host)
			case 2, 3:
				store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
					VmHostUid: few(t, "observed uid", "u"), State: vmhostv1.VmHostState(rapid.Int32Range(0, 4).Draw(t, "state")),
					Observation: &vmhostv1.VmHostObservation{ObserveTime: &timestamppb.Timestamp{Seconds: step}},
				}, host)
			case 4:
				store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: fmt.Sprint("r", step), VmHostUid: few(t, "assigned uid", "u")}, host)
			case 5:
				tx.Delete(store.Assignments.Key(host))
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
						got, want := hosts.get(v, id), factsOf(v, id)
						if (got == nil) != (want == nil) {
							t.Errorf("%s: got %v, want %v", id, got, want)
						}
						if got == nil || want == nil {
							continue
						}
						if got.zone != want.zone || got.rack != want.rack || got.reported != want.reported || !cmp.Equal(got.observed, want.observed, protocmp.Transform()) {
							t.Errorf("%s at %d: got %v, want %v", id, v.Revision, got, want)
						}
					}
				}
			})
		}
	})
	for _, id := range ids {
		hosts.get(views[len(views)-1], id)
		if _, ok := store.VmHosts.Get(views[len(views)-1], id); !ok {
			if _, known := hosts.known.Load(id); known {
				t.Errorf("%s is remembered and gone", id)
			}
		}
	}
}
