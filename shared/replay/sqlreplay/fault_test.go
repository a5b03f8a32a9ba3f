package sqlreplay_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
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
	var tokens, succeeded atomic.Int64
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tokens.Add(1)
				if done, _ := crowd(t, replicas); done {
					succeeded.Add(1)
				}
			}
		})
	}
	faults := 0
	for until := time.Now().Add(lasts); time.Now().Before(until); faults++ {
		time.Sleep(rand.N(500 * time.Millisecond))
		if rand.N(2) == 0 {
			server.Kill(t)
			time.Sleep(rand.N(200 * time.Millisecond))
			server.Start(t)
		} else {
			_, _ = admin.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()`)
		}
	}
	close(stop)
	wait.Wait()
	t.Logf("%d faults, %d of %d tokens redeemed", faults, succeeded.Load(), tokens.Load())
	eventually(t, "every replica redeems again", func() bool {
		for _, s := range replicas {
			if s.Redeem(context.Background(), token()) != nil {
				return false
			}
		}
		return true
	})
	for _, s := range replicas {
		if n := s.told(replay.StartedOver); n > 1 { // the first replica's first time
			t.Errorf("a crash that loses nothing has it start over: %d times", n)
		}
	}
	calm, done := measure.Of(10, 25, 25), 0
	for began := time.Now(); done < calm; { // a busy machine lets some time out
		redeemed, doubtful := crowd(t, replicas)
		if redeemed {
			done++
		} else if !doubtful {
			t.Error("nobody redeems a token after the faults")
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%d tokens redeemed after the faults in %s", done, time.Since(began))
		}
	}
}

// crowd has 64 callers use one token, half of them later than the others, and
// returns whether one succeeded and whether any was left in doubt. More than one is
// an error, and so is a replay before anybody can have redeemed.
func crowd(t *testing.T, replicas []*opened) (redeemed, inDoubt bool) {
	const callers = 64
	r := token()
	var succeeded, replayed, doubtful atomic.Int32
	for range 2 {
		var wait sync.WaitGroup
		for i := range callers / 2 {
			wait.Go(func() {
				switch err := replicas[i%len(replicas)].Redeem(context.Background(), r); {
				case err == nil:
					succeeded.Add(1)
				case errors.Is(err, handoff.ErrReplayed):
					replayed.Add(1)
				default:
					doubtful.Add(1)
				}
			})
		}
		wait.Wait()
	}
	if n := succeeded.Load(); n > 1 {
		t.Errorf("one token was redeemed %d times", n)
	}
	if replayed.Load() > 0 && succeeded.Load() == 0 && doubtful.Load() == 0 {
		t.Error("replayed, and nobody can have redeemed it")
	}
	return succeeded.Load() == 1, doubtful.Load() > 0
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
	eventually(t, "it is promoted", func() bool { return count(t, promoted, `SELECT pg_is_in_recovery()::int`) == 0 })
	do(t, promoted, `DELETE FROM handoff_redemptions WHERE length(mark) = 16`) // as one that was behind
	second := open(t, there, sqlreplay.Config{})
	if err := second.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v", err)
	}
	if n := second.told(replay.StartedOver); n != 1 {
		t.Errorf("it has started over %d times", n)
	}
	eventually(t, "it redeems what was issued since", func() bool { return second.Redeem(t.Context(), token()) == nil })
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
	eventually(t, "it redeems", func() bool {
		err := store.Redeem(t.Context(), r)
		return err == nil || errors.Is(err, handoff.ErrReplayed)
	})
	var now time.Time
	if err := store.db.QueryRow(`SELECT now()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store looks once more", func() bool {
		var looked bool
		err := store.db.QueryRow(`SELECT count(*) > 0 FROM pg_stat_activity
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
	eventually(t, "it starts over", func() bool {
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
