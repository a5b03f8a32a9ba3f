package serving

import (
	"context"
	"time"
)

// InBatches removes rows by a step that removes up to most of them, until there are no
// more. Between two steps it rests for an eighth of what the first has taken: who waits for
// the database goes before the next one, and a million rows do not take for ever.
func InBatches(ctx context.Context, most int64, step func(context.Context) (gone int64, err error)) error {
	for {
		start := time.Now()
		gone, err := step(ctx)
		if err != nil || gone < most {
			return err
		}
		if !Pause(ctx, time.Since(start)/8) {
			return ctx.Err()
		}
	}
}

// Pause waits, and reports whether ctx goes on.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
