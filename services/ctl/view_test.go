package ctl

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What `get` shows of each kind of resource, and wide tables, as golden files.
func TestViewsLookAsTheyShould(t *testing.T) {
	zone := time.Local
	time.Local = time.UTC // what the goldens were written in
	t.Cleanup(func() { time.Local = zone })
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	tests := []struct {
		name   string
		output string
		show   func(a *app) error
	}{
		{"machine", outputTable, func(a *app) error { return a.printMachine(goldenMachine(ago)) }},
		{"machine_wide", outputWide, func(a *app) error {
			return printTable(a, []*vmhostv1.Machine{goldenMachine(ago)}, machineColumns(now))
		}},
		{"machine_bare", outputTable, func(a *app) error { return a.printMachine(&vmhostv1.Machine{Name: "machines/x", Uid: "x"}) }},
		{"machine_json", outputJSON, func(a *app) error { return a.printMachine(goldenMachine(ago)) }},
		{"machine_yaml", outputYAML, func(a *app) error { return a.printMachine(goldenMachine(ago)) }},
		{"placement_policy", outputTable, func(a *app) error {
			return policyLabel().print(a, &vmhostv1.PlacementPolicy{
				Name: "placementPolicies/ssd", Uid: "0197", Description: "fast ones", CreateTime: ago(time.Hour), UpdateTime: ago(time.Minute),
				Weights: &vmhostv1.PlacementWeights{LeastLoaded: 2, AvoidEmulation: 0.5}, Predicate: `"ssd" in host.tags`,
			})
		}},
		{"vm_host", outputTable, func(a *app) error { return a.printHost(goldenHost(ago)) }},
		{"vm_host_wide", outputWide, func(a *app) error { return printTable(a, []*vmhostv1.VmHost{goldenHost(ago)}, hostColumns(now)) }},
		{"vm_host_lxd", outputTable, func(a *app) error { return a.printHost(goldenLXDHost(ago)) }},
		{"machine_container", outputTable, func(a *app) error { return a.printMachine(goldenContainer(ago)) }},
		{"pool", outputTable, func(a *app) error { return poolLabel().print(a, goldenPool(ago)) }},
		{"pool_table", outputTable, func(a *app) error {
			return printTable(a, []*vmhostv1.ResourcePool{goldenPool(ago), {Name: "resourcePools/free"}}, poolLabel().shown(now))
		}},
		{"results", outputTable, func(a *app) error { return printTable(a, goldenBatch().results, goldenBatch().columns()) }},
		{"plan", outputTable, func(a *app) error { return a.explain(goldenPlan()) }},
		{"events", outputWide, func(a *app) error {
			w := &watch{app: a}
			for _, e := range goldenEvents(ago) {
				if err := w.row(e); err != nil {
					return err
				}
			}
			return nil
		}},
		{"operation", outputTable, func(a *app) error { return a.printOperation(goldenOperation(ago)) }},
		{"operation_wide", outputWide, func(a *app) error {
			return printTable(a, []*vmhostv1.Operation{goldenOperation(ago)}, operationColumns(now))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := newApp(nil, nil, &bytes.Buffer{}, &out, &errs)
			a.clock = func() time.Time { return now }
			a.flags.output = tt.output
			if err := tt.show(a); err != nil || errs.Len() > 0 {
				t.Fatalf("%v, stderr %q", err, errs.String())
			}
			path := filepath.Join("testdata", "view", tt.name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), out.String()); d != "" {
				t.Errorf("differs from %s; go test -update writes it anew (-want +got):\n%s", path, d)
			}
		})
	}
}

func goldenMachine(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.Machine {
	return &vmhostv1.Machine{
		Name: "machines/0197d1c2-0000-7000-8000-000000000001", Uid: "0197d1c2-0000-7000-8000-000000000001", Hostname: "web-1",
		HypervisorName: "web-1.dev", HypervisorUuid: "0197d1c2-0000-7000-8000-000000000001", CreateTime: ago(26 * time.Hour),
		Origin: vmhostv1.MachineOrigin_MACHINE_ORIGIN_COMPOSED, VmHost: "vmHosts/h1", Zone: "zones/a", ResourcePool: "resourcePools/dev",
		Architecture: "x86_64", Cores: 4, MemoryMib: 8192, Tags: []string{"ci", "web"}, Phase: vmhostv1.MachinePhase_MACHINE_PHASE_READY,
		PowerState: vmhostv1.PowerState_POWER_STATE_ON, ObserveTime: ago(3 * time.Second), Addresses: []string{"192.0.2.7", "2001:db8::7"},
		Operation: "operations/0197-1", ConsoleLogPath: "/var/log/libvirt/vmhost/web-1.log",
		Disks: []*vmhostv1.MachineDisk{
			{StoragePool: "fast", Volume: "vmhost-0197d1c2-0", SizeBytes: 20e9, Device: "vda", Path: "/srv/fast/vmhost-0197d1c2-0"},
			{SizeBytes: 123456789012, Device: "vdb", Path: "/dev/sdz\x1b[2J"},
		},
		Interfaces: []*vmhostv1.MachineInterface{
			{Mac: "52:54:00:00:00:01", Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK, Addresses: []string{"192.0.2.7"}},
			{Mac: "52:54:00:00:00:02", Source: "eth1", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_MACVLAN, MacvlanMode: vmhostv1.MacvlanMode_MACVLAN_MODE_VEPA},
		},
		Conditions: []*vmhostv1.Condition{{Type: "Drifted", Status: true, Reason: "WRONG_STATE", Message: "memory is 4096 MiB on the host\nand was 8192", Hint: "look at it", TransitionTime: ago(5 * time.Minute)}},
	}
}

func goldenHost(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.VmHost {
	ratio := 2.5
	usage := func(physical, limit, committed, foreign int64, ratio float64) *vmhostv1.ResourceUsage {
		return &vmhostv1.ResourceUsage{Physical: physical, Ratio: ratio, Limit: limit, Committed: committed, Foreign: foreign, Free: max(0, limit-committed-foreign)}
	}
	return &vmhostv1.VmHost{
		Name: "vmHosts/h1", Uid: "0197d1c2-0000-7000-8000-00000000000a", DisplayName: "Rack 3, left", Address: "qemu+ssh://root@h1:22/system",
		Zone: "zones/a", ResourcePool: "resourcePools/dev", Tags: []string{"ssd"}, Overcommit: &vmhostv1.OvercommitRatios{Cores: &ratio},
		DefaultStoragePool: "fast", Rack: "racks/r2", AssignedRack: "racks/r1", HostKey: "ssh-ed25519 AAAAC3Nz", CredentialKind: "ssh-key",
		Cordoned: true, State: vmhostv1.VmHostState_VM_HOST_STATE_READY, CreateTime: ago(240 * time.Hour),
		Conditions: []*vmhostv1.Condition{{Type: "Overcommitted", Status: true, Message: "storage pool fast is over its limit", Hint: "free some", TransitionTime: ago(time.Hour)}},
		Usage: &vmhostv1.VmHostUsage{
			Cores: usage(8, 20, 12, 2, 2.5), MemoryMib: usage(32106, 32106, 16384, 2048, 1), Machines: 6,
			StorageBytes: map[string]*vmhostv1.ResourceUsage{"fast": usage(500e9, 500e9, 480e9, 30e9, 1), "big": usage(4e12, 4e12, 0, 0, 1)},
		},
		Observation: &vmhostv1.VmHostObservation{
			ObserveTime: ago(4 * time.Second), HypervisorVersion: "QEMU 7.2.22 / libvirt 9.0.0", Hostname: "h1.example", Architectures: []string{"x86_64", "i686"},
			Cores: 8, CpuMhz: 2400, CpuModel: "Skylake", MemoryMib: 32106, Capabilities: []string{"virtual-machines"},
			Foreign: &vmhostv1.ForeignUsage{Machines: 1, Cores: 2, MemoryMib: 2048},
			StoragePools: []*vmhostv1.StoragePool{
				{Name: "fast", Type: "dir", Path: "/srv/fast", CapacityBytes: 500e9, AvailableBytes: 20e9, Active: true, Thin: true},
				{Name: "big", Type: "logical", CapacityBytes: 4e12, AvailableBytes: 4e12},
			},
			Networks: []*vmhostv1.HostNetwork{{Name: "default", Kind: vmhostv1.HostNetworkKind_HOST_NETWORK_KIND_NETWORK, Bridge: "virbr0", Cidrs: []string{"192.0.2.0/24"}, Dhcp: true, Active: true}},
		},
	}
}

func goldenOperation(ago func(time.Duration) *timestamppb.Timestamp) *vmhostv1.Operation {
	return &vmhostv1.Operation{
		Name: "operations/0197d1c2-0000-7000-8000-0000000000ff", Verb: vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER, Target: "machines/x",
		Phase: vmhostv1.OperationPhase_OPERATION_PHASE_FAILED, VmHost: "vmHosts/h1", Principal: "admin", RequestId: "11111111-1111-4111-8111-111111111111",
		CreateTime: ago(time.Minute), EndTime: ago(48 * time.Second), CancelRequested: true,
		Steps: []*vmhostv1.OperationStep{
			{Verb: "create", StartTime: ago(time.Minute), EndTime: ago(58 * time.Second), Done: true},
			{Verb: "start", StartTime: ago(58 * time.Second), Error: "no such network 'lab'"},
		},
		Error: &vmhostv1.OperationError{Code: 9, Reason: "HYPERVISOR_ERROR", Message: "start domain: no such network 'lab'", Hint: "name another network"},
	}
}
