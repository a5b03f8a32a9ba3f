// Package audit tells the log of each decision: one line for every handoff and visit that
// was issued, refused or taken back and for every session that began, ended or was
// refused, written before its caller is answered, and one count.
//
//	record := audit.New(stderr)
//	record.Issued(ctx, claims)
//	record.Refused(ctx, audit.Handoff{Subject: user.ID}, err)
//
// # Invariants
//
// A line says who, what, by which handoff, and the outcome, at any level of
// the log. Of refusals that are equal few have a line, as strangers can have as many as
// they like; the counts have all. It never contains a token, a session id, a password, or text that a
// stranger chose. The labels of the counts are closed sets: the policy's methods,
// the outcomes and the reasons.
//
// # What it does not do
//
// It is not what a promise rests on: what was issued is in the database, by the
// same handoff id, before these lines are written.
package audit

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/tracing"
)

// Record is where the decisions go. It is safe for concurrent use.
type Record struct {
	log         *slog.Logger
	handoffs    *prometheus.CounterVec
	visits      *prometheus.CounterVec
	revocations *prometheus.CounterVec
	sessions    *prometheus.CounterVec
}

// New returns a record that writes JSON, an object a line, to w.
func New(w io.Writer) *Record {
	return &Record{
		log: slog.New(serving.Sampled(slog.NewJSONHandler(w, nil))),
		handoffs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_issues_total",
			Help: "Handoffs asked for, by method, outcome (issued, refused) and, where it was refused, reason.",
		}, []string{"method", "outcome", "reason"}),
		visits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_visits_total",
			Help: "Visits asked for, by outcome (issued, refused) and, where one was refused, reason.",
		}, []string{"outcome", "reason"}),
		revocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_revocations_total",
			Help: "Handoffs that their users wanted taken back, by outcome (revoked, refused) and, where it was refused, reason.",
		}, []string{"outcome", "reason"}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_sessions_total",
			Help: "Sessions that began or ended, by outcome (signed_in, signed_out, signed_out_everywhere, password_changed, refused) and, where it was refused, reason.",
		}, []string{"outcome", "reason"}),
	}
}

// Collectors returns the counts.
func (r *Record) Collectors() []prometheus.Collector {
	return []prometheus.Collector{r.handoffs, r.visits, r.revocations, r.sessions}
}

// Expect has each series begin at 0, so that the first refusal is an increase: those of
// the methods that the policy has, and those that have none.
func (r *Record) Expect(methods ...string) {
	for _, method := range methods {
		r.handoffs.WithLabelValues(method, "issued", "")
	}
	r.visits.WithLabelValues("issued", "")
	r.revocations.WithLabelValues("revoked", "")
	for _, outcome := range []string{"signed_in", "signed_out", "signed_out_everywhere", "password_changed"} {
		r.sessions.WithLabelValues(outcome, "")
	}
	for _, reason := range handoff.Reasons() {
		for _, method := range append(methods, "") {
			r.handoffs.WithLabelValues(method, "refused", reason.String())
		}
		for _, counts := range []*prometheus.CounterVec{r.visits, r.revocations, r.sessions} {
			counts.WithLabelValues("refused", reason.String())
		}
	}
}

// Handoff is what a handoff was asked for. Audience and Method are empty unless
// the policy has them.
type Handoff struct {
	Subject, Audience, Method string
	Actor                     string // the client that acts for the subject
}

// Issued records a handoff that is about to be handed out.
func (r *Record) Issued(ctx context.Context, claims *handoff.Claims) {
	r.handoffs.WithLabelValues(claims.Method, "issued", "").Inc()
	tracing.Handoff(ctx, claims.ID)
	r.log.InfoContext(ctx, "handoff", append([]any{
		"outcome", "issued", "subject", claims.Subject, "audience", claims.Audience,
		"method", claims.Method, "handoff_id", claims.ID, "expires", claims.Expires,
	}, actor(claims.Actor)...)...)
}

// Refused records a handoff that was not issued.
func (r *Record) Refused(ctx context.Context, h Handoff, err error) {
	reason := handoff.ReasonOf(err).String()
	r.handoffs.WithLabelValues(h.Method, "refused", reason).Inc()
	r.log.WarnContext(ctx, "handoff", append([]any{
		"outcome", "refused", "subject", h.Subject, "audience", h.Audience, "method", h.Method, "reason", reason,
	}, actor(h.Actor)...)...)
}

// actor names the client that acts for a line's subject, where one does.
func actor(id string) []any {
	if id == "" {
		return nil
	}
	return []any{"actor", id}
}

// Granted records a user who has let a client act for them, and Withdrawn one who no
// longer does. err is why that failed, or nil.
func (r *Record) Granted(ctx context.Context, subject, client string, err error) {
	r.grant(ctx, "granted", subject, client, err)
}

// Withdrawn is Granted's other half.
func (r *Record) Withdrawn(ctx context.Context, subject string, err error) {
	r.grant(ctx, "withdrawn", subject, "", err)
}

func (r *Record) grant(ctx context.Context, outcome, subject, client string, err error) {
	attributes := append([]any{"outcome", outcome, "subject", subject}, actor(client)...)
	if err != nil {
		attributes = []any{"outcome", "refused", "subject", subject, "reason", handoff.ReasonOf(err).String()}
		r.log.WarnContext(ctx, "grant", attributes...)
		return
	}
	r.log.InfoContext(ctx, "grant", attributes...)
}

// ClientRefused records a client that was not let in, with the check that refused it.
// subject is empty unless the assertion names a client's key.
func (r *Record) ClientRefused(ctx context.Context, subject string, err error) {
	reason, check := handoff.ReasonOf(err).String(), ""
	if refusal, ok := errors.AsType[*handoff.Refusal](err); ok {
		check = string(refusal.Check)
	}
	r.handoffs.WithLabelValues("", "refused", reason).Inc()
	r.log.WarnContext(ctx, "client", "outcome", "refused", "subject", subject, "reason", reason, "check", check)
}

// VisitIssued records a visit that is about to be handed out.
func (r *Record) VisitIssued(ctx context.Context, claims *handoff.Claims) {
	r.visits.WithLabelValues("issued", "").Inc()
	r.log.InfoContext(ctx, "visit", "outcome", "issued", "subject", claims.Subject, "audience", claims.Audience,
		"methods", claims.Methods, "visit_id", claims.ID, "expires", claims.Expires)
}

// VisitRefused records a visit that was not issued. Audience is empty unless the policy
// has it.
func (r *Record) VisitRefused(ctx context.Context, subject, audience string, err error) {
	reason := handoff.ReasonOf(err).String()
	r.visits.WithLabelValues("refused", reason).Inc()
	r.log.WarnContext(ctx, "visit", "outcome", "refused", "subject", subject, "audience", audience, "reason", reason)
}

// Revoked records a handoff that its user has taken back.
func (r *Record) Revoked(ctx context.Context, subject, handoffID string) {
	r.revocations.WithLabelValues("revoked", "").Inc()
	tracing.Handoff(ctx, handoffID)
	r.log.InfoContext(ctx, "revocation", "outcome", "revoked", "subject", subject, "handoff_id", handoffID)
}

// RevokeRefused records a handoff that a user could not take back. Which one it
// was to be is the user's text, and not repeated.
func (r *Record) RevokeRefused(ctx context.Context, subject string, err error) {
	reason := handoff.ReasonOf(err).String()
	r.revocations.WithLabelValues("refused", reason).Inc()
	r.log.WarnContext(ctx, "revocation", "outcome", "refused", "subject", subject, "reason", reason)
}

// SignedIn records a session that has begun.
func (r *Record) SignedIn(ctx context.Context, subject, network string) {
	r.sessions.WithLabelValues("signed_in", "").Inc()
	r.log.InfoContext(ctx, "session", "outcome", "signed_in", "subject", subject, "network", network)
}

// SignedOut records a session that has ended.
func (r *Record) SignedOut(ctx context.Context, subject string) {
	r.sessions.WithLabelValues("signed_out", "").Inc()
	r.log.InfoContext(ctx, "session", "outcome", "signed_out", "subject", subject)
}

// SignedOutEverywhere records a user whose sessions have all ended.
func (r *Record) SignedOutEverywhere(ctx context.Context, subject string) {
	r.sessions.WithLabelValues("signed_out_everywhere", "").Inc()
	r.log.InfoContext(ctx, "session", "outcome", "signed_out_everywhere", "subject", subject)
}

// PasswordChanged records a user who has another password and one session left.
func (r *Record) PasswordChanged(ctx context.Context, subject string) {
	r.sessions.WithLabelValues("password_changed", "").Inc()
	r.log.InfoContext(ctx, "session", "outcome", "password_changed", "subject", subject)
}

// SignInRefused records an attempt to sign in, or to change a password. subject
// is empty unless there is such a user.
func (r *Record) SignInRefused(ctx context.Context, subject, network string, err error) {
	reason := handoff.ReasonOf(err).String()
	r.sessions.WithLabelValues("refused", reason).Inc()
	r.log.WarnContext(ctx, "session", "outcome", "refused", "subject", subject, "network", network, "reason", reason)
}
