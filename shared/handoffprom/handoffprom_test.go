package handoffprom_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handoffprom"
)

// gather returns each sample as "name label=value … n".
func gather(t *testing.T, all ...prometheus.Collector) (lines []string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(all...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			text := family.GetName()
			for _, label := range metric.GetLabel() {
				text += " " + label.GetName() + "=" + label.GetValue()
			}
			lines = append(lines, fmt.Sprint(text, " ", metric.GetCounter().GetValue()+metric.GetGauge().GetValue()))
		}
	}
	return lines
}

// H09: all that a guard decides has its series before it is decided, and no decision
// makes another.
func TestH09EverySeriesIsExpected(t *testing.T) {
	t.Parallel()
	const method = "/a.B/C"
	d := handoffprom.NewDecisions()
	d.Expect(method)
	before := gather(t, d)
	for _, line := range before {
		if !strings.HasSuffix(line, " 0") {
			t.Errorf("it begins with %s", line)
		}
	}
	grant := new(handoff.Grant)
	observe := func(e handoffgrpc.Event) { e.Method = method; d.Observe(context.Background(), e) }
	observe(handoffgrpc.Event{Grant: grant})
	observe(handoffgrpc.Event{Answered: true, Refusal: &handoff.Refusal{Reason: handoff.ReasonTokenReplayed}})
	observe(handoffgrpc.Event{Refusal: &handoff.Refusal{Reason: handoff.ReasonStoreUnavailable}})
	observe(handoffgrpc.Event{Grant: grant, Refusal: &handoff.Refusal{Reason: handoff.ReasonTokenRevoked}})
	d.Shed(context.Background())
	after := gather(t, d)
	if len(after) != len(before) {
		t.Errorf("from %d to %d series", len(before), len(after))
	}
	after = slices.DeleteFunc(after, func(line string) bool { return strings.HasSuffix(line, " 0") })
	want := []string{
		"handoff_decisions_total method= outcome=refused reason=LIMIT_EXCEEDED 1",
		"handoff_decisions_total method=/a.B/C outcome=answered reason=TOKEN_REPLAYED 1",
		"handoff_decisions_total method=/a.B/C outcome=ended reason=TOKEN_REVOKED 1",
		"handoff_decisions_total method=/a.B/C outcome=redeemed reason= 1",
		"handoff_decisions_total method=/a.B/C outcome=refused reason=STORE_UNAVAILABLE 1",
	}
	if !slices.Equal(after, want) {
		t.Errorf("counted %q, want %q", after, want)
	}
}

func TestRedemptions(t *testing.T) {
	t.Parallel()
	if got := gather(t, handoffprom.Redemptions(func() int { return 7 })); !slices.Equal(got, []string{"handoff_redemptions_live 7"}) {
		t.Errorf("got %q", got)
	}
}
