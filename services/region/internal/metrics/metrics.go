// Package metrics is what a region tells Prometheus of the fleet: hosts,
// machines, operations that have not ended, racks, and what is used of every
// host. It is read from the region's copy of the state when it is asked for, and
// kept until the state has another revision.
//
// Labels are bounded by hosts and their storage pools, never by machines. Every
// region of a deployment tells the same, except for what it did itself: lost
// races and ended operations. The package starts no goroutine.
package metrics

import (
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmhost-project/vmhost/pkg/obs"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

const mebibyte = 1 << 20

// Ledger is what is asked of the ledger.
type Ledger interface {
	// Hosts are the fleet's hosts with what is used of them.
	Hosts(v *store.View) []*placement.Host
	// Conflicts is how many transactions lost a race.
	Conflicts() int64
}

// Operations measures the operations that this region ends.
type Operations struct {
	duration *prometheus.HistogramVec
}

// NewOperations registers the metric of ended operations.
func NewOperations(registry prometheus.Registerer) *Operations {
	o := &Operations{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    obs.MetricOperationDuration,
		Help:    "How long operations took that this region ended, from being asked for to their end.",
		Buckets: prometheus.ExponentialBuckets(0.01, 3, 12), // to 30 min, the longest deadline
	}, []string{"verb", "result"})}
	registry.MustRegister(o.duration)
	return o
}

// Ended notes an operation that has ended.
func (o *Operations) Ended(op *vmhostv1.Operation) {
	took := op.GetEndTime().AsTime().Sub(op.GetCreateTime().AsTime())
	o.duration.WithLabelValues(verbLabel(op.GetVerb()), operationLabel(op.GetPhase())).Observe(max(took.Seconds(), 0))
}

// Fleet is the collector of the fleet.
type Fleet struct {
	store  *store.Store
	ledger Ledger

	hosts, machines, missing, operations, racks, cores, memory, storage *prometheus.Desc

	mu       sync.Mutex
	revision int64
	kept     []prometheus.Metric
}

// Register makes the collector of the fleet and registers it.
func Register(registry prometheus.Registerer, s *store.Store, ledger Ledger) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	registry.MustRegister(&Fleet{
		store: s, ledger: ledger,
		hosts:      desc(obs.MetricHosts, "Hosts of the fleet, by state.", "state"),
		machines:   desc(obs.MetricMachines, "Machines that vmhost composed, by phase.", "phase"),
		missing:    desc(obs.MetricMachinesMissing, "Machines with a record that a host which is reached does not show."),
		operations: desc(obs.MetricOperations, "Operations that have not ended.", "verb", "phase"),
		racks:      desc(obs.MetricRacks, "Racks that are enrolled.", "connected"),
		cores:      desc(obs.MetricHostCores, "Cores of a host: the limit with its ratio, what is committed, what machines of others use.", "vm_host", "kind"),
		memory:     desc(obs.MetricHostMemory, "Memory of a host, as for its cores.", "vm_host", "kind"),
		storage:    desc(obs.MetricHostStoragePool, "A storage pool of a host, as for its cores.", "vm_host", "storage_pool", "kind"),
	}, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: obs.MetricLedgerConflicts, Help: "Transactions of composes that lost a race and were decided on again.",
	}, func() float64 { return float64(ledger.Conflicts()) }))
}

// Describe says what there is.
func (f *Fleet) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{f.hosts, f.machines, f.missing, f.operations, f.racks, f.cores, f.memory, f.storage} {
		to <- d
	}
}

// Collect reads the state, if it has changed.
func (f *Fleet) Collect(to chan<- prometheus.Metric) {
	for _, m := range f.read() {
		to <- m
	}
}

func (f *Fleet) read() []prometheus.Metric {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.store.Cached(); f.kept == nil || v.Revision != f.revision {
		var out gauges
		f.count(v, &out)
		f.usage(v, &out)
		f.revision, f.kept = v.Revision, out
	}
	return f.kept
}

type gauges []prometheus.Metric

func (g *gauges) add(d *prometheus.Desc, value float64, labels ...string) {
	*g = append(*g, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
}

// count counts by closed sets, of which every member is told, so that a number
// that falls to 0 is seen to.
func (f *Fleet) count(v *store.View, out *gauges) {
	hosts := map[vmhostv1.VmHostState]int{}
	for _, h := range store.VmHosts.All(v) {
		hosts[view.HostState(v, h.Value.GetResource())]++
	}
	for n := range vmhostv1.VmHostState_name {
		if state := vmhostv1.VmHostState(n); n != 0 {
			out.add(f.hosts, float64(hosts[state]), stateLabel(state))
		}
	}
	machines := map[vmhostv1.MachinePhase]int{}
	for _, m := range store.Machines.All(v) {
		machines[m.Value.GetResource().GetPhase()]++
	}
	for n := range vmhostv1.MachinePhase_name {
		if phase := vmhostv1.MachinePhase(n); n != 0 {
			out.add(f.machines, float64(machines[phase]), lower(phase.String(), "MACHINE_PHASE_"))
		}
	}
	out.add(f.missing, float64(view.CountMissing(v)))
	type work struct {
		verb  vmhostv1.OperationVerb
		phase vmhostv1.OperationPhase
	}
	operations := map[work]int{}
	for _, o := range store.Operations.All(v) {
		r := o.Value.GetResource()
		operations[work{r.GetVerb(), r.GetPhase()}]++
	}
	for n := range vmhostv1.OperationVerb_name {
		for _, phase := range []vmhostv1.OperationPhase{
			vmhostv1.OperationPhase_OPERATION_PHASE_PENDING, vmhostv1.OperationPhase_OPERATION_PHASE_RUNNING, vmhostv1.OperationPhase_OPERATION_PHASE_COMPENSATING,
		} {
			if verb := vmhostv1.OperationVerb(n); n != 0 {
				out.add(f.operations, float64(operations[work{verb, phase}]), verbLabel(verb), operationLabel(phase))
			}
		}
	}
	racks := map[bool]int{}
	for id := range store.Racks.All(v) {
		_, connected := store.Sessions.Get(v, id)
		racks[connected]++
	}
	for _, connected := range []bool{true, false} {
		out.add(f.racks, float64(racks[connected]), strconv.FormatBool(connected))
	}
}

// usage is what is used of every host.
func (f *Fleet) usage(v *store.View, out *gauges) {
	tell := func(d *prometheus.Desc, r placement.Resource, unit float64, labels ...string) {
		for kind, n := range map[string]int64{"limit": r.Limit, "committed": r.Committed, "foreign": r.Foreign} {
			out.add(d, float64(n)*unit, append(labels[:len(labels):len(labels)], kind)...)
		}
	}
	for _, h := range f.ledger.Hosts(v) {
		tell(f.cores, h.Cores, 1, h.ID)
		tell(f.memory, h.MemoryMiB, mebibyte, h.ID)
		for _, p := range h.Pools {
			tell(f.storage, p.Resource, 1, h.ID, p.Name)
		}
	}
}

func stateLabel(s vmhostv1.VmHostState) string { return lower(s.String(), "VM_HOST_STATE_") }

func verbLabel(v vmhostv1.OperationVerb) string { return lower(v.String(), "OPERATION_VERB_") }

func operationLabel(p vmhostv1.OperationPhase) string { return lower(p.String(), "OPERATION_PHASE_") }

func lower(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }
