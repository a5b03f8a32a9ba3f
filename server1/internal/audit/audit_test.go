package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Each decision is one line and one count, whose labels are closed sets.
func TestH09H12Decisions(t *testing.T) {
	const method = "/a.B/C"
	denied := &handoff.Refusal{Reason: handoff.ReasonPolicyDenied, Detail: "detail", Err: fmt.Errorf("cause")}
	claims := &handoff.Claims{
		Subject: "u", Audience: "https://b.example", Method: method, ID: "jti", Session: "sid", Expires: time.Unix(0, 0).UTC(),
		Fields: []handoff.Field{{Path: "amount", Value: "1200"}},
	}
	for name, c := range map[string]struct {
		decide func(*Record)
		line   map[string]any
		count  string
	}{
		"issued": {
			func(r *Record) { r.Issued(t.Context(), claims) },
			map[string]any{
				"level": "INFO", "msg": "handoff", "outcome": "issued", "subject": "u", "audience": "https://b.example",
				"method": method, "handoff_id": "jti", "expires": "1970-01-01T00:00:00Z",
			},
			"handoff_issues_total method=/a.B/C outcome=issued reason=",
		},
		"refused": {
			func(r *Record) { r.Refused(t.Context(), Handoff{Subject: "u"}, denied) },
			map[string]any{
				"level": "WARN", "msg": "handoff", "outcome": "refused", "subject": "u", "audience": "", "method": "",
				"reason": "POLICY_DENIED",
			},
			"handoff_issues_total method= outcome=refused reason=POLICY_DENIED",
		},
		"signed in": {
			func(r *Record) { r.SignedIn(t.Context(), "u", "192.0.2.0/24") },
			map[string]any{"level": "INFO", "msg": "session", "outcome": "signed_in", "subject": "u", "network": "192.0.2.0/24"},
			"handoff_sessions_total outcome=signed_in reason=",
		},
		"signed out": {
			func(r *Record) { r.SignedOut(t.Context(), "u") },
			map[string]any{"level": "INFO", "msg": "session", "outcome": "signed_out", "subject": "u"},
			"handoff_sessions_total outcome=signed_out reason=",
		},
		"sign-in refused": {
			func(r *Record) {
				r.SignInRefused(t.Context(), "", "::/64", &handoff.Refusal{Reason: handoff.ReasonSessionInvalid})
			},
			map[string]any{
				"level": "WARN", "msg": "session", "outcome": "refused", "subject": "", "network": "::/64", "reason": "SESSION_INVALID",
			},
			"handoff_sessions_total outcome=refused reason=SESSION_INVALID",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := New(&log)
			c.decide(r)
			var line map[string]any
			if err := json.Unmarshal(log.Bytes(), &line); err != nil || strings.Count(log.String(), "\n") != 1 {
				t.Fatalf("not one line: %v\n%s", err, &log)
			}
			delete(line, "time")
			if diff := cmp.Diff(c.line, line); diff != "" {
				t.Error(diff)
			}
			if got := counts(t, r); got != c.count {
				t.Errorf("counted %q, want %q", got, c.count)
			}
		})
	}
}

// counts returns what was counted, each count of 1 with its labels.
func counts(t *testing.T, r *Record) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			text := family.GetName()
			for _, label := range metric.GetLabel() {
				text += " " + label.GetName() + "=" + label.GetValue()
			}
			if n := metric.GetCounter().GetValue(); n != 1 {
				text += fmt.Sprint(" ", n)
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, "\n")
}
