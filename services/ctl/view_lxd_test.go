package ctl

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What the goldens show of LXD hosts, containers, quotas and results.

func goldenLXDHost(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.VmHost {
	usage := func(physical, reserved, limit, committed, foreign int64) *vmhostv1.ResourceUsage {
		return &vmhostv1.ResourceUsage{Physical: physical, Reserved: reserved, Ratio: 1, Limit: limit, Committed: committed, Foreign: foreign, Free: max(0, limit-committed-foreign)}
	}
	images := []*vmhostv1.HostImage{{
		Fingerprint: "0a1b2c3d4e5f60718293a4b5c6d7e8f90011223344556677", Aliases: []string{"tiny", "t"}, Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER,
		Architecture: "x86_64", SizeBytes: 3_500_000, Description: "small \x1b[5mone",
	}}
	for range 21 {
		images = append(images, &vmhostv1.HostImage{Fingerprint: "ff", Type: vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE})
	}
	return &vmhostv1.VmHost{
		Name: "vmHosts/l1", Uid: "0197d1c2-0000-7000-8000-00000000000b", Type: vmhostv1.VmHostType_VM_HOST_TYPE_LXD, Address: "https://l1.example:8443",
		Zone: "zones/a", ResourcePool: "resourcePools/default", Project: "lab", ClusterMember: "m1", ClusterGroup: "east", AssignedRack: "racks/r1",
		HostKey: "SHA256:0a1b2c", CredentialKind: "lxd", State: vmhostv1.VmHostState_VM_HOST_STATE_READY, CreateTime: ago(time.Hour),
		DefaultMacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_PRIVATE, ReservedCores: 1, ReservedMemoryMib: 2048,
		NetworkLabels:     []*vmhostv1.NetworkLabels{{Network: "br0", Space: "storage", Tags: []string{"fast", "jumbo"}}, {Network: "gone", Space: "x"}},
		StoragePoolLabels: []*vmhostv1.StoragePoolLabels{{StoragePool: "btrfs", Tags: []string{"ssd"}}},
		Usage: &vmhostv1.VmHostUsage{
			SharedStorage: map[string]*vmhostv1.SharedStorage{"ceph": {Identity: "ceph://abc/ceph", VmHosts: 3}},
			Cores:         usage(8, 1, 7, 2, 1), MemoryMib: usage(16384, 2048, 14336, 256, 512), Machines: 1,
			StorageBytes: map[string]*vmhostv1.ResourceUsage{"btrfs": usage(20e9, 0, 20e9, 4e9, 1e9)},
		},
		Observation: &vmhostv1.VmHostObservation{
			ObserveTime: ago(2 * time.Second), HypervisorVersion: "LXD 5.0.2 / lxc 5.0.2", Hostname: "l1", Architectures: []string{"x86_64"}, Cores: 8,
			MemoryMib: 16384, Capabilities: []string{"containers", "hugepages", "sr-iov"}, Foreign: &vmhostv1.ForeignUsage{Machines: 1, Cores: 1, MemoryMib: 512},
			Project: "lab", ClusterMember: "m1", Profiles: []string{"default", "fast"},
			ClusterMembers: []*vmhostv1.ClusterMember{
				{Name: "m1", Address: "https://l1.example:8443", Online: true, Status: "Online"},
				{Name: "m2", Address: "https://l2.example:8443", Status: "Offline"},
			},
			StoragePools: []*vmhostv1.StoragePool{
				{Name: "btrfs", Type: "btrfs", Path: "/var/lib/lxd/storage-pools/btrfs", CapacityBytes: 20e9, AllocationBytes: 5e9, OursBytes: 4e9, AvailableBytes: 15e9, Active: true, Thin: true},
				{Name: "ceph", Type: "ceph", Problem: "cannot reach the cluster"},
			},
			Networks: []*vmhostv1.HostNetwork{
				{
					Name: "lxdbr0", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Bridge: "lxdbr0", Cidrs: []string{"10.1.0.0/24", "fd42::/64"},
					Addresses: []string{"10.1.0.1"}, Dhcp: true, Active: true, Forward: "bridge",
				},
				{Name: "br0", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_BRIDGE, Active: true, Uplinks: []string{"eth0"}, Vlan: 7, Vlans: []int32{20, 21, 22, 30}},
				{Name: "eth0.7", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_DEVICE, Active: true, Vlan: 7, Parent: "eth0"},
			},
			SriovDevices: []*vmhostv1.SriovDevice{{Name: "eth2", Functions: 8, Free: 3, NumaNode: 1}, {Name: "eth3", Functions: 4, Free: 4, NumaNode: -1}},
			NumaNodes: []*vmhostv1.NumaNode{
				{Id: 0, Cores: []int32{0, 1, 2, 3}, MemoryMib: 8192, HugePages: []*vmhostv1.HugePages{{SizeKib: 2048, Total: 512, Free: 500}, {SizeKib: 1048576}}},
				{Id: 1, Cores: []int32{4, 5, 7}, MemoryMib: 8192},
			},
			Images: images, Problems: []string{"instance \"odd\": limits.memory \"lots\" is no size"},
		},
	}
}

func goldenContainer(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Name: "machines/0197d1c2-0000-7000-8000-000000000003", Uid: "0197d1c2-0000-7000-8000-000000000003", Hostname: "c1", HypervisorName: "old-c1",
		HypervisorUuid: "5f0e2a5e-0000-4000-8000-000000000003", Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER,
		Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_ADOPTED, VmHost: "vmHosts/l1", Zone: "zones/a", ResourcePool: "resourcePools/default", Architecture: "x86_64",
		Cores: 3, PinnedCores: []int32{0, 1, 8}, MemoryMib: 256, Hugepages: true, Firmware: vmhostv1.Firmware_FIRMWARE_UEFI, SecureBoot: true,
		Profiles: []string{"default", "fast"}, Image: "tiny", Project: "lab", Autostart: true, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_RELEASING,
		PowerState: vmhostv1.PowerState_POWER_STATE_PAUSED, ObserveTime: ago(time.Second), Operation: "operations/0197-9", CreateTime: ago(time.Hour),
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "btrfs", Volume: "c1", SizeBytes: 4e9, Name: "root", Boot: true},
			{StoragePool: "btrfs", Volume: "vmhost-0197d1c2-1", SizeBytes: 10e9, Name: "disk1"},
		},
		Interfaces: []*vmhostv1.MachineInterface{
			{Mac: "52:54:00:00:00:03", Source: "lxdbr0", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Addresses: []string{"10.1.0.9"}, FixedAddress: "10.1.0.9", Boot: true},
			{Mac: "52:54:00:00:00:04", Source: "eth2", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_SRIOV, Vlan: 12},
		},
		Conditions: []*vmhostv1.Condition{{Type: "Missing", Status: true, Reason: "MACHINE_MISSING", Message: "it is not on l1 any more", Hint: "delete it to give its room back", TransitionTime: ago(time.Minute)}},
	}
}

func goldenPool(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.ResourcePool {
	return &vmhostv1.ResourcePool{
		Name: "resourcePools/dev", Uid: "0197d1c2-0000-7000-8000-00000000000c", Description: "for trying things", CreateTime: ago(time.Hour), UpdateTime: ago(time.Minute),
		Quota: &vmhostv1.ResourceQuota{Machines: proto.Int32(10), Cores: proto.Int64(40), StorageBytes: proto.Int64(1_500_000_000_000)},
		Used:  &vmhostv1.ResourceAmount{Machines: 3, Cores: 48, MemoryMib: 6144, StorageBytes: 60e9},
	}
}

func goldenBatch() *batch {
	op := func(id string, phase vmhostv1.OperationPhase) *vmhostv1.Operation {
		return &vmhostv1.Operation{Name: "operations/" + id, Phase: phase}
	}
	failed := op("3", vmhostv1.OperationPhase_OPERATION_PHASE_FAILED)
	failed.Error = &vmhostv1.OperationError{Reason: "HYPERVISOR_ERROR", Message: "no such network 'lab'\x1b[2J", Hint: "name another"}
	return &batch{
		word: "start", titles: map[string]string{"machines/a": "web-1", "machines/b": "db"},
		results: []*vmhostv1.BatchResult{
			{Name: "machines/a", Operation: op("1", vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED)},
			{Name: "machines/b", Operation: op("2", vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING)},
			{Name: "machines/c", Operation: failed},
			{Name: "machines/d", Error: &vmhostv1.OperationError{Reason: "MACHINE_BUSY", Message: "operations/7 is under way", Hint: "wait for it"}},
			{Name: "machines/e", Operation: op("4", vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED)},
		},
	}
}

func goldenPlan() *vmhostv1.ComposePlan {
	return &vmhostv1.ComposePlan{
		Quota: goldenPool(func(time.Duration) *timestamppb.Timestamp { return nil }).GetQuota(), Used: &vmhostv1.ResourceAmount{Machines: 3, Cores: 6, StorageBytes: 60e9},
		Placement: &vmhostv1.Placement{
			VmHost: "vmHosts/l1", StoragePools: []string{"btrfs", "ceph"}, StoragePoolReasons: []string{"has tag ssd", ""}, Networks: []string{"br0", "lxdbr0"},
			NetworkChoices: []*vmhostv1.NetworkChoice{{Source: "br0", Kind: "bridge", Why: "space storage, VLAN 7"}, {Source: "lxdbr0", Kind: "network", Why: "subnet 10.1.0.0/24"}},
			Load:           0.42, Considered: 3, RefusedCounts: map[string]int32{"type": 1, "overcommitted": 1},
			Refusals: []*vmhostv1.PlacementRefusal{
				{VmHost: "vmHosts/h1", Filter: "type", Message: "runs no containers"},
				{VmHost: "vmHosts/h2", Filter: "overcommitted", Message: "memory: 20480 MiB are taken, the limit is 16384 MiB"},
			},
		},
	}
}

func goldenEvents(ago func(time.Duration) *timestamppb.Timestamp) []*vmhostv1.Event {
	const machine = "machines/0197d1c2-0000-7000-8000-000000000003"
	event := func(kind, resource, principal, message string) *vmhostv1.Event {
		return &vmhostv1.Event{Time: ago(time.Minute), Type: kind, Resource: resource, Principal: principal, Message: message}
	}
	return []*vmhostv1.Event{
		event("machine.adopted", machine, "admin", "c1 was adopted"),
		event("machine.released", machine, "admin", "c1 was released"),
		event("machine.missing", machine, "", "c1 is not on l1 any more; its record and its capacity stay"),
		event("machine.found", machine, "", "c1 is on l1 again"),
		event("machine.moved", machine, "", "c1 moved from l1 to l2"),
		event("machine.changed_outside", machine, "", "c1 was changed outside of vmhost: \x1b[2Jname old-c1"),
		event("machine.console_opened", machine, "admin", "admin opened the console of c1"),
		event("machine.power_changed", machine, "", "c1 is off"),
		event("vm_host.removed", "vmHosts/l1", "admin", "l1 was removed"),
		event("vm_host.unreachable", "vmHosts/l1", "", "l1 is not reached: connection refused"),
		event("rack.join_token_created", "racks/r2", "admin", "racks/r2 was created by admin"),
	}
}
