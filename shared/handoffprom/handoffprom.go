// Package handoffprom has Prometheus metrics for a service that takes handoffs. It is a
// package of its own so that nobody else links Prometheus.
//
//	decisions := handoffprom.NewDecisions()
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Observe: decisions.Observe})
//	billingv1.RegisterBillingServer(guard.On(s), impl)
//	err = guard.Check(s)
//	decisions.Expect(guard.Methods()...)
//	prometheus.MustRegister(decisions, handoffprom.TrustList(follower), handoffprom.Redemptions(memory.Live))
//
// # Series
//
//	handoff_decisions_total{method,outcome,reason}  what the guard has decided
//	handoff_trust_list_age_seconds                  age of the trust list in force
//	handoff_trust_list_entries                      what that list takes back
//	handoff_redemptions_live                        redemptions that are remembered now
//
// # Invariants
//
// Labels are closed sets: the methods that Check has seen, four outcomes and the reasons.
// Nothing that a caller sends makes a series. After Expect each series is there before
// its first use, so that an alert sees the first refusal as an increase.
package handoffprom

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/trust"
)

// Outcomes of a decision.
const (
	Redeemed = "redeemed" // the handler runs
	Answered = "answered" // it ran before, and the caller is given its answer again
	Refused  = "refused"  // it does not run
	Ended    = "ended"    // it ran, and its stream was cut off
)

// OutcomeOf names the outcome of a decision.
func OutcomeOf(e handoffgrpc.Event) string {
	switch {
	case e.Refusal == nil:
		return Redeemed
	case e.Grant != nil:
		return Ended
	case e.Answered:
		return Answered
	}
	return Refused
}

// Decisions counts what a guard decides. It is safe for concurrent use.
type Decisions struct{ total *prometheus.CounterVec }

// NewDecisions returns a collector to register once.
func NewDecisions() *Decisions {
	return &Decisions{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "handoff_decisions_total",
		Help: "Decisions of the guard, by method, outcome (redeemed, answered, refused, ended) and, unless it redeemed, reason.",
	}, []string{"method", "outcome", "reason"})}
}

// Describe makes it a prometheus.Collector.
func (d *Decisions) Describe(to chan<- *prometheus.Desc) { d.total.Describe(to) }

// Collect makes it a prometheus.Collector.
func (d *Decisions) Collect(to chan<- prometheus.Metric) { d.total.Collect(to) }

// Observe counts one decision. It is for handoffgrpc.Config.Observe.
func (d *Decisions) Observe(_ context.Context, e handoffgrpc.Event) {
	reason := ""
	if e.Refusal != nil {
		reason = e.Refusal.Reason.String()
	}
	d.total.WithLabelValues(e.Method, OutcomeOf(e), reason).Inc()
}

// Shed counts a call that was refused before the guard has seen it, whose method is
// not known. It is for overload.Config.Shed.
func (d *Decisions) Shed(context.Context) {
	d.total.WithLabelValues("", Refused, handoff.ReasonLimitExceeded.String()).Inc()
}

// ofIssuers are the reasons that no guard gives.
var ofIssuers = []handoff.Reason{
	handoff.ReasonSessionInvalid, handoff.ReasonPolicyDenied, handoff.ReasonArgumentInvalid,
	handoff.ReasonIssuerUnavailable, handoff.ReasonClientInvalid,
}

// whileOpen are the reasons for which an open stream is ended.
var whileOpen = []handoff.Reason{
	handoff.ReasonTokenExpired, handoff.ReasonTokenRevoked, handoff.ReasonTokenInvalid, handoff.ReasonTrustStale,
}

// Expect makes the series of the methods, from 0. They are what Guard.Methods returns.
func (d *Decisions) Expect(methods ...string) {
	d.total.WithLabelValues("", Refused, handoff.ReasonLimitExceeded.String())
	for _, method := range methods {
		d.total.WithLabelValues(method, Redeemed, "")
		d.total.WithLabelValues(method, Answered, handoff.ReasonTokenReplayed.String())
		for _, reason := range handoff.Reasons() {
			if !slices.Contains(ofIssuers, reason) {
				d.total.WithLabelValues(method, Refused, reason.String())
			}
		}
		for _, reason := range whileOpen {
			d.total.WithLabelValues(method, Ended, reason.String())
		}
	}
}

// TrustList says how old the list in force is, and how long.
func TrustList(follower *trust.Follower) prometheus.Collector {
	return collectors{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_age_seconds", Help: "Age of the trust list in force; infinite where there has been none.",
		}, func() float64 {
			if s := follower.Status(); s.Seq != 0 {
				return time.Since(s.IssuedAt).Seconds()
			}
			return math.Inf(1)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "handoff_trust_list_entries", Help: "What the trust list in force takes back: tokens, sessions and users.",
		}, func() float64 { return float64(follower.Status().Entries) }),
	}
}

// Redemptions says how many are remembered, by the store's method Live.
func Redemptions(live func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "handoff_redemptions_live", Help: "Redemptions that are remembered now.",
	}, func() float64 { return float64(live()) })
}

// collectors are several as one.
type collectors []prometheus.Collector

func (all collectors) Describe(to chan<- *prometheus.Desc) {
	for _, one := range all {
		one.Describe(to)
	}
}

func (all collectors) Collect(to chan<- prometheus.Metric) {
	for _, one := range all {
		one.Collect(to)
	}
}
