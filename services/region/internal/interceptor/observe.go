package interceptor

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// metricRPCDuration is the histogram of calls; its count is the number of calls.
const metricRPCDuration = "vmhost_rpc_duration_seconds"

// Metrics count calls by method and how they ended.
type Metrics struct {
	duration *prometheus.HistogramVec
}

// NewMetrics registers the metrics of calls.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricRPCDuration,
		Help:    "How long calls took, by method and by how they ended. Streams count when they end.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
	}, []string{"service", "method", "code", "reason"})}
	registry.MustRegister(m.duration)
	return m
}

func (m *Metrics) observe(fullMethod string, code codes.Code, reason string, took time.Duration) {
	if m == nil {
		return
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	m.duration.WithLabelValues(service, method, code.String(), reason).Observe(took.Seconds())
}

// observe logs one line per call and counts it. It runs outside of the layer
// that makes answers, so that it sees what the caller sees.
func observe(log *slog.Logger, metrics *Metrics) layer {
	return func(ctx context.Context, c *call, next func(context.Context) error) error {
		err := next(ctx)
		took := time.Since(c.begin)
		code, reason := status.Code(err), ""
		if err != nil {
			reason = apierror.Reason(err).String()
		}
		metrics.observe(c.method, code, reason, took)
		attrs := []slog.Attr{
			slog.String("principal", c.caller),
			slog.String("method", c.method),
			slog.String("code", code.String()),
			slog.Duration("duration", took),
		}
		level := slog.LevelInfo
		if err != nil {
			attrs = append(attrs, slog.String("reason", reason))
		}
		switch {
		case c.cause != nil:
			attrs = append(attrs, slog.Any("error", c.cause))
			level = slog.LevelError
			if code != codes.Internal {
				level = slog.LevelWarn
			}
		case isHealth(c.method):
			level = slog.LevelDebug // several a second, and they say nothing
		}
		log.LogAttrs(ctx, level, "call", attrs...)
		return err
	}
}

func isHealth(method string) bool { return strings.HasPrefix(method, "/grpc.health.v1.Health/") }
