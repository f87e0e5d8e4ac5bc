// Package front is what every request to the gateway goes through, whichever
// facade answers it: a request id, security headers, a limit on how long an
// answer may take to be written, a line in the access log, and metrics by route.
// It looks at no body and decides nothing about who may do what. It starts no
// goroutine.
package front

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmhost-project/vmhost/pkg/obs"
)

// Front wraps handlers.
type Front struct {
	log      *slog.Logger
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// New makes a Front that logs to log and counts in reg.
func New(log *slog.Logger, reg prometheus.Registerer) *Front {
	f := &Front{
		log: log,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: obs.MetricHTTPRequests, Help: "Requests answered.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: obs.MetricHTTPDuration, Help: "Time to answer a request; streams are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: obs.MetricHTTPInFlight, Help: "Requests being answered, streams included.",
		}),
	}
	reg.MustRegister(f.requests, f.duration, f.inFlight)
	return f
}

type exchangeKey struct{}

// exchange is what handlers tell about their request.
type exchange struct {
	route  string
	stream bool
}

// SetRoute says which route a request took, as a pattern and never as its path:
// it is a label of metrics.
func SetRoute(ctx context.Context, pattern string) {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		e.route = pattern
	}
}

// SetStream says that the answer goes on for as long as the client listens.
func SetStream(ctx context.Context) {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		e.stream = true
	}
}

// Wrap makes a handler go through the front.
func (f *Front) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		f.inFlight.Inc()
		defer f.inFlight.Dec()

		id := r.Header.Get(obs.RequestIDHeader)
		if !obs.ValidRequestID(id) {
			id = obs.NewRequestID()
		}
		e := &exchange{route: "unmatched"}
		ctx := context.WithValue(obs.WithRequestID(r.Context(), id), exchangeKey{}, e)
		rec := &recorder{ResponseWriter: w, control: http.NewResponseController(w)}
		secure(rec.Header())
		rec.Header().Set("X-Request-Id", id)

		defer func() {
			code := rec.code
			fault := recover()
			if fault != nil && code == 0 {
				code = http.StatusInternalServerError
			}
			f.observe(ctx, r, e, code, rec.size, time.Since(start))
			if fault != nil {
				panic(fault) // the server logs it and ends the connection
			}
		}()
		next.ServeHTTP(rec, r.WithContext(ctx))
	})
}

func (f *Front) observe(ctx context.Context, r *http.Request, e *exchange, code int, size int64, took time.Duration) {
	if code == 0 {
		code = http.StatusOK
	}
	method := methodLabel(r.Method)
	f.requests.WithLabelValues(e.route, method, codeLabel(code)).Inc()
	if !e.stream {
		f.duration.WithLabelValues(e.route, method).Observe(took.Seconds())
	}
	level := slog.LevelInfo
	if e.route == RouteHealth || e.route == RouteReady {
		level = slog.LevelDebug // probes ask every few seconds
	}
	if !f.log.Enabled(ctx, level) {
		return
	}
	// Neither query nor headers: both may carry what must not be logged.
	f.log.LogAttrs(ctx, level, "request",
		slog.String("method", method), slog.String("path", r.URL.Path), slog.String("route", e.route),
		slog.Int("code", code), slog.Int64("bytes", size), slog.Duration("duration", took),
		slog.String("remote", r.RemoteAddr), slog.String("protocol", r.Proto))
}

// Routes that are probed.
const (
	// RouteHealth answers when the process does.
	RouteHealth = "/healthz"
	// RouteReady answers when a region does.
	RouteReady = "/readyz"
)

// secure sets what holds for every answer; a handler may loosen it. There is no
// Strict-Transport-Security: it would bind every other port of the same name.
func secure(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}
