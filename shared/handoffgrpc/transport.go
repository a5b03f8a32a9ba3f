package handoffgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Call is a call whose token was verified, on its way to its handler. It is for a
// package that has the guard stand before another transport than a *grpc.Server, as
// handoffconnect does; everything that is decided, is decided here.
type Call struct{ call }

// Begin verifies the token of a call of a method. ctx has what gRPC gives an
// interceptor: the metadata, and the peer with its TLS. The error is a status, and
// Observe was told. What it refuses need not be decoded.
func (g *Guard) Begin(ctx context.Context, method string) (*Call, error) {
	c := &Call{call{guard: g, method: g.plan.Load().method(method)}}
	if err := c.admit(ctx); err != nil {
		return nil, c.refuse(ctx, err)
	}
	return c, nil
}

// Unary redeems the token for a request of the call and has next answer it, inside
// all interceptors. next gets a context with the grant, and runs once or not at all.
func (c *Call) Unary(ctx context.Context, req proto.Message, next func(context.Context) (any, error)) (any, error) {
	if c.isExempt() {
		return next(ctx)
	}
	if c.method.deferred {
		return c.defers(ctx, req, next)
	}
	grant, err := c.redeem(ctx, req)
	if grant == nil {
		return c.again(ctx, err)
	}
	return next(handoff.NewContext(ctx, grant))
}

// Stream has next serve a server-streaming call over a stream whose RecvMsg redeems
// the token for the request, and whose context then has the grant. See Guard.On.
func (c *Call) Stream(ss grpc.ServerStream, next func(grpc.ServerStream) error) error {
	if c.isExempt() {
		return next(ss)
	}
	s := &stream{ServerStream: ss, call: c.call}
	s.state.ctx, s.cancel = context.WithCancelCause(ss.Context())
	defer s.close()
	return s.outcome(next(s))
}
