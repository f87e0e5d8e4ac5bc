package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// answer is a response whose body was read.
type answer struct {
	StatusCode    int
	Status, Proto string
	Header        http.Header
	TLS           *tls.ConnectionState
}

type answerError struct {
	reason, field, description, hint string
}

// readError reads an error as a client does.
func readError(t *testing.T, body []byte) answerError {
	t.Helper()
	var status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type            string            `json:"@type"`
			Reason          string            `json:"reason"`
			Domain          string            `json:"domain"`
			Metadata        map[string]string `json:"metadata"`
			FieldViolations []struct {
				Field       string `json:"field"`
				Description string `json:"description"`
			} `json:"fieldViolations"`
		} `json:"details"`
	}
	if err := json.Unmarshal(body, &status); err != nil {
		t.Fatalf("error %q: %v", body, err)
	}
	if status.Code == 0 || status.Message == "" {
		t.Errorf("error %q has no code or message", body)
	}
	var e answerError
	for _, d := range status.Details {
		switch {
		case strings.HasSuffix(d.Type, "google.rpc.ErrorInfo"):
			e.reason, e.hint = d.Reason, d.Metadata["hint"]
			if d.Domain != "vmhost.dev" {
				t.Errorf("domain = %q", d.Domain)
			}
		case strings.HasSuffix(d.Type, "google.rpc.BadRequest") && len(d.FieldViolations) > 0:
			e.field, e.description = d.FieldViolations[0].Field, d.FieldViolations[0].Description
		}
	}
	return e
}

func sameJSON(t *testing.T, want, got string) {
	t.Helper()
	var wantJSON, gotJSON any
	if err := json.Unmarshal([]byte(want), &wantJSON); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got), &gotJSON); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}
