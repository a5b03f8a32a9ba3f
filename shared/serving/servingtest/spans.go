package servingtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Spans is a receiver of OTLP in JSON over HTTP.
type Spans struct{ got Log }

// ReceiveSpans has the servers that the test starts from now on send their traces here.
func ReceiveSpans(t *testing.T) *Spans {
	t.Helper()
	s := &Spans{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && r.URL.Path == "/v1/traces" {
			_, _ = s.got.Write(body)
		}
		w.Header().Set("Content-Type", "application/json")
	}))
	t.Cleanup(receiver.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // milliseconds
	return s
}

// Wait waits until all these texts have come, and returns all that has.
func (s *Spans) Wait(t *testing.T, texts ...string) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, missing := s.got.String(), ""
		for _, text := range texts {
			if !strings.Contains(got, text) {
				missing = text
			}
		}
		switch {
		case missing == "":
			return got
		case time.Now().After(end):
			t.Fatalf("no span has %q: %q", missing, got)
		}
	}
}
