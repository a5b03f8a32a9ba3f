package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
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

// contract returns the names of the lines in OPERATING.md, by msg: first those that are
// always there, then those that may be.
func contract(t *testing.T) map[string][2][]string {
	t.Helper()
	text, err := os.ReadFile("../../OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## The log\n")
	section, _, _ = strings.Cut(section, "\n## ")
	name := regexp.MustCompile("`([a-z_]+)`")
	lines := map[string][2][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|([^|]*)\\|([^|]*)\\|$").FindAllStringSubmatch(section, -1) {
		var both [2][]string
		for i := range both {
			for _, found := range name.FindAllStringSubmatch(row[i+2], -1) {
				both[i] = append(both[i], found[1])
			}
		}
		lines[row[1]] = both
	}
	return lines
}

// The names of the lines are those that OPERATING.md lists, and each of them is written.
func TestLinesAreDocumented(t *testing.T) {
	claims := &handoff.Claims{Subject: "u", Audience: "https://b.example", Method: "/a.B/C", Methods: []string{"/a.B/C"}, ID: "jti", Actor: "c"}
	refusal := &handoff.Refusal{Reason: handoff.ReasonPolicyDenied, Check: "x", Detail: "d", Err: fmt.Errorf("cause")}
	calls := map[string]func(*Record){
		"Issued":              func(r *Record) { r.Issued(t.Context(), claims) },
		"Refused":             func(r *Record) { r.Refused(t.Context(), Handoff{Subject: "u", Actor: "c"}, refusal) },
		"Granted":             func(r *Record) { r.Granted(t.Context(), "u", "c", nil) },
		"Withdrawn":           func(r *Record) { r.Withdrawn(t.Context(), "u", refusal) },
		"ClientRefused":       func(r *Record) { r.ClientRefused(t.Context(), "c", refusal) },
		"VisitIssued":         func(r *Record) { r.VisitIssued(t.Context(), claims) },
		"VisitRefused":        func(r *Record) { r.VisitRefused(t.Context(), "u", "", refusal) },
		"Revoked":             func(r *Record) { r.Revoked(t.Context(), "u", "jti") },
		"RevokeRefused":       func(r *Record) { r.RevokeRefused(t.Context(), "u", refusal) },
		"SignedIn":            func(r *Record) { r.SignedIn(t.Context(), "u", "n") },
		"SignedOut":           func(r *Record) { r.SignedOut(t.Context(), "u") },
		"SignedOutEverywhere": func(r *Record) { r.SignedOutEverywhere(t.Context(), "u") },
		"PasswordChanged":     func(r *Record) { r.PasswordChanged(t.Context(), "u") },
		"SignInRefused":       func(r *Record) { r.SignInRefused(t.Context(), "u", "n", refusal) },
		"Collectors":          nil, "Expect": nil, // which write nothing
	}
	for method := range reflect.TypeFor[*Record]().Methods() {
		if _, ok := calls[method.Name]; !ok {
			t.Errorf("nobody has looked at the line of %s", method.Name)
		}
	}
	documented, seen := contract(t), map[string]map[string]bool{}
	for name, call := range calls {
		if call == nil {
			continue
		}
		var log bytes.Buffer
		call(New(&log))
		var line map[string]any
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v: %s", name, err, &log)
		}
		msg, _ := line["msg"].(string)
		names, ok := documented[msg]
		if !ok {
			t.Errorf("%s writes %q, which OPERATING.md does not list", name, msg)
		}
		for _, key := range names[0] {
			if _, ok := line[key]; !ok {
				t.Errorf("%s: the line has no %s", name, key)
			}
		}
		if seen[msg] == nil {
			seen[msg] = map[string]bool{}
		}
		for key := range line {
			seen[msg][key] = true
			if !slices.Contains([]string{"time", "level", "msg"}, key) && !slices.Contains(names[0], key) && !slices.Contains(names[1], key) {
				t.Errorf("%s: OPERATING.md does not list %s", name, key)
			}
		}
	}
	for msg, names := range documented {
		for _, key := range names[1] {
			if !seen[msg][key] {
				t.Errorf("no line %q has %s", msg, key)
			}
		}
	}
}
