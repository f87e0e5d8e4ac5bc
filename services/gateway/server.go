package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/proto"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
	"github.com/vmhost-project/vmhost/services/gateway/internal/jsonapi"
)

// newServer makes the HTTPS server. There is no read or write timeout for whole
// requests, since streams last for hours: jsonapi limits reading and front limits
// every write.
func newServer(handler http.Handler, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate},
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// What clients do wrong while they shake hands is for who looks for it.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// routes is every path of the gateway.
func (g *Gateway) routes(api *jsonapi.API) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", openAPI)
	mux.HandleFunc("GET "+front.RouteHealth, func(w http.ResponseWriter, r *http.Request) {
		probe(w, r, front.RouteHealth, nil)
	})
	mux.HandleFunc("GET "+front.RouteReady, func(w http.ResponseWriter, r *http.Request) {
		err := g.ready(r.Context())
		if err != nil {
			g.log.WarnContext(r.Context(), "not ready", "error", err)
		}
		probe(w, r, front.RouteReady, err)
	})
	mux.HandleFunc("/", api.NotFound)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Before ServeMux, which answers odd paths with redirects of its own.
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			api.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func openAPI(w http.ResponseWriter, r *http.Request) {
	front.SetRoute(r.Context(), "/openapi.json")
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, proto.OpenAPI()) // a client that hung up is not our failure
}

// probe answers without saying why: it is asked by anybody. The operators'
// listener says why.
func probe(w http.ResponseWriter, r *http.Request, route string, err error) {
	front.SetRoute(r.Context(), route)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok\n"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = "not ready\n"
	}
	_, _ = io.WriteString(w, text) // a client that hung up is not our failure
}

// serve answers until ctx ends. Requests under way then get their grace; streams,
// which would never end by themselves, are drained at once.
func (g *Gateway) serve(ctx context.Context) error {
	// Not ctx itself: requests under way outlive it by their grace.
	g.server.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	served := make(chan error, 1)
	go func() { served <- g.server.ServeTLS(g.listener, "", "") }()
	g.log.InfoContext(ctx, "gateway is open", "address", g.listener.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.Grace)
	defer cancel()
	if err := g.server.Shutdown(grace); err != nil {
		err = errors.Join(err, g.server.Close())
		g.log.WarnContext(ctx, "requests were cut off", "error", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func stderr() io.Writer { return os.Stderr }
