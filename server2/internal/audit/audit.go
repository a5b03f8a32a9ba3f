// Package audit records every decision of the guard: one line in the log for
// each redemption, repeated answer, refusal and ended stream, written before its
// caller is answered, and one count.
//
//	record := audit.New(stderr)
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Observe: record.Observe})
//
// # Invariants
//
// A line says who, what, by which handoff, and the outcome; it never contains a
// token. It is written at any log level; of refusals that are equal few are,
// as strangers can have as many as they like, and of what one user does by reusable tokens;
// the count has all. The labels of the
// count are closed sets: the server's methods, four outcomes and the reasons. A call that
// was shed unseen is counted and has no line: there would be as many of those as
// an attacker likes, for less than a line costs.
package audit

import (
	"context"
	"io"
	"log/slog"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handoffprom"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/tracing"
)

// Record is where the decisions go: the log, and the count, which it is the collector of.
// It is safe for concurrent use.
type Record struct {
	*handoffprom.Decisions
	log *slog.Logger
}

// New returns a record that writes JSON, an object a line, to w.
func New(w io.Writer) *Record {
	return &Record{handoffprom.NewDecisions(), slog.New(serving.Sampled(slog.NewJSONHandler(w, nil)))}
}

// Observe records one decision. It is handoffgrpc.Config.Observe.
func (r *Record) Observe(ctx context.Context, e handoffgrpc.Event) {
	r.Decisions.Observe(ctx, e)
	if e.Refusal != nil && e.Refusal.Check == "guard.waiting" {
		return
	}
	outcome, level := handoffprom.OutcomeOf(e), slog.LevelInfo
	attributes := []slog.Attr{slog.String("outcome", outcome), slog.String("method", e.Method)}
	if e.ID != "" { // else nothing of the token is known to be true
		attributes = append(attributes,
			slog.String("issuer", e.Issuer), slog.String("subject", e.Subject), slog.String("handoff_id", e.ID))
		if e.Actor != "" {
			attributes = append(attributes, slog.String("actor", e.Actor))
		}
		if e.Grant != nil && e.Refusal == nil && e.Grant.Reusable() {
			attributes = append(attributes, slog.Bool("reusable", true)) // few of a user's are written
		}
		tracing.Handoff(ctx, e.ID)
		logging.AddFields(ctx, logging.Fields{"handoff_id", e.ID}) // to the line that says how the call ended
	}
	if e.Refusal != nil {
		if outcome != handoffprom.Answered {
			level = slog.LevelWarn
		}
		attributes = append(attributes,
			slog.String("reason", e.Refusal.Reason.String()), slog.String("check", string(e.Refusal.Check)))
		if e.Refusal.Detail != "" {
			attributes = append(attributes, slog.String("detail", e.Refusal.Detail))
		}
		if e.Refusal.Err != nil {
			attributes = append(attributes, slog.String("cause", e.Refusal.Err.Error()))
		}
	}
	r.log.LogAttrs(ctx, level, "handoff", attributes...)
}
