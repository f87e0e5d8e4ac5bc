// Package obs is how a service shows what it does: a logger, a registry of
// metrics, the id that follows a request, and the listener on which operators
// find health, readiness and metrics.
//
// Everything is made once in a service's wiring and handed down; there is no
// default logger and no default registry. The package starts no goroutine but
// for Ops.Run, which ends them before it returns.
package obs

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Version is the version of this build, set by the linker.
var Version = "unknown"

// NewRegistry makes the registry of a process, with what Go and the operating
// system say about it.
func NewRegistry(component, version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: MetricBuildInfo,
		Help: "Which build runs; always 1.",
		ConstLabels: prometheus.Labels{
			"component": component, "version": version, "go_version": runtime.Version(),
		},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
