package sqlreplay_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/sqlreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// E01, E03, E06, E07: while PostgreSQL is killed and its sessions are ended at random, no
// token is redeemed twice by the callers of three replicas; none is said to be replayed
// that nobody can have redeemed; and once the faults stop, tokens are redeemed again.
func TestE01E03Chaos(t *testing.T) {
	lasts := time.Duration(measure.Of(2, 4, 30)) * time.Second
	server := servingtest.StartPostgres(t)
	location := database(t, server)
	var replicas []*opened
	for range 3 {
		replicas = append(replicas, open(t, location, sqlreplay.Config{Timeout: time.Second}))
	}
	admin := connect(t, location)
	age(t, admin)
	handofftest.Chaos(t, lasts, measure.Of(10, 25, 25), func() {
		time.Sleep(rand.N(500 * time.Millisecond))
		if rand.N(2) == 0 {
			server.Kill(t)
			time.Sleep(rand.N(200 * time.Millisecond))
			server.Start(t)
		} else {
			_, _ = admin.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()`)
		}
	}, stores(replicas)...)
	for _, s := range replicas {
		if n := s.told(replay.StartedOver); n > 1 { // the first replica's first time
			t.Errorf("a crash that loses nothing has it start over: %d times", n)
		}
	}
}

// E04: a standby takes no redemption. One that is promoted, which may lack the last
// marks of its primary, starts over.
func TestE04Failover(t *testing.T) {
	server := servingtest.StartPostgres(t)
	location := database(t, server)
	primary := open(t, location, sqlreplay.Config{})
	age(t, primary.db)
	standby := server.StartStandby(t)
	there := standby.URL(nameOf(t, location))
	if _, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: connect(t, there)}); err == nil {
		t.Fatal("a standby was opened")
	}
	r := token()
	if err := primary.Redeem(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	primary.Close()
	server.Kill(t)
	promoted := connect(t, there)
	do(t, promoted, `SELECT pg_promote()`)
	servingtest.Eventually(t, "it is promoted", func() bool { return count(t, promoted, `SELECT pg_is_in_recovery()::int`) == 0 })
	do(t, promoted, `DELETE FROM handoff_redemptions WHERE length(mark) = 16`) // as one that was behind
	second := open(t, there, sqlreplay.Config{})
	if err := second.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v", err)
	}
	if n := second.told(replay.StartedOver); n != 1 {
		t.Errorf("it has started over %d times", n)
	}
	servingtest.Eventually(t, "it redeems what was issued since", func() bool { return second.Redeem(t.Context(), token()) == nil })
}

// A copy of the disk from before, put back beneath a running service, has forgotten what
// came after it. The stores that were there know how far it was.
func TestRestoredDisk(t *testing.T) {
	server := servingtest.StartPostgres(t)
	location := database(t, server)
	store := open(t, location, sqlreplay.Config{})
	age(t, store.db)
	server.Kill(t)
	backup := server.Data() + ".old"
	copied(t, server.Data(), backup)
	server.Start(t)
	r := token()
	servingtest.Eventually(t, "it redeems", func() bool {
		err := store.Redeem(t.Context(), r)
		return err == nil || errors.Is(err, handoff.ErrReplayed)
	})
	admin := connect(t, location) // whose questions cover up none of the store's
	var now time.Time
	if err := admin.QueryRow(`SELECT now()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "the store looks once more", func() bool {
		var looked bool
		err := admin.QueryRow(`SELECT count(*) > 0 FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND state = 'idle' AND query LIKE '%pg_control_system%' AND query_start > $1`, now).Scan(&looked)
		return err == nil && looked
	})
	server.Kill(t)
	if err := os.RemoveAll(server.Data()); err != nil {
		t.Fatal(err)
	}
	copied(t, backup, server.Data())
	server.Start(t)
	began := store.told(replay.StartedOver)
	servingtest.Eventually(t, "it starts over", func() bool {
		err := store.Redeem(t.Context(), r)
		if err == nil {
			t.Fatal("redeemed again")
		}
		return store.told(replay.StartedOver) > began && errors.Is(err, handoff.ErrIssuedBeforeStart)
	})
}

// copied copies a folder with its owner.
func copied(t *testing.T, from, to string) {
	t.Helper()
	if text, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}
