package trust

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is the pause between attempts: it doubles from first up to most, each
// time a fifth more or less, so that many who wait for one server do not return
// to it as one.
type backoff struct {
	first, most time.Duration
	last        time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.first), b.most)
	return time.Duration(float64(b.last) * (0.8 + 0.4*rand.Float64()))
}

func (b *backoff) reset() { b.last = 0 }

// pause waits for d, or for wake where that comes earlier. It is false when ctx
// has ended.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	select {
	case <-time.After(d):
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
