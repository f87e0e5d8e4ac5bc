package api

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// What the index finds after any changes is what going through everything finds:
// hosts that come, go and come again under their id, machines that are seen,
// composed, adopted, released, moved, and seen in two projects of a server.
func TestTheIndexOfDiscoveredMachinesFollowsTheStore(t *testing.T) {
	s := storetest.New(t)
	x := newDiscovered(s)
	random := rand.New(rand.NewPCG(1, 2))
	hosts := []string{"a", "b", "c"}
	domains := make([]string, 6)
	for i := range domains {
		domains[i] = uuid.NewSHA1(uuid.Nil, []byte{byte(i)}).String()
	}
	for step := range 300 {
		host, domain := hosts[random.IntN(len(hosts))], domains[random.IntN(len(domains))]
		tx := store.NewTxn()
		switch random.IntN(7) {
		case 0:
			store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
				Name: "vmHosts/" + host, Uid: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, host, random.IntN(2))).String(), Project: host,
			}}, host)
		case 1:
			tx.Delete(store.VmHosts.Key(host))
		case 2, 3:
			store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: &rackv1.MachineObservation{
				Uuid: domain, Project: []string{"", host, "a"}[random.IntN(3)],
			}}, host, domain)
		case 4:
			tx.Delete(store.Seen.Key(host, domain))
		case 5:
			uid := domain
			if h, ok := store.VmHosts.Get(s.Cached(), host); ok && random.IntN(2) == 0 {
				uid = view.DiscoveredUID(h.Value.GetResource().GetUid(), domain) // adopted
			}
			store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{
				Name: "machines/" + uid, Uid: uid, VmHost: "vmHosts/" + host, HypervisorUuid: domain,
			}}, uid)
		default:
			for uid := range store.Machines.IDs(s.Cached()) {
				tx.Delete(store.Machines.Key(uid))
				break
			}
		}
		if tx.Writes() > 0 {
			if _, err := s.Commit(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
		}
		if step%97 == 0 { // as after a lag
			x.mu.Lock()
			x.drop()
			x.mu.Unlock()
		}
		v := s.Cached()
		var want, got []string
		for h, seen := range view.AllDiscovered(v) {
			want = append(want, machinesCollection+view.DiscoveredUID(h.GetUid(), seen.Value.GetObservation().GetUuid()))
		}
		slices.Sort(want)
		for item := range x.items("", func(place) proto.Message { return nil }) {
			got = append(got, item.Name)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("after step %d: found %v, want %v", step, got, want)
		}
		if len(want) > 1 {
			behind := 0
			for range x.items(want[0], func(place) proto.Message { return nil }) {
				behind++
			}
			if behind != len(want)-1 {
				t.Fatalf("behind the first of %d there are %d", len(want), behind)
			}
		}
	}
	x.mu.Lock()
	x.drop()
	x.mu.Unlock()
}
