package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
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
	reported := make(chan error, 8)
	wrong, err := trust.NewPublisher(trust.PublisherConfig{
		Terms: trust.Terms{Issuer: issuerName}, Key: s.trustKey, Source: statement{db},
		Now:    func() time.Time { return time.Now().Add(time.Hour) },
		Report: func(err error) { reported <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); wrong.Run(ctx) }()
	defer func() { stop(); <-ended }()
	if err := <-reported; !errors.Is(err, database.ErrClockAhead) {
		t.Errorf("reported %v", err)
	}
	for _, r := range both {
		r.audience(t).newer(t)
	}
	if err := wrong.Healthy(); !errors.Is(err, database.ErrClockAhead) {
		t.Errorf("its health: %v", err)
	}
	if n := len(reported); n > 0 {
		t.Errorf("reported %d times more, at first %v", n, <-reported)
	}
}

// F01: what a clock has done that was ahead, and that nobody could refuse, an
// operator undoes.
func TestF01Renumber(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	if status, _, _ := s.try("renumber"); status != 1 {
		t.Errorf("renumber before any server: exit status %d", status)
	}
	t.Run("before", func(t *testing.T) { s.start(t, s.publishing()) })
	if _, err := s.open(t).Exec(`UPDATE issuer SET seq = $1`, time.Now().Add(time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	settings := s.settings()
	for flag, value := range s.publishing() {
		settings[flag] = value
	}
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), arguments("serve", settings), nil, strings.NewReader(""), &stdout, &stderr); status != 1 || stdout.Len() > 0 {
		t.Errorf("lists that nobody takes are published: exit status %d, %q", status, &stdout)
	}
	s.command(t, "renumber")
	if status, _, stderr := s.try("renumber"); status != 1 || stderr == "" {
		t.Errorf("renumber again: exit status %d, %q", status, stderr)
	}
	r := s.start(t, s.publishing())
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	a.wantNow(t, "afterwards", r.issue(t, ctx).GetToken(), 0)
}
