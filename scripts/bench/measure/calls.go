package measure

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Call makes the i-th call, and returns what is wrong with its outcome.
type Call func(ctx context.Context, i int) error

// Closed makes n calls from so many callers, each of whom waits for an answer
// before it asks again. It returns how long that took.
func Closed(ctx context.Context, n, callers int, do Call) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	start := time.Now()
	for range callers {
		wait.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wait.Wait()
	return time.Since(start), context.Cause(ctx)
}

// Arriving makes n calls at a fixed rate a second, whether or not the earlier
// ones have been answered, as strangers do. It returns each one's latency from
// the time at which it was due, so that a server that makes callers late is not
// spared their lateness.
func Arriving(ctx context.Context, n int, rate float64, do Call) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([]time.Duration, n)
	var wait sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := time.Duration(float64(i) / rate * float64(time.Second))
		Pause(due - time.Since(start))
		if ctx.Err() != nil {
			break
		}
		wait.Go(func() {
			if err := do(ctx, i); err != nil {
				cancel(err)
			}
			took[i] = time.Since(start) - due
		})
	}
	wait.Wait()
	return took, context.Cause(ctx)
}
