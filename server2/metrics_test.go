package main

import (
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// What OPERATING.md says of the metrics is what there is, and all of it before its first
// use.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	r := startWith(t, func(s settings) {
		delete(s, "keys")
		s["trust-key"], s["trust"], s["max-staleness"] = keyFile(t, p.trust), p.file, unhurried.String()
		s["metrics"] = "127.0.0.1:0"
	})
	scraped := servingtest.Scrape(t, r.log)
	servingtest.Documented(t, "OPERATING.md", scraped)
	for _, series := range []string{
		`handoff_decisions_total{method="` + getMethod + `",outcome="refused",reason="STORE_UNAVAILABLE"} 0`,
		`handoff_decisions_total{method="` + getMethod + `",outcome="ended",reason="TOKEN_REVOKED"} 0`,
		`handoff_decisions_total{method="",outcome="refused",reason="LIMIT_EXCEEDED"} 0`,
		`handoff_ready{condition="clock"} 1`,
	} {
		if !strings.Contains(scraped, series) {
			t.Errorf("there is no %s after a start", series)
		}
	}
}

// The probe finds the server by the settings that the server has.
func TestProbe(t *testing.T) {
	t.Parallel()
	var file string
	r := startWith(t, func(s settings) { file = s["tls-cert"] })
	for listen, want := range map[string]int{r.address: 0, "127.0.0.1:1": 1, "nowhere": 2} {
		var out servingtest.Log
		if got := run(t.Context(), []string{"probe", "--listen=" + listen, "--tls-cert=" + file}, &out, &out); got != want {
			t.Errorf("a probe of %q: status %d, want %d: %s", listen, got, want, &out)
		}
	}
}
