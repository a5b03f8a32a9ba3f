package upkeep

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// over returns a database with a session, a revocation and an audit that end now or
// within a minute.
func over(t *testing.T) *database.DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "server1.db"))
	now := time.Now()
	user := database.User{ID: handoff.NewID(), Name: "alice", PasswordHash: "x", Created: now}
	session := database.Session{
		IDSHA256: handoff.NewID(), HandoffID: handoff.NewID(), User: user,
		Created: now, IdleExpires: now.Add(time.Minute), Expires: now.Add(time.Minute),
	}
	claims := &handoff.Claims{ID: handoff.NewID(), IssuedAt: now, Expires: now.Add(time.Minute)}
	if err := errors.Join(
		db.KeepTerms(t.Context(), terms, now), db.AddUser(t.Context(), user), db.StartSession(t.Context(), session),
		db.RecordHandoff(t.Context(), session, claims, now), db.RevokeHandoff(t.Context(), "", claims.ID, now),
	); err != nil {
		t.Fatal(err)
	}
	return db
}

func sweeperOf(db *database.DB, now func() time.Time) *Sweeper {
	return NewSweeper(SweeperConfig{
		DB: db, Retention: 30 * 24 * time.Hour, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: now,
	})
}

// value returns what a metric shows.
func value(t *testing.T, m prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metric := families[0].GetMetric()[0]
	return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
}

// F01: on SQLite, where there is one clock, one that was set ahead since the server
// began removes nothing; one that was ahead at the start removes only sessions, which
// are over by it in any case, until nothing can be alive that was alive then.
func TestSweepByAClockThatIsAhead(t *testing.T) {
	for name, c := range map[string]struct {
		off     time.Duration // of the clock, when it sweeps
		offThen time.Duration // likewise, when it began
		running time.Duration
		want    map[database.Rows]float64
	}{
		"in time":                 {want: map[database.Rows]float64{}},
		"set ahead since":         {off: 40 * 24 * time.Hour, running: time.Hour, want: map[database.Rows]float64{}},
		"ahead at the start":      {off: 40 * 24 * time.Hour, offThen: 40 * 24 * time.Hour, want: map[database.Rows]float64{database.Sessions: 1}},
		"two days on":             {off: 0, offThen: 0, running: 48 * time.Hour, want: map[database.Rows]float64{}},
		"two days on, by a clock": {off: 48 * time.Hour, running: 48 * time.Hour, want: map[database.Rows]float64{database.Sessions: 1, database.Revocations: 1}},
		"40 days on, by a clock": {
			off: 40 * 24 * time.Hour, running: 40 * 24 * time.Hour,
			want: map[database.Rows]float64{database.Sessions: 1, database.Revocations: 1, database.Audit: 4},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := sweeperOf(over(t), func() time.Time { return time.Now().Add(c.off) })
			s.began, s.running = time.Now().Add(c.offThen), time.Now().Add(-c.running)
			if err := s.round(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, rows := range []database.Rows{database.Sessions, database.Revocations, database.Audit} {
				if got := value(t, s.swept.WithLabelValues(string(rows))); got != c.want[rows] {
					t.Errorf("%s: %v are gone, want %v", rows, got, c.want[rows])
				}
			}
		})
	}
}

// A sweeper says when it has finished, and ends with its context.
func TestSweeperRuns(t *testing.T) {
	s := sweeperOf(over(t), time.Now)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	servingtest.Eventually(t, "the end of a sweep", func() bool { return value(t, s.finished) > 0 })
	stop()
	wg.Wait()
}
