package upkeep

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

var terms = trust.Terms{
	Issuer: "https://shop.example", TokenLifetime: time.Minute, ListLifetime: time.Minute, Skew: 5 * time.Second,
}

func open(t *testing.T, path string) *database.DB {
	t.Helper()
	db, err := database.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// What another process changes is noticed, once for each change: the publisher is
// told, and the keys are read again.
func TestNoticesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server1.db")
	db, other := open(t, path), open(t, path)
	if err := db.KeepTerms(t.Context(), terms, time.Now()); err != nil {
		t.Fatal(err)
	}
	folder, err := signkey.OpenFolder(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	log := &servingtest.Log{}
	keys, err := signing.New(t.Context(), signing.Config{
		DB: db, Folder: folder, Terms: terms, Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 100)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		Run(ctx, Config{
			DB: db, Terms: terms, Keys: keys, Changed: func() { changed <- struct{}{} },
			Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now,
		})
	})
	defer wg.Wait()
	defer stop()
	<-changed // the first look
	before, err := keys.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps := rotation.Steps{Store: other, Folder: folder, Now: time.Now}
	if _, _, err := steps.Prepare(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := steps.Taint(t.Context(), before.Key().ID()); err != nil {
		t.Fatal(err)
	}
	<-changed
	servingtest.Eventually(t, "the change of the key", func() bool {
		signer, err := keys.Signer(t.Context())
		return err == nil && signer.Key().ID() != before.Key().ID()
	})
	time.Sleep(3 * look)
	if n := len(changed); n > 2 { // the two steps, and what this process has kept at first, may have been seen apart
		t.Errorf("told %d times more, of nothing", n)
	}
	if used, err := other.Terms(t.Context(), time.Now()); err != nil || used != terms {
		t.Errorf("terms %v, %v", used, err)
	}
	if _, err := other.ChangeRing(t.Context(), time.Now, func(r rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) {
		return r, nil
	}); err != nil {
		t.Fatal(err)
	}
	<-changed
}

// A database that fails is reported once, and once when it answers again.
func TestReportsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server1.db")
	db := open(t, path)
	if err := db.KeepTerms(t.Context(), terms, time.Now()); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	log := &servingtest.Log{}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		Run(ctx, Config{DB: db, Terms: terms, Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now})
	})
	for _, step := range []struct{ statement, report string }{
		{`ALTER TABLE changes RENAME TO away`, "upkeep fails"}, {`ALTER TABLE away RENAME TO changes`, "upkeep succeeds again"},
	} {
		if _, err := raw.Exec(step.statement); err != nil {
			t.Fatal(err)
		}
		servingtest.Eventually(t, step.report, func() bool { return strings.Count(log.String(), step.report) > 0 })
		time.Sleep(3 * look)
	}
	stop()
	wg.Wait()
	if fails, succeeds := strings.Count(log.String(), "upkeep fails"), strings.Count(log.String(), "upkeep succeeds"); fails != 1 || succeeds != 1 {
		t.Errorf("reported %d and %d times", fails, succeeds)
	}
}

// F01: a process whose clock is ahead of the database's changes no key, removes
// nothing, keeps to no terms, and says so once.
func TestClockAhead(t *testing.T) {
	db := open(t, servingtest.Postgres(t))
	if err := db.KeepTerms(t.Context(), terms, time.Now()); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	folder, err := signkey.OpenFolder(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	log := &servingtest.Log{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	longer := terms
	longer.TokenLifetime = 2 * time.Minute
	keys, err := signing.New(t.Context(), signing.Config{
		DB: db, Folder: folder, Terms: longer, Every: 24 * time.Hour, Log: logger, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	user := database.User{ID: handoff.NewID(), Name: "alice", PasswordHash: "x", Created: time.Now()}
	session := database.Session{
		IDSHA256: handoff.NewID(), HandoffID: handoff.NewID(), User: user,
		Created: time.Now(), IdleExpires: time.Now().Add(time.Hour), Expires: time.Now().Add(time.Hour),
	}
	if err := errors.Join(db.AddUser(t.Context(), user), db.StartSession(t.Context(), session)); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(48 * time.Hour))
	db.Now = now
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { Run(ctx, Config{DB: db, Terms: longer, Keys: keys, Log: logger, Now: now}) })
	defer wg.Wait()
	defer stop()
	servingtest.Eventually(t, "a report", func() bool { return strings.Contains(log.String(), "upkeep fails") })
	time.Sleep(1500 * time.Millisecond) // a step is tried again after a second
	sweeper := NewSweeper(SweeperConfig{DB: db, Retention: 24 * time.Hour, Log: logger, Now: now})
	sweeper.began, sweeper.running = now(), time.Now().Add(-settled)
	if err := sweeper.round(t.Context()); !errors.Is(err, database.ErrClock) {
		t.Errorf("a sweep: %v", err)
	}
	if used, err := db.Terms(t.Context(), time.Now()); err != nil || used != terms {
		t.Errorf("terms %v, %v", used, err)
	}
	if ring, err := db.Ring(t.Context()); err != nil || len(ring.Records()) != 1 {
		t.Errorf("keys %v, %v", ring.Records(), err)
	}
	stop()
	wg.Wait()
	db.Now = time.Now
	if err := db.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := db.LiveSession(t.Context(), session.IDSHA256, time.Now()); err != nil {
		t.Errorf("the session: %v", err)
	}
	if fails := strings.Count(log.String(), "upkeep fails"); fails != 1 || strings.Contains(log.String(), "upkeep succeeds") {
		t.Errorf("reported %d times: %s", fails, log.String())
	}
}
