package handoffgrpc

import (
	"context"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// defers has next redeem the token of a method in Config.Deferred, and answers with
// what it returns only if it has kept a redemption. A refusal of the redemption is the
// answer even if next returns something else.
func (c *call) defers(ctx context.Context, req any, next func(context.Context) (any, error)) (any, error) {
	op, err := c.operation(req)
	if err != nil {
		return nil, c.refuse(ctx, err)
	}
	var granted *handoff.Grant
	deferred, err := c.guard.config.Verifier.Defer(ctx, c.verified, op, c.method.rule, func(grant *handoff.Grant) {
		granted = grant
		c.observe(ctx, Event{Grant: grant})
	})
	if err != nil {
		return nil, c.refuse(ctx, err)
	}
	defer deferred.Close() // of a handler that panics, too
	response, err := next(deferred.Context(ctx))
	kept, refusal := deferred.Close()
	switch {
	case kept:
		return response, err
	case refusal != nil:
		return c.again(ctx, refusal)
	case err == nil:
		forgotten := &handoff.Refusal{
			Check: "guard.deferred", Detail: "the handler has answered and kept no redemption: its answer is not given",
		}
		c.observe(ctx, Event{Grant: granted, Refusal: forgotten})
		return nil, c.guard.place.statusOf(forgotten).Err()
	}
	if granted != nil {
		c.observe(ctx, Event{Grant: granted, Refusal: &handoff.Refusal{
			Reason: handoff.ReasonStoreUnavailable, Check: "guard.undone", Detail: "the handler has not kept the redemption", Err: err,
		}})
	}
	return nil, err
}
