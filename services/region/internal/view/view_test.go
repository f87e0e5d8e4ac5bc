package view

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// lastSeen are the hosts that were reported to this process.
type lastSeen map[string]time.Time

func (l lastSeen) LastSeen(host string) time.Time { return l[host] }

const (
	domainID = "aaaaaaaa-0000-4000-8000-000000000000"
	otherID  = "bbbbbbbb-0000-4000-8000-000000000000"
)

type world struct {
	t     *testing.T
	store *store.Store
}

// stored is when everything in a world was observed, as it is stored.
func stored() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// newWorld has a host h that is ready, with a connected rack.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: storetest.New(t)}
	w.host(&vmhostv1.VmHost{Name: "vmHosts/h"}, &vmhostv1.VmHostObservation{Cores: 4, MemoryMib: 1024})
	w.put(func(tx *store.Txn) { store.Put(tx, store.Sessions, &storev1.StoredSession{Session: "s"}, "r") })
	return w
}

func (w *world) put(fill func(tx *store.Txn)) {
	w.t.Helper()
	tx := store.NewTxn()
	fill(tx)
	if _, err := w.store.Commit(w.t.Context(), tx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) host(h *vmhostv1.VmHost, o *vmhostv1.VmHostObservation) {
	w.t.Helper()
	h.Uid = uuid.NewSHA1(uuid.Nil, []byte(h.GetName())).String()
	o.ObserveTime = timestamppb.New(stored())
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: h}, id(h.GetName()))
		store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r", VmHostUid: h.GetUid()}, id(h.GetName()))
		store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
			VmHostUid: h.GetUid(), State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: o,
			Conditions: []*vmhostv1.Condition{{Type: conditionReachable, Status: true}},
		}, id(h.GetName()))
	})
}

func (w *world) get(name string) store.Record[*storev1.StoredVmHost] {
	w.t.Helper()
	r, ok := store.VmHosts.Get(w.store.Cached(), name)
	if !ok {
		w.t.Fatalf("no host %s", name)
	}
	return r
}

func (w *world) see(host string, o *rackv1.MachineObservation) {
	w.t.Helper()
	at := timestamppb.New(stored().Add(-time.Hour))
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Seen, &storev1.StoredSeenMachine{Observation: o, FirstSeenTime: at, ChangeTime: at}, host, o.GetUuid())
	})
}

func (w *world) record(m *vmhostv1.Machine) store.Record[*storev1.StoredMachine] {
	w.t.Helper()
	m.Name, m.VmHost, m.Phase = "machines/"+m.GetUid(), "vmHosts/h", vmhostv1.MachinePhase_MACHINE_PHASE_READY
	w.put(func(tx *store.Txn) { store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: m}, m.GetUid()) })
	r, _ := store.Machines.Get(w.store.Cached(), m.GetUid())
	return r
}

func condition(list []*vmhostv1.Condition, kind string) *vmhostv1.Condition {
	for _, c := range list {
		if c.GetType() == kind {
			return c
		}
	}
	return nil
}

func TestTheNewestTimeIsShown(t *testing.T) {
	w := newWorld(t)
	w.see("h", &rackv1.MachineObservation{Uuid: domainID, PowerState: vmhostv1.PowerState_POWER_STATE_ON})
	m := w.record(&vmhostv1.Machine{Uid: domainID, HypervisorUuid: domainID})
	for _, tt := range []struct {
		name string
		seen LastSeen
		want time.Time
	}{
		{"nobody knows", nil, stored()},
		{"another process has the session", lastSeen{}, stored()},
		{"it was newer then", lastSeen{"h": stored().Add(-time.Minute)}, stored()},
		{"reported here", lastSeen{"h": stored().Add(time.Minute)}, stored().Add(time.Minute)},
	} {
		v := w.store.Cached()
		if at := VmHost(v, tt.seen, nil, w.get("h")).GetObservation().GetObserveTime().AsTime(); !at.Equal(tt.want) {
			t.Errorf("%s: the host was observed at %v, want %v", tt.name, at, tt.want)
		}
		if at := Machine(v, tt.seen, m).GetObserveTime().AsTime(); !at.Equal(tt.want) {
			t.Errorf("%s: the machine was observed at %v, want %v", tt.name, at, tt.want)
		}
	}
	w.put(func(tx *store.Txn) { tx.Delete(store.Observed.Key("h")) })
	if o := VmHost(w.store.Cached(), lastSeen{"h": stored()}, nil, w.get("h")).GetObservation(); o != nil {
		t.Errorf("a host of which nothing is known has %v", o)
	}
}

func TestWhatIsNotReachedSaysWhenItWasSeenLast_P9(t *testing.T) {
	w := newWorld(t)
	w.see("h", &rackv1.MachineObservation{Uuid: domainID, PowerState: vmhostv1.PowerState_POWER_STATE_ON})
	m := w.record(&vmhostv1.Machine{Uid: domainID, HypervisorUuid: domainID})
	seen := lastSeen{"h": stored().Add(time.Minute)}
	const want = "last seen at 2026-01-02T03:05:05Z"
	check := func(what string, state vmhostv1.VmHostState) {
		t.Helper()
		h := VmHost(w.store.Cached(), seen, nil, w.get("h"))
		c := condition(h.GetConditions(), conditionReachable)
		if h.GetState() != state || c.GetStatus() || !strings.HasSuffix(c.GetMessage(), want) {
			t.Errorf("%s: %v, %v", what, h.GetState(), c)
		}
		shown := Machine(w.store.Cached(), seen, m)
		if c := condition(shown.GetConditions(), conditionObserved); shown.GetPowerState() != vmhostv1.PowerState_POWER_STATE_UNSPECIFIED || !strings.HasSuffix(c.GetMessage(), want) {
			t.Errorf("%s: %v", what, shown)
		}
	}
	o, _ := store.Observed.Get(w.store.Cached(), "h")
	gone := proto.CloneOf(o.Value)
	gone.State = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE
	gone.Conditions = []*vmhostv1.Condition{{Type: conditionReachable, Message: "no route to host"}}
	w.put(func(tx *store.Txn) { store.Put(tx, store.Observed, gone, "h") })
	check("unreachable", vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE)
	w.put(func(tx *store.Txn) { tx.Delete(store.Sessions.Key("r")) })
	check("no rack", vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK)
}

func TestAHostOverItsLimitsSaysByHowMuch(t *testing.T) {
	w := newWorld(t)
	w.host(&vmhostv1.VmHost{Name: "vmHosts/h"}, &vmhostv1.VmHostObservation{
		Cores: 2, MemoryMib: 1024, Foreign: &vmhostv1.ForeignUsage{Cores: 1}, StoragePools: []*vmhostv1.StoragePool{{Name: "default", CapacityBytes: 10}},
	})
	ledger := func(cores int32, bytes int64) *vmhostv1.Condition {
		w.put(func(tx *store.Txn) {
			store.Put(tx, store.Ledgers, &storev1.StoredLedger{Total: &storev1.Commitment{
				Cores: cores, MemoryMib: 1024, StorageBytes: map[string]int64{"default": bytes},
			}, Machines: 1}, "h")
		})
		return condition(VmHost(w.store.Cached(), nil, nil, w.get("h")).GetConditions(), conditionOvercommitted)
	}
	if c := ledger(1, 10); c != nil {
		t.Errorf("full, and no more: %v", c)
	}
	c := ledger(2, 11)
	for _, want := range []string{"cores: 2 committed and 1 of others, limit 2", "storage pool default: 11 bytes committed and 0 bytes of others, limit 10 bytes"} {
		if !c.GetStatus() || !strings.Contains(c.GetMessage(), want) || strings.Contains(c.GetMessage(), "memory") || c.GetHint() == "" {
			t.Errorf("%v, want %q", c, want)
		}
	}
}

func TestMembersOfAClusterWithoutAVMHostAreNamed(t *testing.T) {
	w := newWorld(t)
	members := []*vmhostv1.ClusterMember{{Name: "m1"}, {Name: "m3"}, {Name: "m2"}, {Name: "m4"}}
	w.host(&vmhostv1.VmHost{Name: "vmHosts/lxd", ClusterGroup: "lxd"}, &vmhostv1.VmHostObservation{ClusterMember: "m1", ClusterMembers: members})
	w.host(&vmhostv1.VmHost{Name: "vmHosts/lxd-m2", ClusterGroup: "lxd", ClusterMember: "m2"}, &vmhostv1.VmHostObservation{})
	w.host(&vmhostv1.VmHost{Name: "vmHosts/others", ClusterGroup: "others", ClusterMember: "m3"}, &vmhostv1.VmHostObservation{})
	w.host(&vmhostv1.VmHost{Name: "vmHosts/project", ClusterGroup: "lxd", ClusterMember: "m4", Project: "p"}, &vmhostv1.VmHostObservation{})
	c := condition(VmHost(w.store.Cached(), nil, nil, w.get("lxd")).GetConditions(), conditionMembersMissing)
	if !strings.Contains(c.GetMessage(), "m3, m4:") || !strings.Contains(c.GetHint(), "vmhostctl vm-host add-cluster-members lxd") {
		t.Errorf("%v", c)
	}
	for host, member := range map[string]string{"lxd-m3": "m3", "lxd-m4": "m4"} {
		w.host(&vmhostv1.VmHost{Name: "vmHosts/" + host, ClusterGroup: "lxd", ClusterMember: member}, &vmhostv1.VmHostObservation{})
	}
	if c := condition(VmHost(w.store.Cached(), nil, nil, w.get("lxd")).GetConditions(), conditionMembersMissing); c != nil {
		t.Errorf("all are there: %v", c)
	}
}

func TestAMachineThatItsHostDoesNotShowIsMissing(t *testing.T) {
	w := newWorld(t)
	m := Machine(w.store.Cached(), lastSeen{"h": stored().Add(time.Minute)}, w.record(&vmhostv1.Machine{Uid: domainID, HypervisorUuid: domainID}))
	c := condition(m.GetConditions(), conditionMissing)
	if !c.GetStatus() || c.GetReason() != "MACHINE_MISSING" || !strings.Contains(c.GetMessage(), "2026-01-02T03:05:05Z") || c.GetHint() == "" {
		t.Errorf("%v", m.GetConditions())
	}
}

func TestAMachineThatWasChangedOutsideKeepsWhatWasDecided(t *testing.T) {
	w := newWorld(t)
	adopted := w.record(&vmhostv1.Machine{
		Uid: DiscoveredUID(w.get("h").Value.GetResource().GetUid(), domainID), HypervisorUuid: domainID, Hostname: "db", HypervisorName: "db", Cores: 2, MemoryMib: 512,
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: "db", Name: "root", SizeBytes: 1 << 30}, {Path: "/dev/sdb", Device: "vdb"}},
	})
	is := &rackv1.MachineObservation{
		Uuid: domainID, Name: "db", Cores: 2, MemoryMib: 512, Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, PowerState: vmhostv1.PowerState_POWER_STATE_ON,
		Disks: []*vmhostv1.MachineDisk{{Path: "/dev/sdb", Device: "vdb"}, {StoragePool: "default", Volume: "db", Name: "root", SizeBytes: 1<<30 + 4<<20}, {Device: "sda", Path: "/iso"}},
	}
	w.see("h", is)
	m := Machine(w.store.Cached(), nil, adopted)
	if len(m.GetConditions()) != 0 || m.GetPowerState() != vmhostv1.PowerState_POWER_STATE_ON || m.GetType() != vmhostv1.MachineType_MACHINE_TYPE_CONTAINER {
		t.Errorf("as it was: %v", m)
	}
	for want, change := range map[string]func(o *rackv1.MachineObservation){
		"its name is sql, not db":               func(o *rackv1.MachineObservation) { o.Name = "sql" },
		"cores is 3, not 2":                     func(o *rackv1.MachineObservation) { o.Cores = 3 },
		"memory is 1 MiB, not 512 MiB":          func(o *rackv1.MachineObservation) { o.MemoryMib = 1 },
		"memory is 2 GiB, not 512 MiB":          func(o *rackv1.MachineObservation) { o.MemoryMib = 2048 },
		"the disk db has 5 bytes, not 1 GiB":    func(o *rackv1.MachineObservation) { o.Disks[1].SizeBytes = 5 },
		"the disk db has 20 GiB, not 1 GiB":     func(o *rackv1.MachineObservation) { o.Disks[1].SizeBytes = 20 << 30 },
		"the disk db has 1023.9 MiB, not 1 GiB": func(o *rackv1.MachineObservation) { o.Disks[1].SizeBytes = 1<<30 - 1 },
		"the disk /dev/sdb is not there":        func(o *rackv1.MachineObservation) { o.Disks = o.GetDisks()[1:] },
		"the interface 52:54:00:00:00:01 was added": func(o *rackv1.MachineObservation) {
			o.Interfaces = []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01"}}
		},
	} {
		o := proto.CloneOf(is)
		change(o)
		w.see("h", o)
		m := Machine(w.store.Cached(), nil, adopted)
		c := condition(m.GetConditions(), conditionChanged)
		if !c.GetStatus() || !strings.Contains(c.GetMessage(), want) || strings.Contains(c.GetMessage(), ";") || m.GetHypervisorName() != "db" || m.GetCores() != 2 || m.GetMemoryMib() != 512 {
			t.Errorf("want %q: %v", want, m)
		}
	}
	o := proto.CloneOf(is) // an LXD instance that was renamed: its root disk has another name too
	o.Name, o.Disks[1].Volume = "sql", "sql"
	if c := Changed(adopted.Value.GetResource(), o); !slices.Equal(c, []string{"its name is sql, not db"}) {
		t.Errorf("renamed: %v", c)
	}
	o.Cores, o.Problem = 0, "its limits cannot be read"
	if c := Changed(adopted.Value.GetResource(), o); len(c) != 1 {
		t.Errorf("not read whole: %v", c)
	}
}

// Every field that is observed of a machine is shown of a discovered one.
func TestADiscoveredMachineIsShownWithAllThatIsKnownOfIt(t *testing.T) {
	w := newWorld(t)
	o := &rackv1.MachineObservation{
		Uuid: domainID, Name: "legacy", PowerState: vmhostv1.PowerState_POWER_STATE_PAUSED, Cores: 2, MemoryMib: 512, Architecture: "x86_64",
		Disks: []*vmhostv1.MachineDisk{{Device: "vda", Boot: true}}, Interfaces: []*vmhostv1.MachineInterface{{Mac: "52:54:00:00:00:01", Vlan: 7}},
		ConsoleLogPath: "/log", Autostart: true, Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, PinnedCores: []int32{1, 3}, Hugepages: true,
		Firmware: vmhostv1.Firmware_FIRMWARE_UEFI, SecureBoot: true, Profiles: []string{"p"}, Image: "img", Project: "theirs",
	}
	w.see("h", o)
	m, ok := FindDiscovered(w.store.Cached(), nil, DiscoveredUID(w.get("h").Value.GetResource().GetUid(), domainID))
	if !ok {
		t.Fatal("not found")
	}
	shown := m.ProtoReflect()
	o.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := f.Name()
		switch name {
		case "uuid":
			name = "hypervisor_uuid"
		case "name":
			name = "hypervisor_name"
		default:
		}
		to := shown.Descriptor().Fields().ByName(name)
		if to == nil {
			t.Errorf("%s is shown nowhere", name)
		} else if got := shown.Get(to); !got.Equal(value) {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
		return true
	})
	if m.GetOrigin() != vmhostv1.MachineOrigin_MACHINE_ORIGIN_DISCOVERED || m.GetHostname() != "legacy" || len(m.GetConditions()) != 0 {
		t.Errorf("%v", m)
	}
	o.Problem = "its memory cannot be read"
	w.see("h", o)
	m, _ = FindDiscovered(w.store.Cached(), nil, m.GetUid())
	if c := condition(m.GetConditions(), conditionReadable); c.GetMessage() != o.GetProblem() || c.GetStatus() {
		t.Errorf("%v", m.GetConditions())
	}
}

func TestWhatCarriesOurMetadataAndIsNotOursSaysSo(t *testing.T) {
	w := newWorld(t)
	w.record(&vmhostv1.Machine{Uid: domainID, HypervisorUuid: domainID})
	for uid, want := range map[string]string{domainID: "it is a clone of it", "left-behind": "no machine of this deployment"} {
		w.see("h", &rackv1.MachineObservation{Uuid: otherID, Uid: uid})
		m, ok := FindDiscovered(w.store.Cached(), nil, DiscoveredUID(w.get("h").Value.GetResource().GetUid(), otherID))
		c := condition(m.GetConditions(), "CarriesOurMetadata")
		if !ok || c.GetReason() != "FOREIGN_OBJECT" || !strings.Contains(c.GetMessage(), want) || c.GetHint() == "" {
			t.Errorf("%v, want %q", m, want)
		}
	}
}

// Another project of one LXD server is another host: what is ours there is listed
// there, and is no clone here.
func TestAMachineOfAnotherProjectIsListedOnceWhereItIsOurs(t *testing.T) {
	w := newWorld(t)
	hostUID := w.get("h").Value.GetResource().GetUid()
	w.put(func(tx *store.Txn) {
		store.Put(tx, store.Machines, &storev1.StoredMachine{Resource: &vmhostv1.Machine{Name: "machines/" + domainID, Uid: domainID, HypervisorUuid: domainID, VmHost: "vmHosts/other"}}, domainID)
	})
	w.see("h", &rackv1.MachineObservation{Uuid: domainID, Uid: domainID, Project: "theirs"})
	w.see("h", &rackv1.MachineObservation{Uuid: otherID, Uid: domainID, Project: "theirs"})
	var all []string
	for _, seen := range AllDiscovered(w.store.Cached()) {
		all = append(all, seen.Value.GetObservation().GetUuid())
	}
	if diff := cmp.Diff([]string{otherID}, all); diff != "" {
		t.Error(diff)
	}
	if m, ok := FindDiscovered(w.store.Cached(), nil, DiscoveredUID(hostUID, domainID)); ok {
		t.Errorf("found: %v", m)
	}
}

func TestWhatIsDiscoveredIsFoundAndWhatIsOursIsNot(t *testing.T) {
	w := newWorld(t)
	hostUID := w.get("h").Value.GetResource().GetUid()
	w.see("h", &rackv1.MachineObservation{Uuid: domainID})
	w.see("h", &rackv1.MachineObservation{Uuid: otherID})
	w.see("gone", &rackv1.MachineObservation{Uuid: otherID}) // of a host that is not there
	w.record(&vmhostv1.Machine{Uid: domainID, HypervisorUuid: domainID})
	var all []string
	for h, seen := range AllDiscovered(w.store.Cached()) {
		all = append(all, h.GetName()+" "+seen.Value.GetObservation().GetUuid())
	}
	if diff := cmp.Diff([]string{"vmHosts/h " + otherID}, all); diff != "" {
		t.Error(diff)
	}
	for uid, want := range map[string]bool{
		DiscoveredUID(hostUID, otherID): true, DiscoveredUID(hostUID, domainID): false, domainID: false, uuid.NewString(): false,
		DiscoveredUID("another", otherID): false, "": false,
	} {
		if m, ok := FindDiscovered(w.store.Cached(), nil, uid); ok != want || ok && m.GetUid() != uid {
			t.Errorf("%q: %v, %v", uid, m, ok)
		}
	}
}
