package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyTimeout is how long a probe waits; probes are asked every few seconds.
const readyTimeout = 2 * time.Second

// Ops is the listener for operators: /healthz (the process answers), /readyz
// (Ready says nil) and /metrics. It has no authentication and no TLS, so it
// listens on a loopback address only.
type Ops struct {
	// Addr is where to listen, host:port of a loopback address.
	Addr string
	// Listener is used instead of Addr when set. It must be a loopback one as well.
	Listener net.Listener
	// Registry is shown at /metrics.
	Registry *prometheus.Registry
	// Ready says why the process cannot do its work; nil is always ready.
	Ready func(ctx context.Context) error
	// Log gets what the server complains about.
	Log *slog.Logger
}

// Run serves until ctx ends.
func (o Ops) Run(ctx context.Context) error {
	ln, err := o.listen(ctx)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           o.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	o.Log.InfoContext(ctx, "operators' listener is open", "address", ln.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve operators: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		err = errors.Join(err, srv.Close())
		o.Log.WarnContext(ctx, "operators' listener was closed with requests under way", KeyError, err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operators: %w", err)
	}
	return nil
}

func (o Ops) listen(ctx context.Context) (net.Listener, error) {
	if o.Listener != nil {
		return o.Listener, checkLoopback(o.Listener.Addr().String())
	}
	if err := checkLoopback(o.Addr); err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w", err)
	}
	return ln, nil
}

func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen for operators: %w", err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("listen for operators: %s is not a loopback address; this listener has no TLS", addr)
}

// Handler answers the operators' paths.
func (o Ops) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if o.Ready != nil {
			ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
			defer cancel()
			if err := o.Ready(ctx); err != nil {
				plain(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		plain(w, http.StatusOK, "ok")
	})
	if o.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{Registry: o.Registry, MaxRequestsInFlight: 8}))
	}
	return mux
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // a prober that hung up is not our failure
}
