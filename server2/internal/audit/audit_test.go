package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// TestH12: each decision is one line that says who, what, by which handoff, and
// the outcome, at any log level, and one count.
func TestH12(t *testing.T) {
	const method = "/a.B/C"
	refusal := &handoff.Refusal{Reason: handoff.ReasonStoreUnavailable, Check: "redeem", Detail: "d", Err: errors.New("cause")}
	for name, c := range map[string]struct {
		event handoffgrpc.Event
		line  map[string]any
		count string
	}{
		"redeemed": {
			handoffgrpc.Event{Method: method, Issuer: "i", Subject: "s", ID: "h", Grant: new(handoff.Grant)},
			map[string]any{"level": "INFO", "outcome": "redeemed", "method": method, "issuer": "i", "subject": "s", "handoff_id": "h"},
			"handoff_decisions_total method=/a.B/C outcome=redeemed reason= 1",
		},
		"refused before it was verified": {
			handoffgrpc.Event{Method: method, Refusal: &handoff.Refusal{Reason: handoff.ReasonTokenMissing, Check: "x"}},
			map[string]any{"level": "WARN", "outcome": "refused", "method": method, "reason": "TOKEN_MISSING", "check": "x"},
			"handoff_decisions_total method=/a.B/C outcome=refused reason=TOKEN_MISSING 1",
		},
		"refused": {
			handoffgrpc.Event{Method: method, Issuer: "i", Subject: "s", ID: "h", Refusal: refusal},
			map[string]any{
				"level": "WARN", "outcome": "refused", "method": method, "issuer": "i", "subject": "s", "handoff_id": "h",
				"reason": "STORE_UNAVAILABLE", "check": "redeem", "detail": "d", "cause": "cause",
			},
			"handoff_decisions_total method=/a.B/C outcome=refused reason=STORE_UNAVAILABLE 1",
		},
		"answered": {
			handoffgrpc.Event{
				Method: method, Issuer: "i", Subject: "s", ID: "h", Answered: true,
				Refusal: &handoff.Refusal{Reason: handoff.ReasonTokenReplayed, Check: "redeem"},
			},
			map[string]any{
				"level": "INFO", "outcome": "answered", "method": method, "issuer": "i", "subject": "s", "handoff_id": "h",
				"reason": "TOKEN_REPLAYED", "check": "redeem",
			},
			"handoff_decisions_total method=/a.B/C outcome=answered reason=TOKEN_REPLAYED 1",
		},
		"ended": {
			handoffgrpc.Event{Method: method, Issuer: "i", Subject: "s", ID: "h", Grant: new(handoff.Grant), Refusal: &handoff.Refusal{Reason: handoff.ReasonTokenExpired}},
			map[string]any{
				"level": "WARN", "outcome": "ended", "method": method, "issuer": "i", "subject": "s", "handoff_id": "h",
				"reason": "TOKEN_EXPIRED", "check": "",
			},
			"handoff_decisions_total method=/a.B/C outcome=ended reason=TOKEN_EXPIRED 1",
		},
	} {
		var out bytes.Buffer
		record := New(&out)
		record.Observe(t.Context(), c.event)
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || strings.Count(out.String(), "\n") != 1 {
			t.Fatalf("%s: %v: %q", name, err, &out)
		}
		delete(line, "time")
		c.line["msg"] = "handoff"
		if diff := cmp.Diff(c.line, line); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got := counts(t, record); got != c.count {
			t.Errorf("%s: counted %s, want %s", name, got, c.count)
		}
	}
}

// What is shed while the processors cannot keep up is counted, and writes nothing.
func TestShed(t *testing.T) {
	var out bytes.Buffer
	record := New(&out)
	for range 3 {
		record.Observe(t.Context(), handoffgrpc.Event{Method: "/a.B/C", Refusal: &handoff.Refusal{
			Reason: handoff.ReasonLimitExceeded, Check: "guard.waiting",
		}})
	}
	if out.Len() > 0 {
		t.Errorf("logged %q", &out)
	}
	if got, want := counts(t, record), "handoff_decisions_total method=/a.B/C outcome=refused reason=LIMIT_EXCEEDED 3"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
}

// counts returns what has been counted, as "method/outcome/reason n".
func counts(t *testing.T, r *Record) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(r); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, metric := range families[0].GetMetric() {
		text := families[0].GetName()
		for _, label := range metric.GetLabel() {
			text += " " + label.GetName() + "=" + label.GetValue()
		}
		all = append(all, fmt.Sprint(text, " ", metric.GetCounter().GetValue()))
	}
	return strings.Join(all, "; ")
}

// The names of a decision's line are those that OPERATING.md lists, and each of them is
// written.
func TestLinesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `handoff` \\|([^|]*)\\|([^|]*)\\|$").FindStringSubmatch(string(text))
	if row == nil {
		t.Fatal("OPERATING.md has no row for the line")
	}
	var out bytes.Buffer
	New(&out).Observe(t.Context(), handoffgrpc.Event{
		Method: "/a.B/C", Issuer: "i", Subject: "s", ID: "h", Actor: "c",
		Refusal: &handoff.Refusal{Reason: handoff.ReasonStoreUnavailable, Check: "redeem", Detail: "d", Err: errors.New("cause")},
	})
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{}
	for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1]+row[2], -1) {
		want[name[1]] = line[name[1]]
	}
	for _, name := range []string{"time", "level", "msg"} {
		delete(line, name)
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Error(diff)
	}
}
