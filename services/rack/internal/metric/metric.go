// Package metric is what a rack counts and measures. It starts no goroutine and
// keeps no label that grows with machines.
package metric

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// Names of the rack's metrics.
const (
	// NameSessionUp is 1 while the session with a region is up.
	NameSessionUp = "vmhost_rack_session_up"
	// NameSessionEnds counts sessions that ended, by reason.
	NameSessionEnds = "vmhost_rack_session_ends_total"
	// NameCertificateExpiry is when the certificate ends, in Unix time.
	NameCertificateExpiry = "vmhost_rack_certificate_expire_time_seconds"
	// NameHosts is how many hosts are driven, by how their connection stands.
	NameHosts = "vmhost_rack_hosts"
	// NameOpens counts connections that were tried, by class of failure.
	NameOpens = "vmhost_rack_host_opens_total"
	// NameSteps counts steps that ended, by action and class of failure.
	NameSteps = "vmhost_rack_steps_total"
	// NameStepDuration is how long steps took, by action.
	NameStepDuration = "vmhost_rack_step_duration_seconds"
	// NameStepsInFlight is how many steps were accepted and have not ended.
	NameStepsInFlight = "vmhost_rack_steps_in_flight"
	// NameInventories counts inventories that were read whole, by class of failure.
	NameInventories = "vmhost_rack_inventories_total"
	// NameChanges counts changes of machines that were sent.
	NameChanges = "vmhost_rack_machine_changes_total"
	// NameConsoles is how many consoles are open, those being opened included.
	NameConsoles = "vmhost_rack_consoles"
)

// Metrics are the rack's.
type Metrics struct {
	sessionUp prometheus.Gauge
	ends      *prometheus.CounterVec
	hosts     *prometheus.GaugeVec
	opens     *prometheus.CounterVec
	steps     *prometheus.CounterVec
	durations *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	inventory *prometheus.CounterVec
	changes   prometheus.Counter
	consoles  prometheus.Gauge
}

// New makes and registers the metrics. Expiry is when the certificate ends.
func New(registry prometheus.Registerer, expiry func() time.Time) *Metrics {
	m := &Metrics{
		sessionUp: prometheus.NewGauge(prometheus.GaugeOpts{Name: NameSessionUp, Help: "1 while the session with a region is up."}),
		ends:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: NameSessionEnds, Help: "Sessions that ended, or could not be made."}, []string{"reason"}),
		hosts:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: NameHosts, Help: "Hosts driven by this rack."}, []string{"state"}),
		opens:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: NameOpens, Help: "Connections to hypervisors that were tried."}, []string{"class"}),
		steps:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: NameSteps, Help: "Steps that ended."}, []string{"action", "class"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: NameStepDuration, Help: "How long steps took.", Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 12),
		}, []string{"action"}),
		inFlight:  prometheus.NewGauge(prometheus.GaugeOpts{Name: NameStepsInFlight, Help: "Steps that were accepted and have not ended."}),
		inventory: prometheus.NewCounterVec(prometheus.CounterOpts{Name: NameInventories, Help: "Inventories that were read."}, []string{"class"}),
		changes:   prometheus.NewCounter(prometheus.CounterOpts{Name: NameChanges, Help: "Changes of machines that were sent."}),
		consoles:  prometheus.NewGauge(prometheus.GaugeOpts{Name: NameConsoles, Help: "Consoles of machines that are open."}),
	}
	certificate := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: NameCertificateExpiry, Help: "When the certificate ends, in Unix time; 0 without one."}, func() float64 {
		if at := expiry(); !at.IsZero() {
			return float64(at.Unix())
		}
		return 0
	})
	registry.MustRegister(m.sessionUp, m.ends, m.hosts, m.opens, m.steps, m.durations, m.inFlight, m.inventory, m.changes, m.consoles, certificate)
	return m
}

// SessionUp notes that a session is up, or is not any more.
func (m *Metrics) SessionUp(up bool) {
	if up {
		m.sessionUp.Set(1)
	} else {
		m.sessionUp.Set(0)
	}
}

// SessionEnded notes that a session ended, or could not be made.
func (m *Metrics) SessionEnded(reason string) { m.ends.WithLabelValues(reason).Inc() }

// HostState notes that a host went from one state to another; empty is none.
func (m *Metrics) HostState(from, to string) {
	if from == to {
		return
	}
	if from != "" {
		m.hosts.WithLabelValues(from).Dec()
	}
	if to != "" {
		m.hosts.WithLabelValues(to).Inc()
	}
}

// Opened notes a connection that was tried.
func (m *Metrics) Opened(failure *rackv1.StepError) { m.opens.WithLabelValues(class(failure)).Inc() }

// StepBegan notes that a step was accepted.
func (m *Metrics) StepBegan() { m.inFlight.Inc() }

// StepEnded notes that an accepted step ended.
func (m *Metrics) StepEnded(action string, failure *rackv1.StepError, took time.Duration) {
	m.inFlight.Dec()
	m.steps.WithLabelValues(action, class(failure)).Inc()
	m.durations.WithLabelValues(action).Observe(took.Seconds())
}

// StepLeft notes that an accepted step did not end before its process does.
func (m *Metrics) StepLeft() { m.inFlight.Dec() }

// Inventory notes that a host was read.
func (m *Metrics) Inventory(failure *rackv1.StepError) {
	m.inventory.WithLabelValues(class(failure)).Inc()
}

// Changed notes that changes of machines were sent.
func (m *Metrics) Changed(n int) { m.changes.Add(float64(n)) }

// Console notes that a console was opened, 1, or ended, -1.
func (m *Metrics) Console(change float64) { m.consoles.Add(change) }

func class(failure *rackv1.StepError) string {
	if failure == nil {
		return "ok"
	}
	return failure.GetClass().String()
}
