package server1

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// F01: a process whose clock is ahead of the database's publishes nothing, says why,
// and leaves the numbers to the others.
func TestF01ClockAheadOfTheOthers(t *testing.T) {
	t.Parallel()
	s, both := replicas(t)
	db, err := database.Open(t.Context(), s.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.Now = func() time.Time { return time.Now().Add(time.Hour) }
	keys, err := signing.New(t.Context(), signing.Config{
		DB: db, Folder: signkey.Folder(s.path("keys")), Terms: trust.Terms{Issuer: issuerName}, Log: slog.New(slog.DiscardHandler), Now: db.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	reported := make(chan error, 8)
	wrong, err := trust.NewPublisher(trust.PublisherConfig{
		Terms: trust.Terms{Issuer: issuerName}, Key: s.trustKey, Source: statement{DB: db, keys: keys},
		Now:    db.Now,
		Report: func(err error) { reported <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); wrong.Run(ctx) }()
	defer func() { stop(); <-ended }()
	if err := <-reported; !errors.Is(err, database.ErrClock) {
		t.Errorf("reported %v", err)
	}
	for _, r := range both {
		r.audience(t).newer(t)
	}
	if err := wrong.Healthy(); !errors.Is(err, database.ErrClock) {
		t.Errorf("its health: %v", err)
	}
	if n := len(reported); n > 0 {
		t.Errorf("reported %d times more, at first %v", n, <-reported)
	}
}
