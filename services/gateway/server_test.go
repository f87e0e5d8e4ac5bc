package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestOnlyTLS13IsSpoken(t *testing.T) {
	h := start(t)
	cfg := h.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.MaxVersion = tls.VersionTLS12
	if conn, err := tls.Dial("tcp", strings.TrimPrefix(h.url, "https://"), cfg); err == nil {
		conn.Close()
		t.Error("TLS 1.2 was spoken")
	}
	if resp, _ := h.do("GET", "/v1/zones/a", "", nil); resp.TLS.Version != tls.VersionTLS13 || resp.Proto != "HTTP/2.0" {
		t.Errorf("answer over %x %s, want TLS 1.3 and HTTP/2", resp.TLS.Version, resp.Proto)
	}
}

func TestEveryMethodOfTheContractHasAPath(t *testing.T) {
	h := start(t)
	_, description := h.do("GET", "/openapi.json", "", nil)
	var openAPI struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(description, &openAPI); err != nil {
		t.Fatal(err)
	}
	methods := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("vmhost.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
				verb, path := "GET", rule.GetGet()
				switch {
				case rule.GetPost() != "":
					verb, path = "POST", rule.GetPost()
				case rule.GetPatch() != "":
					verb, path = "PATCH", rule.GetPatch()
				case rule.GetDelete() != "":
					verb, path = "DELETE", rule.GetDelete()
				}
				if m.IsStreamingClient() {
					continue // both ways: gRPC only
				}
				if path == "" {
					t.Errorf("%s has no HTTP rule", m.FullName())
					continue
				}
				methods++
				if m.IsStreamingServer() {
					continue // its tests are in watch_test.go
				}
				// {name=zones/*} is the one kind of pattern in the contract.
				path = strings.NewReplacer("{name=", "", "*}", "x", "{vm_host.name=", "", "{zone.name=", "", "{resource_pool.name=", "", "{reservation.name=", "", "{placement_policy.name=", "").Replace(path)
				if resp, body := h.do(verb, path, "", nil); resp.StatusCode == http.StatusMethodNotAllowed || strings.Contains(string(body), "nothing at this path") {
					t.Errorf("%s %s of %s: %s", verb, path, m.FullName(), resp.Status)
				}
			}
		}
		return true
	})
	described := 0
	for _, verbs := range openAPI.Paths {
		described += len(verbs)
	}
	if methods == 0 || described != methods {
		t.Errorf("%d methods in the contract, %d described", methods, described)
	}
}

func TestProbesSayWhetherTheRegionServesAndNotWhy(t *testing.T) {
	h := start(t)
	check := func(path string, want int) {
		t.Helper()
		resp, body := h.do("GET", path, "", nil)
		if resp.StatusCode != want || len(body) > 12 {
			t.Errorf("%s = %s %q, want %d and no details", path, resp.Status, body, want)
		}
	}
	check("/readyz", 200)
	h.region.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	check("/readyz", 503)
	check("/healthz", 200)
}

func TestAnswersHaveARequestIDAndSecurityHeaders(t *testing.T) {
	h := start(t)
	resp, _ := h.do("GET", "/v1/zones/none", "", http.Header{"X-Request-Id": {"r-1"}, "Te": {"trailers"}})
	want := map[string]string{
		"X-Request-Id": "r-1", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	}
	for key, value := range want {
		if got := resp.Header.Get(key); got != value {
			t.Errorf("%s = %q, want %q", key, got, value)
		}
	}
	for key := range resp.Header {
		if strings.HasPrefix(key, "Grpc-") {
			t.Errorf("answer has the header %s", key)
		}
	}
	resp, _ = h.do("GET", "/v1/zones/a", "", http.Header{"X-Request-Id": {"not ok"}})
	if got := resp.Header.Get("X-Request-Id"); got == "" || got == "not ok" {
		t.Errorf("request id = %q, want a new one", got)
	}
}

func TestMetricsAndLogNameRoutesAndNoSecret(t *testing.T) {
	h := start(t)
	for i := range 3 {
		h.do("GET", fmt.Sprintf("/v1/zones/z%d", i), "", http.Header{"Authorization": {"Bearer hunter2"}})
		h.do("GET", fmt.Sprintf("/random/%d", i), "", nil)
		h.do(fmt.Sprintf("VERB%d", i), "/v1/zones/a", "", nil)
	}
	h.do("GET", "/v1/zones?filter=hunter2", "", nil)
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		if family.GetName() != "vmhost_http_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got = append(got, fmt.Sprintf("%s %g", strings.Join(labels, " "), m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"200 GET /v1/zones 1", "404 GET /v1/{name=zones/*} 3", "404 GET unmatched 3", "405 other unmatched 3",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("requests = %q, want %q", got, want)
	}
	if log := h.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, `"route":"/v1/{name=zones/*}"`) {
		t.Errorf("log shows a secret or no route:\n%s", log)
	}
}
