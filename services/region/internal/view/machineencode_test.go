package view

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// few makes equal values likely.
func few(t *rapid.T, what string, words ...string) string {
	return rapid.SampledFrom(append(words, "")).Draw(t, what)
}

func drawTime(t *rapid.T, what string) *timestamppb.Timestamp {
	return rapid.SampledFrom([]*timestamppb.Timestamp{
		nil, {}, {Seconds: 5}, {Seconds: 1 << 40}, {Nanos: -1}, timestamppb.New(stored()), timestamppb.New(stored().Add(time.Minute)), {Seconds: -7, Nanos: 9},
	}).Draw(t, what)
}

func drawDisk(t *rapid.T) *vmhostv1.MachineDisk {
	return &vmhostv1.MachineDisk{
		StoragePool: few(t, "pool", "p", "q"), Volume: few(t, "volume", "v", "w", "x"), SizeBytes: rapid.SampledFrom([]int64{0, 1, 2, 1 << 40}).Draw(t, "size"),
		Device: few(t, "device", "vda", "vdb"), Path: few(t, "path", "/a", "/b"), Boot: rapid.Bool().Draw(t, "boot"), Name: few(t, "name", "root", "data"),
		Tags: rapid.SliceOfN(rapid.Just("tag"), 0, 2).Draw(t, "tags"),
	}
}

func drawInterface(t *rapid.T, addresses int) *vmhostv1.MachineInterface {
	return &vmhostv1.MachineInterface{
		Mac: few(t, "mac", "52:54:00:00:00:0a", "52:54:00:00:00:0A", "52:54:00:00:00:0b"), Source: few(t, "source", "default"),
		Kind: vmhostv1.InterfaceKind(rapid.Int32Range(0, 4).Draw(t, "kind")), Addresses: drawAddresses(t, addresses),
		Vlan: rapid.Int32Range(-1, 2).Draw(t, "vlan"),
	}
}

func drawAddresses(t *rapid.T, most int) []string {
	return rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "fe80::1", ""}), 0, most).Draw(t, "addresses")
}

// drawRecord is any record, most often one as composes and moves write them.
func drawRecord(t *rapid.T) *storev1.StoredMachine {
	plain := rapid.IntRange(0, 9).Draw(t, "plain") > 1
	m := &vmhostv1.Machine{
		Name: "machines/" + domainID, Uid: domainID, CreateTime: drawTime(t, "created"), UpdateTime: drawTime(t, "updated"), Hostname: "m",
		Origin: vmhostv1.MachineOrigin(rapid.Int32Range(0, 3).Draw(t, "origin")), VmHost: "vmHosts/h", Zone: few(t, "zone", "zones/a", "zones/b"),
		ResourcePool: "resourcePools/default", HypervisorName: few(t, "hypervisor name", "m", "n"), HypervisorUuid: few(t, "hypervisor uuid", domainID, otherID),
		Architecture: "x86_64", Cores: rapid.Int32Range(0, 2).Draw(t, "cores"), MemoryMib: rapid.Int64Range(0, 2).Draw(t, "memory"),
		Tags: []string{"a", "b"}, Phase: vmhostv1.MachinePhase(rapid.Int32Range(0, 6).Draw(t, "phase")), Operation: few(t, "operation", "operations/o"),
		Type: vmhostv1.MachineType(rapid.Int32Range(0, 2).Draw(t, "type")), PinnedCores: []int32{1, 2}, Firmware: vmhostv1.Firmware(rapid.Int32Range(0, 2).Draw(t, "firmware")),
		Project: few(t, "project", "p"), Autostart: true, Group: "g",
	}
	for range rapid.IntRange(0, 3).Draw(t, "disks") {
		m.Disks = append(m.Disks, drawDisk(t))
	}
	for range rapid.IntRange(0, 2).Draw(t, "interfaces") {
		m.Interfaces = append(m.Interfaces, drawInterface(t, 0))
	}
	r := &storev1.StoredMachine{Resource: m, Commitment: &storev1.Commitment{Cores: 1}, Autostart: true}
	if plain {
		for i, d := range m.GetDisks() {
			d.Volume, d.Name = fmt.Sprint("v", i), ""
		}
		for i, nic := range m.GetInterfaces() {
			nic.Mac = fmt.Sprint("52:54:00:00:00:0", i)
		}
		return r
	}
	// What no writer leaves there, or seldom.
	m.Etag, m.PowerState, m.ObserveTime = "old", vmhostv1.PowerState(rapid.Int32Range(0, 4).Draw(t, "power")), drawTime(t, "observed")
	m.Addresses, m.ConsoleLogPath = drawAddresses(t, 2), few(t, "log", "/old")
	if rapid.Bool().Draw(t, "condition") {
		m.Conditions = []*vmhostv1.Condition{{Type: "Stored", Status: true}}
	}
	if len(m.GetInterfaces()) > 0 {
		m.Interfaces[0].Addresses = drawAddresses(t, 2)
	}
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
	if rapid.Bool().Draw(t, "moved") {
		r.Move = &storev1.StoredMove{VmHost: "h2"}
	}
	return r
}

// drawSeen is how a host shows a machine, most often much as it is recorded.
func drawSeen(t *rapid.T, m *vmhostv1.Machine) *storev1.StoredSeenMachine {
	o := &rackv1.MachineObservation{
		Uuid: Domain(m), Uid: m.GetUid(), Name: m.GetHypervisorName(), Cores: m.GetCores(), MemoryMib: m.GetMemoryMib(),
		PowerState:     vmhostv1.PowerState(rapid.Int32Range(0, 4).Draw(t, "seen power")),
		ConsoleLogPath: few(t, "seen log", "/var/log/c"), Type: vmhostv1.MachineType(rapid.Int32Range(0, 2).Draw(t, "seen type")),
		Firmware: vmhostv1.Firmware(rapid.Int32Range(0, 2).Draw(t, "seen firmware")), Project: few(t, "seen project", "p", "q"),
	}
	for _, d := range m.GetDisks() {
		d = proto.CloneOf(d)
		if rapid.Bool().Draw(t, "device seen") {
			d.Device, d.Path = few(t, "seen device", "vda", "vdb"), few(t, "seen path", "/a", "/b", "/c")
		}
		o.Disks = append(o.Disks, d)
	}
	for _, i := range m.GetInterfaces() {
		i = proto.CloneOf(i)
		i.Addresses = drawAddresses(t, 3)
		o.Interfaces = append(o.Interfaces, i)
	}
	switch rapid.IntRange(0, 20).Draw(t, "difference") {
	case 0:
		o.Name, o.Cores, o.MemoryMib = few(t, "seen name", "m", "n"), rapid.Int32Range(0, 2).Draw(t, "seen cores"), rapid.Int64Range(0, 2).Draw(t, "seen memory")
	case 1:
		o.Disks = append(o.Disks, drawDisk(t))
	case 2:
		o.Disks = append([]*vmhostv1.MachineDisk{drawDisk(t)}, o.GetDisks()[min(1, len(o.GetDisks())):]...)
	case 3:
		o.Interfaces = append(o.Interfaces, drawInterface(t, 3))
	case 4:
		o.Interfaces = append([]*vmhostv1.MachineInterface{drawInterface(t, 3)}, o.GetInterfaces()[min(1, len(o.GetInterfaces())):]...)
	case 5:
		o.Problem = "cannot be read"
	case 6:
		slices.Reverse(o.GetDisks())
		slices.Reverse(o.GetInterfaces())
	default:
	}
	return &storev1.StoredSeenMachine{Observation: o, FirstSeenTime: drawTime(t, "first seen"), ChangeTime: drawTime(t, "changed")}
}

// What is put together of encoded records is what is made of decoded ones, for any
// record and any observation.
func TestAMachineIsEncodedAsItIsShown(t *testing.T) {
	w := newWorld(t)
	w.host(&vmhostv1.VmHost{Name: "vmHosts/h2"}, &vmhostv1.VmHostObservation{})
	spec := w.get("h").Value.GetResource()
	copied, decoded := 0, 0
	hosts := &Hosts{}
	rapid.Check(t, func(t *rapid.T) {
		record := drawRecord(t)
		m := record.GetResource()
		zone := proto.CloneOf(spec)
		zone.Zone = few(t, "host's zone", "zones/a")
		reached := rapid.IntRange(0, 3).Draw(t, "reached") > 0
		observed := &storev1.StoredVmHostObservation{
			VmHostUid: spec.GetUid(), State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: &vmhostv1.VmHostObservation{ObserveTime: drawTime(t, "host observed")},
		}
		if rapid.IntRange(0, 9).Draw(t, "state") == 0 {
			observed.State = vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE
		}
		w.put(func(tx *store.Txn) {
			store.Put(tx, store.Machines, record, domainID)
			store.Put(tx, store.Observed, observed, "h")
			store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: zone}, "h")
			store.Put(tx, store.Sessions, &storev1.StoredSession{Session: "s"}, "r")
			tx.DeletePrefix(store.Seen.Prefix())
			tx.DeletePrefix(store.Operations.Prefix())
		})
		w.put(func(tx *store.Txn) {
			if !reached {
				tx.Delete(store.Sessions.Key("r"))
			}
			if rapid.IntRange(0, 19).Draw(t, "seen") > 0 {
				store.Put(tx, store.Seen, drawSeen(t, m), rapid.SampledFrom([]string{"h", "h", "h", "h", "h", "h", "h", "h2"}).Draw(t, "host"), Domain(m))
			}
			if rapid.Bool().Draw(t, "under way") {
				store.Put(tx, store.Operations, &storev1.StoredOperation{Resource: &vmhostv1.Operation{Name: "operations/o"}}, "o")
			}
		})
		var fresh LastSeen
		if rapid.Bool().Draw(t, "reported here") {
			fresh = lastSeen{"h": stored().Add(time.Second)}
		}
		v := w.store.Cached()
		read, _ := store.Machines.Get(v, domainID)
		want := Machine(v, fresh, read)
		found, ok := store.Machines.Find(v, domainID)
		if !ok {
			t.Fatal("no record")
		}
		before := []byte("before")
		data, err := AppendMachine(slices.Clone(before), v, fresh, hosts, found)
		if err != nil || !slices.Equal(data[:len(before)], before) {
			t.Fatalf("encoded: %v, %q", err, data)
		}
		got := &vmhostv1.Machine{}
		if err := proto.Unmarshal(data[len(before):], got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v\nwant %v\n%s", got, want, cmp.Diff(want, got, protocmp.Transform()))
		}
		if _, ok := appendAsStored(nil, v, fresh, hosts, found); ok {
			copied++
		} else {
			decoded++
		}
	})
	if copied < decoded/5 || decoded == 0 {
		t.Errorf("%d were copied and %d decoded: both ways must be tried", copied, decoded)
	}
}

// A record that is no record of ours is shown as far as a decoder gets with it.
func TestAnUnusualEncodingIsDecoded(t *testing.T) {
	w := newWorld(t)
	w.see("h", &rackv1.MachineObservation{Uuid: domainID})
	m := &vmhostv1.Machine{Uid: domainID, VmHost: "vmHosts/h", Hostname: "a"}
	plain, err := proto.Marshal(&storev1.StoredMachine{Resource: m})
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := func(number protowire.Number, data []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), data)
	}
	twice := bytesOf(recordResource, bytesOf(6, []byte("b")))
	odd := protowire.AppendVarint(protowire.AppendTag(nil, machineUID, protowire.VarintType), 1)
	group := protowire.AppendTag(protowire.AppendTag(nil, 99, protowire.StartGroupType), 99, protowire.EndGroupType)
	for name, tt := range map[string]struct {
		data   []byte
		copied bool
	}{
		"as it is written":          {plain, true},
		"a resource in two parts":   {slices.Concat(plain, twice), false},
		"an empty resource":         {bytesOf(recordResource, nil), false},
		"an empty move":             {slices.Concat(plain, bytesOf(recordMove, nil)), false},
		"a field of another kind":   {bytesOf(recordResource, slices.Concat(plain[2:], odd)), false},
		"a group":                   {bytesOf(recordResource, slices.Concat(plain[2:], group)), false},
		"a scalar that comes twice": {bytesOf(recordResource, slices.Concat(plain[2:], bytesOf(6, []byte("c")))), true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := w.store.Client().Put(t.Context(), store.Machines.Key(domainID), string(tt.data)); err != nil {
				t.Fatal(err)
			}
			v, err := w.store.View(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found, _ := store.Machines.Find(v, domainID)
			data, err := AppendMachine(nil, v, nil, &Hosts{}, found)
			if err != nil {
				t.Fatal(err)
			}
			got := &vmhostv1.Machine{}
			if err := proto.Unmarshal(data, got); err != nil {
				t.Fatal(err)
			}
			if want := Machine(v, nil, found.Read()); !proto.Equal(got, want) {
				t.Error(cmp.Diff(want, got, protocmp.Transform()))
			}
			if _, ok := appendAsStored(nil, v, nil, &Hosts{}, found); ok != tt.copied {
				t.Errorf("copied: %v, want %v", ok, tt.copied)
			}
		})
	}
}

func TestMoreDevicesThanAreComparedAreDecoded(t *testing.T) {
	w := newWorld(t)
	m := &vmhostv1.Machine{Uid: domainID}
	o := &rackv1.MachineObservation{Uuid: domainID}
	for i := range maxDevices + 2 {
		w.see("h", o)
		r := w.record(m)
		v := w.store.Cached()
		found, _ := store.Machines.Find(v, domainID)
		data, err := AppendMachine(nil, v, nil, &Hosts{}, found)
		if err != nil {
			t.Fatal(err)
		}
		got, want := &vmhostv1.Machine{}, Machine(v, nil, r)
		if err := proto.Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%d devices: %v\n%s", i, err, cmp.Diff(want, got, protocmp.Transform()))
		}
		if _, ok := appendAsStored(nil, v, nil, &Hosts{}, found); ok != (i <= maxDevices && 2*i <= maxAddresses) {
			t.Errorf("%d devices, %d addresses: copied: %v", i, 2*i, ok)
		}
		disk := &vmhostv1.MachineDisk{StoragePool: "p", Volume: fmt.Sprint("v", i), Device: fmt.Sprint("vd", i)}
		m.Disks, o.Disks = append(m.Disks, disk), append(o.Disks, proto.CloneOf(disk))
		nic := &vmhostv1.MachineInterface{Mac: fmt.Sprint("52:54:00:00:00:0", i)}
		m.Interfaces = append(m.Interfaces, nic)
		seen := proto.CloneOf(nic)
		seen.Addresses = []string{fmt.Sprint("10.0.0.", i), fmt.Sprint("10.1.0.", i)}
		o.Interfaces = append(o.Interfaces, seen)
	}
}

// Fields that are shown as they are recorded, or not at all. Whoever adds one that
// is shown otherwise adds it to appendAsStored as well as to shown and observe, and to
// what drawRecord and drawSeen draw; any other one is added here.
func shownAsRecorded() map[protoreflect.Name][]protoreflect.Name {
	return map[protoreflect.Name][]protoreflect.Name{
		"StoredMachine":     {"commitment", "autostart", "placement"},
		"StoredSeenMachine": {"first_seen_time"},
		"MachineDisk":       {"boot", "tags"},
		"MachineInterface":  {"source", "kind", "macvlan_mode", "vlan", "fixed_address", "name", "boot"},
		"MachineObservation": {
			"uuid", "uid", "operation", "architecture", "autostart", "pinned_cores", "hugepages", "secure_boot", "profiles", "image",
		},
		"Machine": {
			"name", "create_time", "update_time", "hostname", "origin", "resource_pool", "architecture", "tags", "phase", "operation", "pinned_cores",
			"hugepages", "secure_boot", "profiles", "image", "autostart", "group",
		},
	}
}

func TestEveryFieldIsLookedAtOrShownAsRecorded(t *testing.T) {
	for _, tt := range []struct {
		message proto.Message
		fields  map[protoreflect.Name]protowire.Number
	}{
		{&storev1.StoredMachine{}, map[protoreflect.Name]protowire.Number{"resource": recordResource, "move": recordMove}},
		{&storev1.StoredSeenMachine{}, map[protoreflect.Name]protowire.Number{"observation": seenObservation, "change_time": seenChangeTime}},
		{&timestamppb.Timestamp{}, map[protoreflect.Name]protowire.Number{"seconds": timeSeconds, "nanos": timeNanos}},
		{&vmhostv1.MachineDisk{}, map[protoreflect.Name]protowire.Number{
			"storage_pool": diskPool, "volume": diskVolume, "size_bytes": diskSize, "device": diskDevice, "path": diskPath, "name": diskName,
		}},
		{&vmhostv1.MachineInterface{}, map[protoreflect.Name]protowire.Number{"mac": interfaceMAC, "addresses": interfaceAddresses}},
		{&rackv1.MachineObservation{}, map[protoreflect.Name]protowire.Number{
			"name": observedName, "power_state": observedPower, "cores": observedCores, "memory_mib": observedMemory, "disks": observedDisks,
			"interfaces": observedInterfaces, "console_log_path": observedLog, "problem": observedProblem, "type": observedType,
			"firmware": observedFirmware, "project": observedProject,
		}},
		{&vmhostv1.Machine{}, map[protoreflect.Name]protowire.Number{
			"uid": machineUID, "etag": machineEtag, "vm_host": machineVMHost, "zone": machineZone, "hypervisor_name": machineName,
			"hypervisor_uuid": machineUUID, "cores": machineCores, "memory_mib": machineMemory, "disks": machineDisks, "interfaces": machineInterfaces,
			"power_state": machinePower, "observe_time": machineObserveTime, "conditions": machineConditions, "addresses": machineAddresses,
			"console_log_path": machineLog, "type": machineType, "firmware": machineFirmware, "project": machineProject,
		}},
	} {
		d := tt.message.ProtoReflect().Descriptor()
		for name, number := range tt.fields {
			if fd := d.Fields().ByName(name); fd == nil || fd.Number() != number {
				t.Errorf("%s of %s is %v, not %d", name, d.Name(), fd, number)
			}
		}
		for i := range d.Fields().Len() {
			name := d.Fields().Get(i).Name()
			if _, looked := tt.fields[name]; looked == slices.Contains(shownAsRecorded()[d.Name()], name) {
				t.Errorf("is %s of %s shown as it is recorded? Say so in shownAsRecorded, or look at it", name, d.Name())
			}
		}
	}
}
