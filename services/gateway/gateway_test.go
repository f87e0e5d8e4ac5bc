package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/gateway"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is a gateway in front of a fake region.
type harness struct {
	t        *testing.T
	region   *region
	url      string
	client   *http.Client
	registry *prometheus.Registry
	log      *syncBuffer
	stop     func()
}

// start runs a gateway over TLS whose region is in memory.
func start(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, region: newRegion(), registry: obs.NewRegistry("gateway", "test"), log: &syncBuffer{}}

	memory := bufconn.Listen(1 << 20)
	srv := h.region.server()
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(memory) }()
	conn, err := grpc.NewClient("passthrough:///region", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return memory.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}

	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.Default()
	cfg.Ops.Listen = ""
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{
		Conn: conn, Listener: listener, Registry: h.registry,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Log:         slog.New(slog.NewJSONHandler(h.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.stop = run(t, g)

	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}
	h.url, h.client = "https://"+listener.Addr().String(), &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		h.stop()
		conn.Close()
		srv.Stop()
		<-served
	})
	return h
}

// run runs a gateway until the test ends or stop is called.
func run(t *testing.T, g *gateway.Gateway) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// do sends a request and reads the whole answer.
func (h *harness) do(method, path, body string, header http.Header) (answer, []byte) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, bytes.NewBufferString(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Status, resp.Proto, resp.Header, resp.TLS}, data
}

// golden compares JSON with a file, parsed: proto JSON varies its spaces.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".json")
	if *update {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, bytes.ReplaceAll(got, []byte("\u00a0"), []byte(" ")), "", "  "); err != nil {
			t.Fatalf("answer %q: %v", got, err)
		}
		pretty.WriteByte('\n')
		if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var wantJSON, gotJSON any
	if err := json.Unmarshal(want, &wantJSON); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &gotJSON); err != nil {
		t.Fatalf("answer %q: %v", got, err)
	}
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// syncBuffer can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
