// Package audit records every decision of the guard: one line in the log for
// each redemption, refusal and ended stream, written before its caller is
// answered, and one count.
//
//	record := audit.New(stderr)
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Observe: record.Observe})
//
// # Invariants
//
// A line says who, what, by which handoff, and the outcome; it never contains a
// token. It is written whatever the log's level. The labels of the count are
// closed sets: the server's methods, three outcomes and the reasons. A call that
// was shed unseen is counted and has no line: there would be as many of those as
// an attacker likes, for less than a line costs.
package audit

import (
	"context"
	"io"
	"log/slog"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// Outcomes of a decision.
const (
	redeemed = "redeemed" // the handler runs
	refused  = "refused"  // it does not
	ended    = "ended"    // it ran, and its stream was cut off
)

// Record is where the decisions go. It is safe for concurrent use.
type Record struct {
	log       *slog.Logger
	decisions *prometheus.CounterVec
}

// New returns a record that writes JSON, an object a line, to w.
func New(w io.Writer) *Record {
	return &Record{
		log: slog.New(slog.NewJSONHandler(w, nil)),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_decisions_total",
			Help: "Decisions of the guard, by method, outcome (redeemed, refused, ended) and, where it refused, reason.",
		}, []string{"method", "outcome", "reason"}),
	}
}

// Collector returns the count.
func (r *Record) Collector() prometheus.Collector { return r.decisions }

// Observe records one decision. It is handoffgrpc.Config.Observe.
func (r *Record) Observe(ctx context.Context, e handoffgrpc.Event) {
	if e.Refusal != nil && e.Refusal.Check == handoffgrpc.CheckGuardWaiting {
		r.decisions.WithLabelValues(e.Method, refused, e.Refusal.Reason.String()).Inc()
		return
	}
	outcome, reason, level := redeemed, "", slog.LevelInfo
	attributes := []slog.Attr{slog.String("method", e.Method)}
	if e.ID != "" { // else nothing of the token is known to be true
		attributes = append(attributes,
			slog.String("issuer", e.Issuer), slog.String("subject", e.Subject), slog.String("handoff_id", e.ID))
		logging.AddFields(ctx, logging.Fields{"handoff_id", e.ID}) // to the line that says how the call ended
	}
	if e.Refusal != nil {
		outcome, reason, level = refused, e.Refusal.Reason.String(), slog.LevelWarn
		if e.Grant != nil {
			outcome = ended
		}
		attributes = append(attributes, slog.String("reason", reason), slog.String("check", string(e.Refusal.Check)))
		if e.Refusal.Detail != "" {
			attributes = append(attributes, slog.String("detail", e.Refusal.Detail))
		}
		if e.Refusal.Err != nil {
			attributes = append(attributes, slog.String("cause", e.Refusal.Err.Error()))
		}
	}
	r.decisions.WithLabelValues(e.Method, outcome, reason).Inc()
	r.log.LogAttrs(ctx, level, "handoff", append([]slog.Attr{slog.String("outcome", outcome)}, attributes...)...)
}
