package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/serving"
)

const (
	// sweepEvery is how long the sweeper rests before each round. Before the first one it
	// is longer than any token lives, also one that a ledger from before has no time of.
	sweepEvery = 10 * time.Minute
	// kept is for how long an expired handoff stays: clocks differ.
	kept = time.Hour
)

// sweeper has the ledger forget handoffs whose tokens cannot come again.
type sweeper struct {
	sweep func(ctx context.Context, expired time.Time) (gone int64, err error) // ledger.DB.Sweep
	log   *slog.Logger
}

// begin sweeps until end, which waits for it.
func (s sweeper) begin(ctx context.Context) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.run(ctx)
	}()
	return func() {
		stop()
		<-ended
	}
}

func (s sweeper) run(ctx context.Context) {
	failing := false
	for serving.Pause(ctx, sweepEvery) {
		err := s.round(ctx)
		if err != nil && !failing && ctx.Err() == nil { // told once until it succeeds
			s.log.Warn("the database is not swept", "cause", err.Error())
		}
		failing = err != nil
	}
}

// round removes all that is old.
func (s sweeper) round(ctx context.Context) error {
	expired := time.Now().Add(-kept)
	return serving.InBatches(ctx, ledger.SweepBatch, func(ctx context.Context) (int64, error) { return s.sweep(ctx, expired) })
}
