package handoffgrpc

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// unary returns the handler that stands before next. In the order in which things
// happen: the token is verified; the request is decoded; the interceptors of the
// server run; the token is redeemed for the request that they pass on; next runs
// with a copy of it.
//
// The request of a call whose token does not verify is not decoded, as decoding
// may cost more than a signature check. The interceptors are given an empty request
// of the method's type and the refusal as the handler's error, so that they log and
// count it.
func (g *Guard) unary(name string, next grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, interceptors grpc.UnaryServerInterceptor) (any, error) {
		c, refused := g.begin(ctx, name)
		if c.isExempt() {
			return next(srv, ctx, decode, interceptors)
		}
		req := c.newRequest()
		if refused == nil {
			if err := decode(req); err != nil {
				return nil, err // gRPC's own status, as in generated code
			}
		}
		handler := func(ctx context.Context, req any) (any, error) {
			if refused != nil {
				return nil, c.refuse(ctx, refused)
			}
			if c.method.deferred {
				return c.defers(ctx, req, func(ctx context.Context) (any, error) { return next(srv, ctx, hand(req), nil) })
			}
			grant, err := c.redeem(ctx, req) // as in Call.Unary, without what a function more costs
			if grant == nil {
				return c.again(ctx, err)
			}
			return next(srv, handoff.NewContext(ctx, grant), hand(req), nil)
		}
		if interceptors == nil {
			return handler(ctx, req)
		}
		return interceptors(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: name}, handler)
	}
}

// begin is admit, outside the interceptors: a panic in it is kept for refuse, so
// that what recovers a handler's panics recovers it.
func (g *Guard) begin(ctx context.Context, name string) (c call, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicked{value, debug.Stack()}
		}
	}()
	c = call{guard: g, method: g.plan.Load().method(name)}
	return c, c.admit(ctx)
}

// panicked is a panic on its way to where it can be recovered.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

// newRequest returns an empty request of the method.
func (c *call) newRequest() proto.Message {
	if c.method == nil {
		return &emptypb.Empty{} // it is refused anyway
	}
	return c.method.binding.NewRequest()
}

// hand returns what a handler decodes its request with: it is handed a copy of the
// one that was redeemed, which is one request of the method's type.
func hand(redeemed any) func(any) error {
	return func(into any) error {
		from := redeemed.(proto.Message)
		to, ok := into.(proto.Message)
		if !ok || to.ProtoReflect().Descriptor() != from.ProtoReflect().Descriptor() {
			return fmt.Errorf("handoffgrpc: the handler takes a %T, its method a %T", into, from)
		}
		proto.Reset(to)
		proto.Merge(to, from)
		return nil
	}
}
