package server1

import (
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// What OPERATING.md says of the metrics is what there is, and all of it before its first
// use.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	r := s.start(t, s.publishing("metrics", "127.0.0.1:0"))
	scraped := servingtest.Scrape(t, r.log)
	servingtest.Documented(t, "OPERATING.md", scraped)
	for _, series := range []string{
		`handoff_issues_total{method="` + payInvoice + `",outcome="refused",reason="POLICY_DENIED"} 0`,
		`handoff_sessions_total{outcome="refused",reason="SESSION_INVALID"} 0`,
		`handoff_swept_rows_total{table="audit"} 0`,
		`handoff_ready{condition="trust list"} `,
	} {
		if !strings.Contains(scraped, series) {
			t.Errorf("there is no %s after a start", series)
		}
	}
}

// The probe finds the server by the settings that the server has.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.start(t, nil)
	for _, c := range []struct {
		listen string
		want   int
	}{{r.conn.Target(), 0}, {"127.0.0.1:1", 1}, {"", 2}} {
		var out servingtest.Log
		env := []string{"HANDOFF_SERVER1_LISTEN=" + c.listen, "HANDOFF_SERVER1_TLS_CERT=" + s.path("tls.crt"), "HANDOFF_SERVER1_DATABASE=" + s.database}
		args := []string{"probe"}
		if c.listen == "" {
			args = append(args, "--listen=nowhere")
		}
		if got := run(t.Context(), args, env, strings.NewReader(""), &out, &out); got != c.want {
			t.Errorf("a probe of %q: status %d, want %d: %s", c.listen, got, c.want, &out)
		}
	}
}
