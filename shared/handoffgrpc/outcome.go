package handoffgrpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// again answers a call that redeem has refused with err: with the first answer,
// where the token was spent on this very request and Config.Outcome knows what
// became of it, and with the refusal otherwise.
func (c *call) again(ctx context.Context, err error) (any, error) {
	refusal := refusalOf(err)
	spent := refusal.Spent()
	if spent == nil || c.guard.config.Outcome == nil {
		return nil, c.refuse(ctx, refusal)
	}
	response, err := c.guard.config.Outcome(ctx, spent)
	switch {
	case err != nil:
	case sameType(response, c.method.binding.NewResponse()):
		c.observe(ctx, Event{Refusal: refusal, Answered: true})
		return response, nil
	case response != nil && response.ProtoReflect().IsValid():
		err = fmt.Errorf("Config.Outcome returned a %T, which is no response of the method", response)
	}
	refusal.Err = errors.Join(refusal.Err, err)
	return nil, c.refuse(ctx, refusal)
}

// sameType reports whether two messages, which may be missing, are of one
// type.
func sameType(a, b proto.Message) bool {
	return a != nil && b != nil && a.ProtoReflect().IsValid() && a.ProtoReflect().Descriptor() == b.ProtoReflect().Descriptor()
}
