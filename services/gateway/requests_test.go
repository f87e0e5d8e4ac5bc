package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestCallsAreTranslatedInBothDirections(t *testing.T) {
	h := start(t)
	for _, tt := range []struct {
		name, method, path, body string
		want                     string // the request the region saw, as JSON
	}{
		{"get", "GET", "/v1/zones/a", "", `{"name":"zones/a"}`},
		{"list", "GET", "/v1/zones?pageSize=2&order_by=name&filter=name%20%3D%20%22a%22", "", `{"pageSize":2,"orderBy":"name","filter":"name = \"a\""}`},
		{"create", "POST", "/v1/zones?zoneId=b&validateOnly=true", `{"description":"Ü"}`, `{"zoneId":"b","validateOnly":true,"zone":{"description":"Ü"}}`},
		{"update", "PATCH", "/v1/zones/a", `{"description":""}`, `{"zone":{"name":"zones/a"},"updateMask":"description"}`},
		{"update-mask", "PATCH", "/v1/zones/a?updateMask=description", `{"description":"x","etag":"e"}`, `{"zone":{"name":"zones/a","description":"x","etag":"e"},"updateMask":"description"}`},
		{"delete", "DELETE", "/v1/zones/a?etag=e", "", `{"name":"zones/a","etag":"e"}`},
		{
			"compose", "POST", "/v1/machines:compose", `{"hostname":"m","memory_mib":"4096","cores":2,"disks":[{"sizeBytes":"9007199254740993"}]}`,
			`{"hostname":"m","cores":2,"memoryMib":"4096","disks":[{"sizeBytes":"9007199254740993"}]}`,
		},
		{"compose-nothing", "POST", "/v1/machines:compose", "", `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := h.do(tt.method, tt.path, tt.body, nil)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("answer = %s %s: %s", resp.Status, resp.Header.Get("Content-Type"), body)
			}
			_, asked, _ := h.region.last()
			got, err := protojson.Marshal(asked)
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, tt.want, string(got))
			golden(t, tt.name, body)
		})
	}
}

func TestErrorsAreAStatusWithAReason(t *testing.T) {
	h := start(t)
	for _, tt := range []struct {
		name, method, path, body string
		code                     int
	}{
		{"not-found", "GET", "/v1/zones/none", "", 404},
		{"no-capacity", "POST", "/v1/machines:compose", `{"hostname":"too-big"}`, 429},
		{"busy", "POST", "/v1/machines/m:stop", `{}`, 409},
		{"unavailable", "GET", "/v1/zones/plain-error", "", 503},
		{"unimplemented", "GET", "/v1/machines", "", 501},
		{"no-such-path", "GET", "/v1/zones/a/b", "", 404},
		{"outside", "GET", "/elsewhere", "", 404},
		{"no-such-method", "PUT", "/v1/zones/a", "{}", 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := h.do(tt.method, tt.path, tt.body, nil)
			if resp.StatusCode != tt.code {
				t.Errorf("code = %d, want %d", resp.StatusCode, tt.code)
			}
			golden(t, "error-"+tt.name, body)
		})
	}
	_, body := h.do("GET", "/v1/zones/text", "", http.Header{"X-Request-Id": {"find-me"}})
	if s := string(body); strings.Contains(s, "internal words") || !strings.Contains(s, "find-me") || !strings.Contains(s, `"INTERNAL"`) {
		t.Errorf("answer = %s, want the request id and no inner words", s)
	}
	if !strings.Contains(h.log.String(), "internal words") {
		t.Error("the log does not have the inner words")
	}
}

func TestWhatWouldBeIgnoredIsRefusedWithItsFieldBeforeTheRegionIsCalled(t *testing.T) {
	h := start(t)
	for _, tt := range []struct {
		name, method, path, body, field, says string
	}{
		{"unknown field", "POST", "/v1/machines:compose", `{"hostnam":"m"}`, "hostnam", "not a field"},
		{"unknown nested field", "POST", "/v1/machines:compose", `{"disks":[{"sizeBytes":"1"},{"size":1}]}`, "disks.size", "not a field"},
		{"unknown field of a resource", "POST", "/v1/zones?zoneId=b", `{"comment":"x"}`, "zone.comment", "not a field"},
		{"unknown field of an update", "PATCH", "/v1/zones/a", `{"comment":"x"}`, "zone.comment", "not a field"},
		{"field given twice", "POST", "/v1/machines:compose", `{"cores":1,"cores":2}`, "cores", "twice"},
		{"field given by both names", "POST", "/v1/machines:compose", `{"memoryMib":1,"memory_mib":2}`, "memory_mib", "twice"},
		{"overflow", "POST", "/v1/machines:compose", `{"cores":2147483648}`, "cores", "int32"},
		{"overflow of 64 bits", "POST", "/v1/machines:compose", `{"memoryMib":"9223372036854775808"}`, "memoryMib", "int64"},
		{"fraction", "POST", "/v1/machines:compose", `{"cores":1.5}`, "cores", "int32"},
		{"not a number", "POST", "/v1/vmHosts?vmHostId=h", `{"overcommit":{"cores":[]}}`, "vmHost.overcommit.cores", "double"},
		{"text for a list", "POST", "/v1/machines:compose", `{"disks":"big"}`, "disks", "list"},
		{"unknown enum value", "POST", "/v1/vmHosts?vmHostId=h", `{"defaultMacvlanMode":"SIDEWAYS"}`, "vmHost.defaultMacvlanMode", "MacvlanMode"},
		{"broken JSON", "POST", "/v1/machines:compose", `{"cores":`, "body", "not JSON"},
		{"two objects", "POST", "/v1/machines:compose", `{} {}`, "body", "not JSON"},
		{"no object", "POST", "/v1/machines:compose", `[1]`, "body", "not a JSON object"},
		{"unknown parameter", "GET", "/v1/zones?pagesize=2", "", "pagesize", "not a query parameter"},
		{"unknown parameter of a delete", "DELETE", "/v1/zones/a?valdateOnly=true", "", "valdateOnly", "not a query parameter"},
		{"parameter below a plain field", "GET", "/v1/zones?filter.x=2", "", "filter.x", "not a query parameter"},
		{"bad parameter", "GET", "/v1/zones?pageSize=many", "", "pageSize", "not valid"},
		{"parameter twice", "GET", "/v1/zones?pageSize=1&pageSize=2", "", "pageSize", "not valid"},
		{"parameter where there is a body", "POST", "/v1/machines:compose?validateOnly=true", `{}`, "validateOnly", "belongs in the body"},
		{"parameter inside the body's field", "POST", "/v1/zones?zoneId=b&zone.description=x", `{}`, "zone.description", "belongs in the body"},
		{"parameter that the path gives", "DELETE", "/v1/zones/a?name=zones/b", "", "name", "given by the path"},
		{"body where there is none", "DELETE", "/v1/zones/a", `{"validateOnly":true}`, "body", "must be empty"},
		{"bad escape", "GET", "/v1/zones?filter=%zz", "", "query", "cannot be read"},
		{"unknown parameter of a watch", "GET", "/v1/events:watch?resumetoken=x", "", "resumetoken", "not a query parameter"},
		{"bad parameter of a watch", "GET", "/v1/events:watch?filter=a&filter=b", "", "filter", "not valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, _, _ := h.region.last()
			resp, body := h.do(tt.method, tt.path, tt.body, nil)
			e := readError(t, body)
			if resp.StatusCode != http.StatusBadRequest || e.reason != vmhostv1.ErrorReason_INVALID_FIELD.String() {
				t.Fatalf("answer = %s: %s", resp.Status, body)
			}
			if e.field != tt.field || !strings.Contains(e.description, tt.says) {
				t.Errorf("field = %q %q, want %q %q", e.field, e.description, tt.field, tt.says)
			}
			if after, _, _ := h.region.last(); after != before {
				t.Error("the region was called")
			}
		})
	}
}

func TestALargeBodyIsRefused(t *testing.T) {
	h := start(t)
	resp, body := h.do("POST", "/v1/machines:compose", `{"hostname":"`+strings.Repeat("a", 1<<20)+`"}`, nil)
	if e := readError(t, body); resp.StatusCode != http.StatusRequestEntityTooLarge || e.field != "body" {
		t.Errorf("answer = %s: %s", resp.Status, body)
	}
	if calls, _, _ := h.region.last(); calls != 0 {
		t.Error("the region was called")
	}
}

func TestOnlyListedHeadersReachTheRegion(t *testing.T) {
	h := start(t)
	h.do("GET", "/v1/zones/a", "", http.Header{
		"Authorization":               {"Bearer t"},
		"X-Request-Id":                {"r-1"},
		"Grpc-Metadata-Authorization": {"Bearer stolen"},
		"Grpc-Metadata-X-Request-Id":  {"r-2"},
		"Grpc-Metadata-Principal":     {"admin"},
		"Grpc-Timeout":                {"1n"},
		"X-Forwarded-For":             {"192.0.2.1"},
		"X-Forwarded-Host":            {"evil.test"},
		"X-Http-Method-Override":      {"DELETE"},
		"Cookie":                      {"a=b"},
		"Idempotency-Key":             {"k"},
	})
	_, asked, md := h.region.last()
	if _, ok := asked.(*vmhostv1.GetZoneRequest); !ok {
		t.Fatalf("the region saw a %T", asked)
	}
	want := map[string]string{"authorization": "Bearer t", "x-request-id": "r-1", "x-forwarded-for": "127.0.0.1"}
	for key, values := range md {
		switch key {
		case ":authority", "content-type", "user-agent", "grpc-accept-encoding":
			continue // of gRPC itself
		}
		if len(values) != 1 || values[0] != want[key] {
			t.Errorf("metadata %s = %q, want %q", key, values, want[key])
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("metadata %s is missing", key)
	}
}

func TestAmbiguousOrUnprintableTokensAreNotForwarded(t *testing.T) {
	h := start(t)
	for _, tokens := range [][]string{{"Bearer a", "Bearer b"}, {"Bearer \xff"}, nil} {
		h.do("GET", "/v1/zones/a", "", http.Header{"Authorization": tokens})
		if _, _, md := h.region.last(); len(md.Get("authorization")) != 0 {
			t.Errorf("%q was forwarded as %q", tokens, md.Get("authorization"))
		}
	}
}

func TestAnIdempotencyKeyIsTheRequestIDUnlessThereIsOne(t *testing.T) {
	h := start(t)
	for _, tt := range []struct{ body, want string }{
		{`{}`, "key"}, {`{"requestId":"own"}`, "own"},
	} {
		h.do("POST", "/v1/machines:compose", tt.body, http.Header{"Idempotency-Key": {"key"}})
		_, asked, _ := h.region.last()
		if got := asked.(*vmhostv1.ComposeMachineRequest).GetRequestId(); got != tt.want {
			t.Errorf("%s: request_id = %q, want %q", tt.body, got, tt.want)
		}
	}
}
