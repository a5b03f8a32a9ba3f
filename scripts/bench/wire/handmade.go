package wire

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/scripts/bench/raced"
)

// handmade is the interceptor that people write today: golang-jwt checks the
// signature, iss, aud and exp, and a map under a mutex remembers the jti. It does
// not look at the request, and forgets all at a restart.
type handmade struct {
	golang raced.GolangJWT

	mu    sync.Mutex
	seen  map[string]time.Time
	swept time.Time
}

func newHandmade(golang raced.GolangJWT) *handmade {
	return &handmade{golang: golang, seen: map[string]time.Time{}}
}

func (h *handmade) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return nil, status.Error(codes.Unauthenticated, "missing token")
	}
	claims, err := h.golang.Verify(strings.TrimPrefix(values[0], "Bearer "))
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "invalid token")
	}
	if !h.first(claims.ID, claims.ExpiresAt.Time) {
		return nil, status.Error(codes.FailedPrecondition, "replayed")
	}
	return handler(context.WithValue(ctx, claimsKey{}, claims), req)
}

type claimsKey struct{}

// first reports whether the id is new. Once a minute it forgets what has expired.
func (h *handmade) first(id string, expires time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.swept) > time.Minute {
		for id, expires := range h.seen {
			if now.After(expires) {
				delete(h.seen, id)
			}
		}
		h.swept = now
	}
	if _, seen := h.seen[id]; seen {
		return false
	}
	h.seen[id] = expires
	return true
}
