package upkeep

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/serving"
)

// SweeperConfig says what is to be swept. Every field is required.
type SweeperConfig struct {
	// DB has the rows.
	DB *database.DB
	// Retention is how long the audit is kept. 0: for ever.
	Retention time.Duration
	// Log is told what fails, once until it succeeds.
	Log *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Sweeper removes what no longer matters, a few rows at a time, so that no other
// change waits for it.
type Sweeper struct {
	config   SweeperConfig
	began    time.Time // by the clock, which can be set later
	running  time.Time // likewise, with the time that has passed since
	failing  bool
	swept    *prometheus.CounterVec
	finished prometheus.Gauge
}

// NewSweeper returns a sweeper.
func NewSweeper(config SweeperConfig) *Sweeper {
	s := &Sweeper{
		config: config,
		swept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "handoff_swept_rows_total",
			Help: "Rows that no longer matter and were removed from the database, by table.",
		}, []string{"table"}),
		finished: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "handoff_sweep_finished_timestamp_seconds",
			Help: "When the last sweep of the database had removed all that no longer matters, in Unix seconds.",
		}),
	}
	for _, rows := range database.Swept() {
		s.swept.WithLabelValues(string(rows))
	}
	return s
}

// Collectors returns what the sweeper counts.
func (s *Sweeper) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.swept, s.finished}
}

const (
	// sweepEvery is how long the sweeper rests when it has finished.
	sweepEvery = time.Minute
	// kept is for how long what is over stays: another process's clock, and this one
	// before it was set, can differ.
	kept = 24 * time.Hour
	// settled is how long after the start nothing is removed that a token can need.
	// What was alive at the start, by a clock that was right, is dead by then.
	settled = 10 * time.Minute
)

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	s.began, s.running = s.config.Now(), time.Now()
	for {
		err := s.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.finished.Set(float64(s.config.Now().Unix()))
		case !s.failing:
			s.config.Log.Warn("the database is not swept", "cause", err.Error())
		}
		s.failing = err != nil
		if !serving.Pause(ctx, sweepEvery) {
			return
		}
	}
}

func (s *Sweeper) round(ctx context.Context) error {
	passed := time.Since(s.running)
	now := s.config.Now()
	if least := s.began.Add(passed); least.Before(now) { // the clock was set ahead
		now = least
	}
	if err := s.sweep(ctx, database.Sessions, now.Add(-kept)); err != nil || passed < settled {
		return err
	}
	for _, rows := range []database.Rows{database.Revocations, database.Grants} {
		if err := s.sweep(ctx, rows, now.Add(-kept)); err != nil {
			return err
		}
	}
	if s.config.Retention == 0 {
		return nil
	}
	return s.sweep(ctx, database.Audit, now.Add(-s.config.Retention))
}

// sweep removes all rows of a table that have been old since a moment.
func (s *Sweeper) sweep(ctx context.Context, rows database.Rows, since time.Time) error {
	return serving.InBatches(ctx, database.SweepBatch, func(ctx context.Context) (int64, error) {
		gone, err := s.config.DB.Sweep(ctx, rows, since)
		s.swept.WithLabelValues(string(rows)).Add(float64(gone))
		return gone, err
	})
}
