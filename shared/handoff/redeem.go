package handoff

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store remembers what has been redeemed. Implementations are safe for
// concurrent use; handofftest.Store is their conformance test.
//
// A store whose memory may be lost in a restart refuses what was issued before
// it began, up to the clock skew that it is set up for. It refuses a Redemption
// with a larger one, and has the method Skew() time.Duration, by which
// NewVerifier refuses it at once when the verifier's is larger.
type Store interface {
	// Redeem records r, atomically. It returns nil for the first call with an
	// issuer and id, and ErrReplayed for every other, as long as a token with
	// them can be accepted anywhere: until Expires plus twice the skew.
	// ErrIssuedBeforeStart and ErrStoreFull refuse for their reasons; any other
	// error means that it is unknown whether r was recorded, and refuses with
	// STORE_UNAVAILABLE.
	Redeem(ctx context.Context, r Redemption) error
}

// Redemption is the spending of one token.
type Redemption struct {
	Issuer   string    // the token's iss
	ID       string    // the token's jti: unique for the issuer alone
	IssuedAt time.Time // the token's iat
	Expires  time.Time // the token's exp
	// Skew is the verifier's: how far ahead of its clock IssuedAt may lie.
	Skew time.Duration
}

// What a Store answers.
var (
	ErrReplayed          = errors.New("redeemed before")
	ErrIssuedBeforeStart = errors.New("issued before the store's memory begins")
	ErrStoreFull         = errors.New("the store is full")
)

// A Grant entitles its holder to the one call that it was made for: a verified
// token that matched its operation and was redeemed. Only Verifier.Redeem makes
// one, and gives it to its caller, or, once the token is spent, to Refusal.Spent. A
// Grant is immutable and safe for concurrent use.
type Grant struct {
	claims   *Claims
	method   string
	key      Key
	reusable bool
	verifier *Verifier
}

// Kind returns what the token is.
func (g *Grant) Kind() Kind { return g.claims.Kind() }

// ID returns the token's id (jti). With the issuer it is unique, and an
// idempotency key for an operation whose token is spent by its first use.
func (g *Grant) ID() string { return g.claims.ID }

// Issuer returns who vouches for the user (iss).
func (g *Grant) Issuer() string { return g.claims.Issuer }

// Subject returns the user's immutable id at the issuer (sub). Only (Issuer,
// Subject) together name a user.
func (g *Grant) Subject() string { return g.claims.Subject }

// Actor returns the immutable id at the issuer of the API client that acts for the
// subject, or nothing where the subject acts. Only a method whose rule says `actors`
// ever sees one. A client that acts for itself is the subject.
func (g *Grant) Actor() string { return g.claims.Actor }

// Method returns the full name of the method that may run.
func (g *Grant) Method() string { return g.method }

// Expires returns when the grant ends, in whole seconds. A stream that is still
// open then is ended.
func (g *Grant) Expires() time.Time { return g.claims.Expires }

// Reusable reports whether the method's rule allows the token another use.
func (g *Grant) Reusable() bool { return g.reusable }

type grantKey struct{}

// NewContext returns a context that carries the grant to a handler.
func NewContext(ctx context.Context, grant *Grant) context.Context {
	return context.WithValue(ctx, grantKey{}, grant)
}

// FromContext returns the grant of the call that a handler serves. It is false
// where there is none: the method is exempt, or the server has no guard.
func FromContext(ctx context.Context) (*Grant, bool) {
	grant, ok := ctx.Value(grantKey{}).(*Grant)
	return grant, ok && grant != nil
}

// Allows checks that the verified token names op, or as a visit its method, and
// keeps to rule, without redeeming it. Redeem makes the same check.
func (v *Verified) Allows(op Operation, rule Rule) error {
	op, err := op.normal()
	if err != nil {
		return &Refusal{Reason: ReasonRequestUnbindable, Check: "operation.bind", Err: err}
	}
	if lifetime := v.claims.Expires.Sub(v.claims.IssuedAt); rule.MaxLifetime != 0 && lifetime > rule.MaxLifetime {
		return &Refusal{
			Reason: ReasonLifetimeTooLong, Check: "redeem.max_lifetime",
			Detail: fmt.Sprintf("the token lives %s; its method accepts %s", lifetime, rule.MaxLifetime),
		}
	}
	visit := v.Kind() == KindVisit
	if visit {
		if err := v.claims.visits(op.Method, rule); err != nil {
			return err
		}
	}
	if rule.Sealed && !v.sealed {
		return &Refusal{
			Reason: ReasonTokenNotSealed, Check: "redeem.sealed",
			Detail: "the method takes sealed tokens, and this one came readable",
		}
	}
	if rule.CertificateBound && v.claims.CertificateSHA256 == "" {
		return &Refusal{
			Reason: ReasonCertificateMismatch, Check: "redeem.certificate_bound",
			Detail: "the method takes tokens that are bound to a client certificate, and this one is bound to none",
		}
	}
	if v.claims.Actor != "" && !rule.Actors {
		return &Refusal{
			Reason: ReasonActorDenied, Check: "redeem.actors",
			Detail: "the token is that of a client that acts for a user, and the method takes users only",
		}
	}
	if visit {
		return nil
	}
	return v.claims.allows(op)
}

// Redeem spends a verified token on the operation that is about to run, and
// returns the grant for it. It is the last check: its one side effect, in the
// store, comes after everything that can refuse. A token whose rule says
// reusable is checked alike and not spent. The error is a *Refusal.
func (v *Verifier) Redeem(ctx context.Context, verified *Verified, op Operation, rule Rule) (*Grant, error) {
	if verified == nil || verified.verifier != v {
		return nil, &Refusal{Reason: ReasonTokenInvalid, Check: "redeem", Detail: "not verified by this verifier"}
	}
	grant := v.grant(verified, op, rule)
	err := v.check(ctx, verified, op, rule)
	if err == nil && !rule.Reusable {
		err = spentOn(refusalOfStore(v.config.Store.Redeem(ctx, v.redemption(verified))), grant)
	}
	if err != nil {
		return nil, withClaims(err, verified.claims)
	}
	return grant, nil
}

// check makes every check but the redemption.
func (v *Verifier) check(ctx context.Context, verified *Verified, op Operation, rule Rule) error {
	if err := verified.Allows(op, rule); err != nil {
		return err
	}
	// Time has passed since Verify: on a stream, as long as the caller took to
	// send its request.
	return v.current(ctx, verified.claims, verified.key)
}

func (v *Verifier) grant(verified *Verified, op Operation, rule Rule) *Grant {
	return &Grant{claims: verified.claims, method: op.Method, key: verified.key, reusable: rule.Reusable, verifier: v}
}

func (v *Verifier) redemption(verified *Verified) Redemption {
	c := verified.claims
	return Redemption{Issuer: c.Issuer, ID: c.ID, IssuedAt: c.IssuedAt, Expires: c.Expires, Skew: v.config.Skew}
}

// refusalOfStore is what a store's answer refuses with, or nil.
func refusalOfStore(err error) error {
	if err == nil {
		return nil
	}
	reason := ReasonStoreUnavailable
	switch {
	case errors.Is(err, ErrReplayed):
		reason = ReasonTokenReplayed
	case errors.Is(err, ErrIssuedBeforeStart):
		reason = ReasonIssuedBeforeStart
	case errors.Is(err, ErrStoreFull):
		reason = ReasonLimitExceeded
	}
	return &Refusal{Reason: reason, Check: "redeem", Err: err}
}

// spentOn has a refusal of a token that is spent carry what it was spent on.
func spentOn(err error, grant *Grant) error {
	if refusal, ok := err.(*Refusal); ok && refusal.Reason == ReasonTokenReplayed {
		refusal.spent = grant
	}
	return err
}
