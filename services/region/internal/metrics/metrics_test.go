package metrics_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/obs"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/ledger"
	"github.com/vmhost-project/vmhost/services/region/internal/metrics"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

func commit(t *testing.T, s *store.Store, fill func(tx *store.Txn)) {
	t.Helper()
	tx := store.NewTxn()
	fill(tx)
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

func machine(uuid string, phase vmhostv1.MachinePhase) *storev1.StoredMachine {
	return &storev1.StoredMachine{Resource: &vmhostv1.Machine{VmHost: "vmHosts/h", HypervisorUuid: uuid, Phase: phase}}
}

// lines are the samples of some metrics, without those that are 0.
func lines(t *testing.T, registry *prometheus.Registry, names ...string) string {
	t.Helper()
	var out []string
	for _, line := range samples(t, registry) {
		name := line[:strings.IndexAny(line, "{ ")]
		if slices.Contains(names, name) && !strings.HasSuffix(line, " 0") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// samples are the lines that Prometheus would read.
func samples(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(answer.Body.String()), "\n"), func(line string) bool { return strings.HasPrefix(line, "#") })
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", what, got, want)
	}
}

func TestTheFleetIsToldAsItIsNow(t *testing.T) {
	s := storetest.New(t)
	registry := prometheus.NewPedanticRegistry()
	metrics.Register(registry, s, ledger.New(s, slog.New(slog.DiscardHandler)))
	// States of hosts, phases of machines, verbs of operations in three phases,
	// racks connected or not, conflicts, machines that are missing.
	states, phases, verbs := len(vmhostv1.VmHostState_name)-1, len(vmhostv1.MachinePhase_name)-1, len(vmhostv1.OperationVerb_name)-1
	if n, want := len(samples(t, registry)), states+phases+verbs*3+2+1+1; n != want {
		t.Errorf("an empty fleet has %d samples, want %d: a 0 of everything", n, want)
	}

	commit(t, s, func(tx *store.Txn) {
		ratio := 2.0
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{
			Name: "vmHosts/h", Uid: "u", Overcommit: &vmhostv1.OvercommitRatios{Cores: &ratio},
		}}, "h")
		store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
			VmHostUid: "u", State: vmhostv1.VmHostState_VM_HOST_STATE_READY,
			Observation: &vmhostv1.VmHostObservation{
				Cores: 8, MemoryMib: 1024, Foreign: &vmhostv1.ForeignUsage{Cores: 1, MemoryMib: 2},
				StoragePools: []*vmhostv1.StoragePool{{Name: "ssd", CapacityBytes: 1000, AllocationBytes: 70, OursBytes: 30}},
			},
		}, "h")
		store.Put(tx, store.Ledgers, &storev1.StoredLedger{Machines: 2, Total: &storev1.Commitment{
			Cores: 3, MemoryMib: 512, StorageBytes: map[string]int64{"ssd": 300},
		}}, "h")
		store.Put(tx, store.Assignments, &storev1.StoredAssignment{Rack: "r1", VmHostUid: "u"}, "h")
		store.Put(tx, store.Sessions, &storev1.StoredSession{Region: "here"}, "r1")
		store.Put(tx, store.VmHosts, &storev1.StoredVmHost{Resource: &vmhostv1.VmHost{Name: "vmHosts/new", Uid: "v"}}, "new")
		for _, id := range []string{"r1", "r2"} {
			store.Put(tx, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/" + id}}, id)
		}
		store.Put(tx, store.Machines, machine("a", vmhostv1.MachinePhase_MACHINE_PHASE_READY), "a") // is not seen
		// Neither is this one, and need not be.
		store.Put(tx, store.Machines, machine("c", vmhostv1.MachinePhase_MACHINE_PHASE_COMPOSING), "c")
		store.Put(tx, store.Machines, machine("b", vmhostv1.MachinePhase_MACHINE_PHASE_FAILED), "b")
		for uid, phase := range map[string]vmhostv1.OperationPhase{
			"1": vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING, "2": vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED,
		} {
			store.Put(tx, store.Operations, &storev1.StoredOperation{Resource: &vmhostv1.Operation{
				Verb: vmhostv1.OperationVerb_OPERATION_VERB_COMPOSE, Phase: phase,
			}}, uid)
		}
	})
	counts := []string{obs.MetricHosts, obs.MetricMachines, obs.MetricMachinesMissing, obs.MetricOperations, obs.MetricRacks}
	want(t, "counts", lines(t, registry, counts...), `vmhost_hosts{state="pending"} 1
vmhost_hosts{state="ready"} 1
vmhost_machines{phase="composing"} 1
vmhost_machines{phase="failed"} 1
vmhost_machines{phase="ready"} 1
vmhost_machines_missing 1
vmhost_operations{phase="running",verb="compose"} 1
vmhost_racks{connected="false"} 1
vmhost_racks{connected="true"} 1`)
	want(t, "usage", lines(t, registry, obs.MetricHostCores, obs.MetricHostMemory, obs.MetricHostStoragePool), `vmhost_host_cores{kind="committed",vm_host="h"} 3
vmhost_host_cores{kind="foreign",vm_host="h"} 1
vmhost_host_cores{kind="limit",vm_host="h"} 16
vmhost_host_memory_bytes{kind="committed",vm_host="h"} 5.36870912e+08
vmhost_host_memory_bytes{kind="foreign",vm_host="h"} 2.097152e+06
vmhost_host_memory_bytes{kind="limit",vm_host="h"} 1.073741824e+09
vmhost_host_storage_pool_bytes{kind="committed",storage_pool="ssd",vm_host="h"} 300
vmhost_host_storage_pool_bytes{kind="foreign",storage_pool="ssd",vm_host="h"} 40
vmhost_host_storage_pool_bytes{kind="limit",storage_pool="ssd",vm_host="h"} 1000`)

	// It is back.
	commit(t, s, func(tx *store.Txn) { store.Put(tx, store.Seen, &storev1.StoredSeenMachine{}, "h", "a") })
	want(t, "missing, seen again", lines(t, registry, obs.MetricMachinesMissing), "")
	// Of a host that is not reached nothing is known.
	commit(t, s, func(tx *store.Txn) {
		tx.Delete(store.Seen.Key("h", "a"))
		tx.Delete(store.Machines.Key("c"))
		tx.Delete(store.Sessions.Key("r1"))
		store.Put(tx, store.Machines, machine("b", vmhostv1.MachinePhase_MACHINE_PHASE_READY), "b")
		tx.Delete(store.Operations.Key("1"))
	})
	want(t, "counts later", lines(t, registry, counts...), `vmhost_hosts{state="no_rack"} 2
vmhost_machines{phase="ready"} 2
vmhost_racks{connected="false"} 2`)
}

func TestAnEndedOperationIsMeasuredByVerbAndResult(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	o := metrics.NewOperations(registry)
	now := time.Now()
	o.Ended(&vmhostv1.Operation{
		Verb: vmhostv1.OperationVerb_OPERATION_VERB_QUERY_POWER, Phase: vmhostv1.OperationPhase_OPERATION_PHASE_FAILED,
		CreateTime: timestamppb.New(now), EndTime: timestamppb.New(now.Add(2 * time.Second)),
	})
	got := strings.Join(samples(t, registry), "\n")
	for _, want := range []string{`_count{result="failed",verb="query_power"} 1`, `_sum{result="failed",verb="query_power"} 2`} {
		if !strings.Contains(got, obs.MetricOperationDuration+want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}
