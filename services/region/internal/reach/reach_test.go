package reach

import (
	"slices"
	"testing"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func TestRacksThatCanReachAnAddressThoseOfTheZoneFirst(t *testing.T) {
	s := storetest.New(t)
	tx := store.NewTxn()
	add := func(id, zone string, session *storev1.StoredSession) {
		store.Put(tx, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/" + id, Zone: "zones/" + zone}}, id)
		if session != nil {
			store.Put(tx, store.Sessions, session, id)
		}
	}
	add("a", "east", &storev1.StoredSession{Drivers: []string{"libvirt"}, LocalSockets: []string{"", "h1"}})
	add("b", "west", &storev1.StoredSession{Drivers: []string{"libvirt", "fake"}, LocalSockets: []string{""}})
	add("c", "west", &storev1.StoredSession{Drivers: []string{"fake"}})
	add("d", "west", nil)
	store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"libvirt"}}, "not-enrolled")
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	v := s.Cached()
	for _, tt := range []struct {
		address, zone, pinned string
		want                  []string
	}{
		{"qemu+ssh://u@h/system", "east", "", []string{"a", "b"}},
		{"qemu+ssh://u@h/system", "west", "", []string{"b", "a"}},
		{"qemu+ssh://u@h/system", "west", "a", []string{"a"}},
		{"qemu+ssh://u@h/system", "west", "d", nil},
		{"qemu+unix://h1/system", "west", "", []string{"a"}},
		{"qemu+unix://h2/system", "west", "", nil},
		{"qemu:///system", "west", "", []string{"b", "a"}},
		{"fake://x", "east", "", []string{"b", "c"}},
		{"nonsense", "east", "", nil},
	} {
		got := Racks(v, tt.address, tt.zone, tt.pinned)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s from %s, pinned to %q: %v, want %v", tt.address, tt.zone, tt.pinned, got, tt.want)
		}
		for _, rack := range []string{"a", "b", "c", "d", "not-enrolled"} {
			if tt.pinned == "" && Can(v, tt.address, rack) != slices.Contains(tt.want, rack) {
				t.Errorf("%s by %s: %v", tt.address, rack, Can(v, tt.address, rack))
			}
		}
	}
}

// A rack that is older than the question moved what the drivers of its time could.
func TestWhichRacksMoveMachinesOfWhichHosts(t *testing.T) {
	s := storetest.New(t)
	tx := store.NewTxn()
	store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"fake", "libvirt", "lxd"}}, "old")
	store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"libvirt", "lxd"}, Movers: []string{"libvirt", "lxd"}}, "new")
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	for rack, want := range map[string][]bool{"old": {true, true, false}, "new": {false, true, true}, "none": {false, false, false}} {
		for i, kind := range []vmhostv1.VmHostType{vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, vmhostv1.VmHostType_VM_HOST_TYPE_LXD} {
			if got := Moves(s.Cached(), kind, rack); got != want[i] {
				t.Errorf("rack %s moves machines of %s: %v", rack, kind, got)
			}
		}
	}
}
