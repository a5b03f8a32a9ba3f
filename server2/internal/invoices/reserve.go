package invoices

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// Reserve has a call wait for the ledger before its token is spent, and not after:
// a call that waits in vain keeps its handoff. As a Store, it stands before the one
// that spends, whose Redeem is the last of all checks; as an interceptor, it gives
// back what the handler has not used.
type Reserve struct {
	// Store spends. Required.
	Store interface {
		handoff.Store
		Skew() time.Duration
	}
	// Ledger returns the ledger, which is opened after the store. Required.
	Ledger func() *ledger.DB
}

type waited struct{ err error }

type waitedKey struct{}

// Skew is the store's.
func (r *Reserve) Skew() time.Duration { return r.Store.Skew() }

// Redeem implements handoff.Store.
func (r *Reserve) Redeem(ctx context.Context, redemption handoff.Redemption) error {
	if err := r.Ledger().Reserve(ctx); err != nil {
		if w, ok := ctx.Value(waitedKey{}).(*waited); ok {
			w.err = err
		}
		return err // nothing is spent
	}
	return r.Store.Redeem(ctx, redemption)
}

// Unary is a grpc.UnaryServerInterceptor. A call that has waited in vain is told so.
func (r *Reserve) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, giveBack := ledger.WithPlace(ctx)
	defer giveBack()
	w := &waited{}
	response, err := handler(context.WithValue(ctx, waitedKey{}, w), req)
	if err != nil && w.err != nil {
		return nil, outcome(ctx, w.err)
	}
	return response, err
}
