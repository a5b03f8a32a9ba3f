package handoff

import (
	"context"
	"errors"
	"sync"
)

// Deferred is a call whose handler redeems the token itself, in the transaction of
// its effect: either both are kept or neither is. The token was verified and names the
// operation, but nothing is spent, so the handler has no Grant yet. It gets one from
// a store that redeems in transactions, such as the Begin of package sqlreplay.
//
// A store calls Redeem when its transaction has begun, and Settle when that has
// ended. Who runs the handler calls Close when the handler has returned, and gives no
// answer of a handler that has kept no redemption. A Deferred is safe for concurrent use.
type Deferred struct {
	verified *Verified
	op       Operation
	rule     Rule
	redeemed func(*Grant)

	mu      sync.Mutex
	state   deferredState
	refusal *Refusal // the last one of Redeem
}

type deferredState int

const (
	deferredWaiting deferredState = iota // not redeemed, or rolled back
	deferredOpen                         // redeemed in a transaction that is open
	deferredKept                         // redeemed in one that is committed
	deferredClosed                       // the handler has returned without
)

// Defer makes the checks of Redeem and leaves the redemption to the handler. redeemed,
// if it is not nil, is told of each grant before the handler gets it. A reusable token
// has no redemption, and cannot be deferred. The error is a *Refusal.
func (v *Verifier) Defer(ctx context.Context, verified *Verified, op Operation, rule Rule, redeemed func(*Grant)) (*Deferred, error) {
	if verified == nil || verified.verifier != v {
		return nil, &Refusal{Reason: ReasonTokenInvalid, Check: "redeem", Detail: "not verified by this verifier"}
	}
	if rule.Reusable {
		return nil, &Refusal{Reason: ReasonRuleMissing, Check: "redeem.deferred", Detail: "a reusable token is never redeemed, so its redemption cannot be deferred"}
	}
	if err := v.check(ctx, verified, op, rule); err != nil {
		return nil, withClaims(err, verified.claims)
	}
	return &Deferred{verified: verified, op: op, rule: rule, redeemed: redeemed}, nil
}

// Redeem has spend record the redemption in a transaction, and returns the grant. It
// is the last check, made again, as time has passed. spend answers as Store.Redeem does.
// The error is a *Refusal; after it, the transaction must be rolled back.
//
// A transaction that is rolled back can be tried again, with another Redeem.
func (d *Deferred) Redeem(ctx context.Context, spend func(context.Context, Redemption) error) (*Grant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.state {
	case deferredWaiting:
	case deferredClosed:
		return nil, d.refused(misplaced("the handler has returned"))
	default:
		return nil, d.refused(misplaced("this call's token is redeemed already"))
	}
	v := d.verified.verifier
	if err := v.check(ctx, d.verified, d.op, d.rule); err != nil {
		return nil, d.refused(err)
	}
	grant := v.grant(d.verified, d.op, d.rule)
	if err := refusalOfStore(spend(ctx, v.redemption(d.verified))); err != nil {
		return nil, d.refused(spentOn(err, grant))
	}
	if d.redeemed != nil {
		d.redeemed(grant)
	}
	d.state, d.refusal = deferredOpen, nil
	return grant, nil
}

// refused keeps a refusal, for Close.
func (d *Deferred) refused(err error) error {
	err = withClaims(err, d.verified.claims)
	errors.As(err, &d.refusal)
	return err
}

func misplaced(detail string) error {
	return &Refusal{Reason: ReasonStoreUnavailable, Check: "redeem.deferred", Detail: detail}
}

// Settle says how the transaction has ended in which Redeem has succeeded: kept, or
// else undone or in doubt.
func (d *Deferred) Settle(kept bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != deferredOpen {
		return
	}
	d.state = deferredWaiting
	if kept {
		d.state = deferredKept
	}
}

// Open reports whether the transaction in which Redeem has succeeded may be
// committed: it has not ended, and the handler has not returned.
func (d *Deferred) Open() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state == deferredOpen
}

// Close ends the call's right to redeem. It returns whether a redemption was kept,
// and if not, the last refusal of Redeem, or nil where there was none.
func (d *Deferred) Close() (kept bool, refusal *Refusal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == deferredKept {
		return true, nil
	}
	d.state = deferredClosed
	return false, d.refusal
}

type deferredKey struct{}

// Context returns a context that carries d to the handler, and no grant.
func (d *Deferred) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, deferredKey{}, d)
}

// DeferredFrom returns what the handler of a call is to redeem itself. It is false
// where there is nothing: the token is spent already, or there is none.
func DeferredFrom(ctx context.Context) (*Deferred, bool) {
	d, ok := ctx.Value(deferredKey{}).(*Deferred)
	return d, ok && d != nil
}
