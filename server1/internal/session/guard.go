package session

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// Guard lets calls with a live session through to their handlers. It is safe for
// concurrent use.
type Guard struct {
	keeper *Keeper
	open   []string
}

// NewGuard returns a guard. open names what runs without a session: full method
// names, and services with a slash at each end for all of their methods.
func NewGuard(keeper *Keeper, open ...string) *Guard {
	return &Guard{keeper: keeper, open: open}
}

// Unary is a grpc.UnaryServerInterceptor. Chain it last.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is a grpc.StreamServerInterceptor. Chain it last.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := g.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, &admitted{ServerStream: stream, ctx: ctx})
}

// admitted is a stream whose context has the session.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *admitted) Context() context.Context { return s.ctx }

func (g *Guard) admit(ctx context.Context, method string) (context.Context, error) {
	for _, open := range g.open {
		if method == open || strings.HasSuffix(open, "/") && strings.HasPrefix(method, open) {
			return ctx, nil
		}
	}
	id, err := bearer(ctx)
	if err != nil {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, err)
	}
	s, err := g.keeper.live(ctx, id)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, contextKey{}, s), nil
}

// bearer returns what stands in the call's one authorization. The scheme has one
// spelling, so that nothing on the way can read another id than this server does.
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 || metadata.ValueFromIncomingContext(ctx, "authorization-bin") != nil {
		return "", errors.New("not exactly one authorization")
	}
	id, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return "", errors.New(`the authorization does not begin with "Bearer "`)
	}
	return id, nil
}

type contextKey struct{}

// FromContext returns the live session of the call that a handler serves. It is
// false where there is none: the method is open, or the server has no guard.
func FromContext(ctx context.Context) (database.Session, bool) {
	s, ok := ctx.Value(contextKey{}).(database.Session)
	return s, ok
}
