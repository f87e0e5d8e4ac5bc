package obs

import (
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

// latency buckets reach from an answer out of memory to a call that waits for etcd.
func latency() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}
}

// GRPCServerMetrics counts and times the calls that a server answers. Use its
// interceptors, and InitializeMetrics once all services are registered.
func GRPCServerMetrics(reg prometheus.Registerer) *grpcprom.ServerMetrics {
	m := grpcprom.NewServerMetrics(
		grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(latency())))
	reg.MustRegister(m)
	return m
}

// GRPCClientMetrics counts and times the calls that a client makes.
func GRPCClientMetrics(reg prometheus.Registerer) *grpcprom.ClientMetrics {
	m := grpcprom.NewClientMetrics(
		grpcprom.WithClientHandlingTimeHistogram(grpcprom.WithHistogramBuckets(latency())))
	reg.MustRegister(m)
	return m
}
