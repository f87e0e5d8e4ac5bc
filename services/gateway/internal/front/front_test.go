package front_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
)

// connection is a response writer that remembers its deadline.
type connection struct {
	*httptest.ResponseRecorder

	deadline time.Time
}

func (c *connection) SetWriteDeadline(t time.Time) error { c.deadline = t; return nil }

func TestEveryWriteHasADeadlineOfItsOwn(t *testing.T) {
	f := front.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	conn := &connection{ResponseRecorder: httptest.NewRecorder()}
	f.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, write := range []func(){
			func() { w.WriteHeader(http.StatusOK) },
			func() { _, _ = io.WriteString(w, "x") },
			func() { _ = http.NewResponseController(w).Flush() },
		} {
			conn.deadline = time.Time{}
			write()
			if left := time.Until(conn.deadline); left < 10*time.Second || left > time.Minute {
				t.Errorf("deadline in %s", left)
			}
		}
	})).ServeHTTP(conn, httptest.NewRequest(http.MethodGet, "/", nil))
	if !conn.Flushed {
		t.Error("nothing was flushed")
	}
}

func TestAPanicIsCountedLoggedAndGoesOn(t *testing.T) {
	var log strings.Builder
	reg := prometheus.NewRegistry()
	f := front.New(slog.New(slog.NewTextHandler(&log, nil)), reg)
	handler := f.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		front.SetRoute(r.Context(), "/route")
		panic("boom")
	}))
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic was swallowed")
			}
		}()
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/path", nil))
	}()
	want := `
# HELP vmhost_http_requests_in_flight Requests being answered, streams included.
# TYPE vmhost_http_requests_in_flight gauge
vmhost_http_requests_in_flight 0
# HELP vmhost_http_requests_total Requests answered.
# TYPE vmhost_http_requests_total counter
vmhost_http_requests_total{code="500",method="GET",route="/route"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "vmhost_http_requests_in_flight", "vmhost_http_requests_total"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "path=/path route=/route code=500") {
		t.Errorf("log = %s", log.String())
	}
}
