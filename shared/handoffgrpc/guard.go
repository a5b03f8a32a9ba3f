package handoffgrpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

// Config says how a server is guarded.
type Config struct {
	// Verifier verifies and redeems the tokens. Required.
	Verifier *handoff.Verifier
	// Exempt names what runs without a token: health, reflection, and methods
	// that are authorized otherwise. An entry is a full method name,
	// "/billing.v1.Billing/Ping", or all of a service, "/grpc.health.v1.Health/".
	// An entry that the server does not have, or that has a rule, fails Check.
	Exempt []string
	// Rules has the rules of the methods that are linked into the program, with those of
	// an overlay for a .proto that is not one's own: see rule.Set.Overlay. Nil: the rules
	// that the methods carry.
	Rules *rule.Set
	// TLS is that of the server, the very value of which its transport credentials were
	// made. It is looked at only by Check, which fails where a method's rule takes only
	// tokens that are bound to a client certificate and TLS asks clients for none
	// (ClientAuth), or is nil: every call would be refused. What GetConfigForClient
	// returns, where it is set, must ask as well.
	TLS *tls.Config
	// Metadata is where the token of a call is: "authorization", as `Bearer TOKEN`; or
	// "handoff-token", as it is, for a service that uses authorization for something
	// else. Only the one is read. Empty: authorization.
	Metadata string
	// Deferred names the unary methods whose handlers redeem the token themselves, in
	// the transaction of their effect, so that both are kept or neither is: see the
	// Begin of package sqlreplay. Such a handler finds no grant in its context. What
	// it answers is given to nobody unless it has kept a redemption. The verifier's
	// own store is not asked. A method that the server does not have, or whose tokens
	// are reusable, fails Check.
	Deferred []string
	// Observe, if set, is told of each decision, for audit and metrics. See Event.
	Observe func(context.Context, Event)
	// Outcome, if set, is asked what became of a handoff whose token comes again:
	// one that is genuine, unexpired and not taken back, with the very request that
	// it names. The response that it returns is the caller's answer, and nothing runs
	// again. A service that records Grant.ID in the transaction of its effect has it
	// there, and so can tell a caller who has lost the first answer. Where it returns
	// nil, an error (for Observe), or what is no response of Grant.Method, the call
	// is refused with TOKEN_REPLAYED. It is never asked for a streaming method. It is
	// called in the call's own goroutine, inside the interceptors.
	Outcome func(context.Context, *handoff.Grant) (proto.Message, error)
	// Admit, if set, is asked for a turn before a token is verified, which keeps a
	// processor busy. It may wait. done, which ends the turn, is called once. On an
	// error the call is refused with LIMIT_EXCEEDED, and nothing of its token is
	// looked at. See Shedder.Admit in package overload.
	Admit func(context.Context) (done func(), err error)
}

// Event is one decision of a guard. There is one for each guarded call: before
// its handler runs, or as it is refused. A stream that is ended while it is open
// has a second one, once its handler has returned, with both Grant and Refusal. Of a
// method in Config.Deferred, the first one comes as the handler redeems; and there is a
// second one where it has not kept that.
//
// Observe is called in the call's own goroutine, and holds the call up. If it
// panics the handler does not run, and the panic is the server's to recover as
// if it were the handler's. No event contains a token.
type Event struct {
	// Method is the full method name; empty for one that Check has not seen, so
	// that it can be a metric's label.
	Method string
	// Issuer, Subject and ID are the token's iss, sub and jti once the issuer
	// is known to vouch for them; empty before.
	Issuer, Subject, ID string
	// Actor is the API client that acts for the subject, where one does (act.sub).
	Actor string
	// Grant is what the call runs with; nil if it does not run.
	Grant *handoff.Grant
	// Answered is true where Config.Outcome has answered the call in place of a
	// refusal, which is TOKEN_REPLAYED.
	Answered bool
	// Refusal is why the call does not run, or was ended; nil if it runs. Its
	// Check, Detail and Err are not for the caller.
	Refusal *handoff.Refusal
}

// Guard lets a call through to its handler with a grant, or refuses it. One Guard
// serves one *grpc.Server. It is safe for concurrent use.
type Guard struct {
	config  Config
	place   place
	plan    atomic.Pointer[plan] // nil until Check succeeds
	guarded sync.Map             // holds a registration for each service that On has registered
}

// NewGuard returns a guard that refuses every call until Check has succeeded, or
// an error that names the field of config that it refuses.
func NewGuard(config Config) (*Guard, error) {
	if config.Verifier == nil {
		return nil, &handoff.ConfigError{Field: "handoffgrpc.Config.Verifier", Problem: "is required"}
	}
	if key := config.Metadata; key != "" && key != authorization && key != handoffToken {
		return nil, &handoff.ConfigError{Field: "handoffgrpc.Config.Metadata", Problem: `must be "authorization" or "handoff-token"`}
	}
	for _, entry := range config.Exempt {
		service, _, ok := strings.Cut(strings.TrimPrefix(entry, "/"), "/")
		if !ok || service == "" || entry[0] != '/' || strings.Count(entry, "/") != 2 {
			return nil, &handoff.ConfigError{
				Field:   "handoffgrpc.Config.Exempt",
				Problem: fmt.Sprintf(`has %q, which is neither a method such as "/pkg.Service/Method" nor a service such as "/pkg.Service/"`, entry),
			}
		}
	}
	config.Exempt, config.Deferred = slices.Clone(config.Exempt), slices.Clone(config.Deferred)
	config.Rules = cmp.Or(config.Rules, rule.Linked())
	return &Guard{config: config, place: newPlace(cmp.Or(config.Metadata, authorization))}, nil
}

// call is one call on its way to a grant.
type call struct {
	guard    *Guard
	method   *method // nil if Check has not seen it
	verified *handoff.Verified
}

// isExempt reports whether the call needs no token. Of one that Check has not
// seen it is false.
func (c *call) isExempt() bool { return c.method != nil && c.method.exempt }

// admit is the part of the check that needs no request: the method is planned,
// and the token is authentic and current. Its error is one for refuse.
func (c *call) admit(ctx context.Context) error {
	if c.method == nil {
		detail := "Guard.Check has not seen the method"
		if c.guard.plan.Load() == nil {
			detail = "Guard.Check has not been called, or has failed: until it succeeds every call is refused"
		}
		return &handoff.Refusal{Reason: handoff.ReasonRuleMissing, Check: "guard.rule", Detail: detail}
	}
	if c.method.exempt {
		return nil
	}
	var err error
	c.verified, err = c.guard.verify(ctx)
	return err
}

// verify verifies the token of an incoming call, when its turn comes.
func (g *Guard) verify(ctx context.Context) (*handoff.Verified, error) {
	if g.config.Admit != nil {
		done, err := g.config.Admit(ctx)
		if err != nil {
			return nil, &handoff.Refusal{Reason: handoff.ReasonLimitExceeded, Check: "guard.waiting", Err: err}
		}
		defer done()
	}
	raw, err := g.place.token(ctx)
	if err != nil {
		return nil, err
	}
	return g.config.Verifier.VerifyAny(ctx, raw, PeerCertificate(ctx)) // the method's rule says which kind it takes
}

// redeem is the rest of the check: the token names this request, and is spent on
// it. Its error is one for refuse.
func (c *call) redeem(ctx context.Context, req any) (*handoff.Grant, error) {
	op, err := c.operation(req)
	if err != nil {
		return nil, err
	}
	grant, err := c.guard.config.Verifier.Redeem(ctx, c.verified, op, c.method.rule)
	if err == nil {
		c.observe(ctx, Event{Grant: grant})
	}
	return grant, err
}

// operation is what the request asks for, if the token is for its method at all.
func (c *call) operation(req any) (op handoff.Operation, err error) {
	message, ok := req.(proto.Message)
	if !ok {
		return op, misused("the request is not a protobuf message")
	}
	if !c.verified.For(c.method.name) {
		// A token for another method buys nobody the work of naming a large request.
		return op, c.verified.Allows(handoff.Operation{Method: c.method.name}, c.method.rule)
	}
	return c.method.binding.Operation(message)
}

// refuse reports the refusal that err is, and returns the caller's status. It
// panics if err is a panic that begin has kept.
func (c *call) refuse(ctx context.Context, err error) error {
	if kept, ok := err.(*panicked); ok {
		panic(kept)
	}
	refusal := refusalOf(err)
	c.observe(ctx, Event{Refusal: refusal})
	if refusal.Check == "guard.rule" && c.guard.plan.Load() == nil {
		return c.guard.place.unchecked.Err() // a mistake in the program, whose author is the caller
	}
	return c.guard.place.statusOf(refusal).Err()
}

// refusalOf returns the refusal in err's chain. What is none differs from what
// was expected in a way that no reason names better than this one.
func refusalOf(err error) *handoff.Refusal {
	if refusal, ok := errors.AsType[*handoff.Refusal](err); ok {
		return refusal
	}
	return &handoff.Refusal{Reason: handoff.ReasonRequestUnbindable, Check: "guard.request", Err: err}
}

// observe completes the event and tells it.
func (c *call) observe(ctx context.Context, event Event) {
	if c.guard.config.Observe == nil {
		return
	}
	if c.method != nil {
		event.Method = c.method.name
	}
	switch {
	case c.verified != nil:
		claims := c.verified.Claims()
		event.Issuer, event.Subject, event.ID, event.Actor = claims.Issuer, claims.Subject, claims.ID, claims.Actor
	case event.Refusal != nil && event.Refusal.Claims != nil: // authentic, and refused all the same
		claims := event.Refusal.Claims
		event.Issuer, event.Subject, event.ID, event.Actor = claims.Issuer, claims.Subject, claims.ID, claims.Actor
	}
	c.guard.config.Observe(ctx, event)
}
