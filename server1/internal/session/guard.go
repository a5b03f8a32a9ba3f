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

// Guard lets calls with a live session through to their handlers, unless their request
// has a field that this server does not know. It is safe for concurrent use.
type Guard struct {
	keeper     *Keeper
	open       []string
	assertions map[string]func(context.Context, string) (context.Context, error)
}

// NewGuard returns a guard. open names what runs without a session: full method
// names, and services with a slash at each end for all of their methods.
func NewGuard(keeper *Keeper, open ...string) *Guard {
	return &Guard{keeper: keeper, open: open, assertions: map[string]func(context.Context, string) (context.Context, error){}}
}

// Assertions has admit let the callers of a method through who present a JWT in the
// place of a session, which never has a dot. It is called before the guard is used.
func (g *Guard) Assertions(method string, admit func(ctx context.Context, raw string) (context.Context, error)) {
	g.assertions[method] = admit
}

// Unary is a grpc.UnaryServerInterceptor. Chain it last.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err == nil {
		err = known(req)
	}
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

// admitted is a stream whose context has the session, if it needs one.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *admitted) Context() context.Context { return s.ctx }

// RecvMsg is where the request of a stream comes in.
func (s *admitted) RecvMsg(req any) error {
	if err := s.ServerStream.RecvMsg(req); err != nil {
		return err
	}
	return known(req)
}

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
	if admit := g.assertions[method]; admit != nil && strings.IndexByte(id, '.') >= 0 {
		return admit(ctx, id)
	}
	return g.keeper.Admit(ctx, id)
}

// Admit returns ctx with the live session that has this id, for FromContext, and
// counts as a use of it. Its errors are SESSION_INVALID, the same for anything that is
// not the id of a live session, and ISSUER_UNAVAILABLE.
func (k *Keeper) Admit(ctx context.Context, id string) (context.Context, error) {
	s, err := k.live(ctx, id)
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

// FromContext returns the live session of the call or the request that a handler
// serves. It is false where there is none.
func FromContext(ctx context.Context) (database.Session, bool) {
	s, ok := ctx.Value(contextKey{}).(database.Session)
	return s, ok
}
