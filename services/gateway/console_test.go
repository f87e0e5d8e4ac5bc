package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestAConsoleLogComesInLines(t *testing.T) {
	h := start(t)
	const parts = `{"result":{"data":"b25lDQo="}}` + "\n" + `{"result":{"data":"dHdv"}}` + "\n"
	for _, tt := range []struct {
		name, path, body string
		code             int
		want             string // how the answer begins
	}{
		{"whole", "/v1/machines/m:consoleLog?tailBytes=9", "", http.StatusOK, parts},
		{"empty", "/v1/machines/silent:consoleLog", "", http.StatusOK, ""},
		{"that breaks off", "/v1/machines/breaks:consoleLog", "", http.StatusOK, parts + `{"error":{`},
		{"that cannot be had", "/v1/machines/unreachable:consoleLog", "", http.StatusServiceUnavailable, `{"code":14`},
		{"with an unknown parameter", "/v1/machines/m:consoleLog?tail=9", "", http.StatusBadRequest, `{"code":3`},
		{"with a parameter that is none", "/v1/machines/m:consoleLog?tailBytes=x", "", http.StatusBadRequest, `{"code":3`},
		{"with another name", "/v1/machines/m:consoleLog?name=machines/x", "", http.StatusBadRequest, `{"code":3`},
		{"with a body", "/v1/machines/m:consoleLog", "{}", http.StatusBadRequest, `{"code":3`},
		{"of a path", "/v1/machines/a/b:consoleLog", "", http.StatusNotFound, `{"code":5`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, body := h.do("GET", tt.path, tt.body, nil)
			got := strings.ReplaceAll(strings.ReplaceAll(string(body), " ", ""), "\u00a0", "")
			if answer.StatusCode != tt.code || !strings.HasPrefix(got, tt.want) || tt.code == http.StatusOK && tt.want == "" && got != "" {
				t.Errorf("%d %q, want %d %q", answer.StatusCode, got, tt.code, tt.want)
			}
			if kind := answer.Header.Get("Content-Type"); tt.code == http.StatusOK && kind != "application/x-ndjson" {
				t.Errorf("content type %q", kind)
			}
		})
	}
	h.do("GET", "/v1/machines/m:consoleLog?tailBytes=9", "", nil)
	if _, req, _ := h.region.last(); req.(*vmhostv1.ReadConsoleLogRequest).GetName() != "machines/m" || req.(*vmhostv1.ReadConsoleLogRequest).GetTailBytes() != 9 {
		t.Errorf("the region was asked for %v", req)
	}
}

func TestAConsoleIsRefusedInWords(t *testing.T) {
	h := start(t)
	for _, method := range []string{"GET", "POST"} {
		answer, body := h.do(method, "/v1/machines/m:attachConsole", "", nil)
		if answer.StatusCode != http.StatusNotImplemented || !strings.Contains(string(body), "UNSUPPORTED") || !strings.Contains(string(body), "gRPC") {
			t.Errorf("%s: %d %s", method, answer.StatusCode, body)
		}
	}
}
