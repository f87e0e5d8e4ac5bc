package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAProbeFailsUnlessTheAnswerIs200(t *testing.T) {
	code := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer s.Close()
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err != nil {
		t.Errorf("probe of 200: %v", err)
	}
	code = http.StatusServiceUnavailable
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err == nil {
		t.Error("probe of 503 succeeded")
	}
	s.Close()
	if err := run(t.Context(), []string{"probe", s.URL}, io.Discard); err == nil {
		t.Error("probe of nobody succeeded")
	}
}
