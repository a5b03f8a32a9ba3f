package handoffgrpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
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
	// Observe, if set, is told of each decision, for audit and metrics. See Event.
	Observe func(context.Context, Event)
	// MaxInFlight is how many tokens may be in verification at once. The others
	// wait for their turn, first come, first served, until their call ends. A
	// check keeps a processor busy, so more at once are no faster. Zero: 16 for
	// each of GOMAXPROCS.
	MaxInFlight int
	// MaxWaiting is how many tokens may wait for verification. A call above it is
	// refused with LIMIT_EXCEEDED before any of its token is looked at. Tap, which
	// refuses it sooner and for less, counts with them the goroutines that wait
	// for a processor, those that verify and those of handlers among them: it
	// should be well above MaxInFlight. With much room calls get old while they wait; with little,
	// calls are refused that could be checked a moment later. Zero: 256 for each
	// of GOMAXPROCS, which is some 20 ms of checks.
	MaxWaiting int
}

// Event is one decision of a guard. There is one for each guarded call: before
// its handler runs, or as it is refused. A stream that is ended while it is open
// has a second one, once its handler has returned, with both Grant and Refusal.
//
// Observe is called in the call's own goroutine, and holds the call up. If it
// panics the handler does not run, and the panic is the server's to recover as
// if it were the handler's, but for a call that Tap refuses. No event contains a token.
type Event struct {
	// Method is the full method name; empty for one that Check has not seen, so
	// that it can be a metric's label.
	Method string
	// Issuer, Subject and ID are the token's iss, sub and jti once the issuer
	// is known to vouch for them; empty before.
	Issuer, Subject, ID string
	// Grant is what the call runs with; nil if it does not run.
	Grant *handoff.Grant
	// Refusal is why the call does not run, or was ended; nil if it runs. Its
	// Check, Detail and Err are not for the caller.
	Refusal *handoff.Refusal
}

// Checks of the guard itself.
const (
	CheckGuardRule    handoff.Check = "guard.rule"    // a method that Check has not seen, or no Check yet
	CheckGuardWaiting handoff.Check = "guard.waiting" // more than MaxWaiting
	CheckGuardRequest handoff.Check = "guard.request" // not one request of the method's type
)

// Guard lets a call through to its handler with a grant, or refuses it. One Guard
// serves one *grpc.Server. It is safe for concurrent use.
type Guard struct {
	verifier *handoff.Verifier
	exempt   []string
	notify   func(context.Context, Event)

	queue *queue
	plan  atomic.Pointer[plan] // nil until Check succeeds
}

// NewGuard returns a guard that refuses every call until Check has succeeded, or
// an error that names the field of config that it refuses.
func NewGuard(config Config) (*Guard, error) {
	if config.Verifier == nil {
		return nil, errors.New("Config.Verifier is required")
	}
	for _, entry := range config.Exempt {
		service, _, ok := strings.Cut(strings.TrimPrefix(entry, "/"), "/")
		if !ok || service == "" || entry[0] != '/' || strings.Count(entry, "/") != 2 {
			return nil, fmt.Errorf(`Config.Exempt: %q is neither a method such as "/pkg.Service/Method" nor a service such as "/pkg.Service/"`, entry)
		}
	}
	if config.MaxInFlight < 0 {
		return nil, errors.New("Config.MaxInFlight is negative")
	}
	if config.MaxWaiting < 0 {
		return nil, errors.New("Config.MaxWaiting is negative")
	}
	processors := runtime.GOMAXPROCS(0)
	return &Guard{
		verifier: config.Verifier,
		exempt:   append([]string(nil), config.Exempt...),
		notify:   config.Observe,
		queue:    newQueue(cmp.Or(config.MaxInFlight, 16*processors), cmp.Or(config.MaxWaiting, 256*processors)),
	}, nil
}

// Unary is a grpc.UnaryServerInterceptor. Chain it last.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if c.method.exempt {
		return handler(ctx, req)
	}
	grant, err := c.redeem(ctx, req)
	if err != nil {
		return nil, err
	}
	return handler(handoff.NewContext(ctx, grant), req)
}

// call is one call on its way to a grant.
type call struct {
	guard    *Guard
	method   *method // nil if Check has not seen it
	verified *handoff.Verified
}

// admit is the part of the check that needs no request: the method is planned,
// and the token is authentic and current. Its error is the caller's status.
func (g *Guard) admit(ctx context.Context, fullMethod string) (call, error) {
	c := call{guard: g, method: g.plan.Load().method(fullMethod)}
	if c.method == nil {
		return c, c.refuse(ctx, &handoff.Refusal{
			Reason: handoff.ReasonRuleMissing, Check: CheckGuardRule, Detail: "Guard.Check has not seen the method",
		})
	}
	if c.method.exempt {
		return c, nil
	}
	var err error
	if c.verified, err = g.verify(ctx); err != nil {
		return c, c.refuse(ctx, err)
	}
	return c, nil
}

// verify verifies the token of an incoming call, when its turn comes.
func (g *Guard) verify(ctx context.Context) (*handoff.Verified, error) {
	if err := g.queue.enter(ctx); err != nil {
		return nil, err
	}
	defer g.queue.leave()
	raw, err := bearer(ctx)
	if err != nil {
		return nil, err
	}
	return g.verifier.Verify(ctx, raw)
}

// redeem is the rest of the check: the token names this request, and is spent on
// it. Its error is the caller's status.
func (c call) redeem(ctx context.Context, req any) (*handoff.Grant, error) {
	message, ok := req.(proto.Message)
	if !ok {
		return nil, c.refuse(ctx, misused("the request is not a protobuf message"))
	}
	if c.verified.Method() != c.method.name {
		// A token for another method buys nobody the work of naming a large request.
		return nil, c.refuse(ctx, c.verified.Allows(handoff.Operation{Method: c.method.name}, c.method.rule))
	}
	op, err := c.method.binding.Operation(message)
	if err != nil {
		return nil, c.refuse(ctx, err)
	}
	grant, err := c.guard.verifier.Redeem(ctx, c.verified, op, c.method.rule)
	if err != nil {
		return nil, c.refuse(ctx, err)
	}
	c.observe(ctx, grant, nil)
	return grant, nil
}

// refuse reports the refusal that err is, and returns the caller's status.
func (c call) refuse(ctx context.Context, err error) error {
	refusal := refusalOf(err)
	c.observe(ctx, nil, refusal)
	return StatusOf(refusal).Err()
}

// refusalOf returns the refusal in err's chain. What is none differs from what
// was expected in a way that no reason names better than this one.
func refusalOf(err error) *handoff.Refusal {
	var refusal *handoff.Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	return &handoff.Refusal{Reason: handoff.ReasonRequestUnbindable, Check: CheckGuardRequest, Err: err}
}

func (c call) observe(ctx context.Context, grant *handoff.Grant, refusal *handoff.Refusal) {
	if c.guard.notify == nil {
		return
	}
	event := Event{Grant: grant, Refusal: refusal}
	if c.method != nil {
		event.Method = c.method.name
	}
	switch {
	case c.verified != nil:
		claims := c.verified.Claims()
		event.Issuer, event.Subject, event.ID = claims.Issuer, claims.Subject, claims.ID
	case refusal != nil && refusal.Claims != nil: // authentic, and refused all the same
		event.Issuer, event.Subject, event.ID = refusal.Claims.Issuer, refusal.Claims.Subject, refusal.Claims.ID
	}
	c.guard.notify(ctx, event)
}
