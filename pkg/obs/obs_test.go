package obs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmhost-project/vmhost/pkg/obs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogRecordsCarryTheRequestID(t *testing.T) {
	for _, tt := range []struct{ format, want string }{
		{"json", `"k":"v","request_id":"r-1"`},
		{"text", `k=v request_id=r-1`},
		{"auto", `"request_id":"r-1"`},
	} {
		var out strings.Builder
		log, err := obs.NewLogger(&out, "info", tt.format)
		if err != nil {
			t.Fatal(err)
		}
		ctx := obs.WithRequestID(t.Context(), "r-1")
		log.DebugContext(ctx, "not shown")
		log.With("k", "v").InfoContext(ctx, "shown")
		log.WithGroup("g").Info("no id")
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], tt.want) || strings.Contains(lines[1], "request_id") {
			t.Errorf("%s: log =\n%s", tt.format, out.String())
		}
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := obs.NewLogger(f, "warn", "auto")
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("hello")
	if b, err := os.ReadFile(f.Name()); err != nil || !strings.HasPrefix(string(b), "{") {
		t.Errorf("log = %q, %v, want JSON", b, err)
	}
}

func TestUnknownLogSettingsAreRefused(t *testing.T) {
	if _, err := obs.NewLogger(io.Discard, "loud", "json"); err == nil {
		t.Error("level loud was accepted")
	}
	if _, err := obs.NewLogger(io.Discard, "info", "xml"); err == nil {
		t.Error("format xml was accepted")
	}
}

func TestRequestIDsFromOutsideAreCheckedBeforeTheyAreLogged(t *testing.T) {
	for id, want := range map[string]bool{
		obs.NewRequestID(): true, "a-Z_0.9": true, "": false, "a b": false, "a\nb": false,
		strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, "ä": false,
	} {
		if got := obs.ValidRequestID(id); got != want {
			t.Errorf("ValidRequestID(%q) = %v, want %v", id, got, want)
		}
	}
}

func TestOperatorsFindHealthReadinessAndMetrics(t *testing.T) {
	reg := obs.NewRegistry("region", "v1.2.3")
	obs.GRPCServerMetrics(reg)
	obs.GRPCClientMetrics(reg)
	var down error
	h := obs.Ops{Registry: reg, Ready: func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("readiness has no deadline")
		}
		return down
	}}.Handler()
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz = %d, want 200", code)
	}
	down = errors.New("etcd does not answer")
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "etcd does not answer") {
		t.Errorf("/readyz = %d %q, want 503 and why", code, body)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz = %d, want 200 whatever readiness says", code)
	}
	code, body := get("/metrics")
	for _, want := range []string{`vmhost_build_info{component="region"`, `version="v1.2.3"`, "go_goroutines", "process_"} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("/metrics = %d, without %s", code, want)
		}
	}
}

func TestOpsServesUntilTheContextEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- obs.Ops{Listener: ln, Log: slog.New(slog.DiscardHandler)}.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s/healthz", ln.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

func TestOpsRefusesToBeReachedFromOutside(t *testing.T) {
	for _, addr := range []string{":7445", "0.0.0.0:7445", "[::]:7445", "192.0.2.1:7445", "example.com:7445", "nonsense"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := (obs.Ops{Addr: addr, Log: slog.New(slog.DiscardHandler)}).Run(ctx); err == nil {
			t.Errorf("Run with %q was accepted", addr)
		}
	}
}
