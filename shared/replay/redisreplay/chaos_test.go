package redisreplay_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

// E01, E03, E06: while Redis is killed, stopped and cut off at random, no token is
// redeemed twice by the callers of three replicas; none is said to be replayed
// that nobody can have redeemed; and once the faults stop, each token is redeemed
// exactly once.
func TestE01E03Chaos(t *testing.T) {
	t.Parallel()
	lasts := time.Duration(measure.Of(2, 4, 30)) * time.Second
	r := start(t).age()
	p := newProxy(t, r)
	var replicas []*opened
	for range 3 {
		replicas = append(replicas, open(t, redisreplay.Config{URL: p.url(), Timeout: 500 * time.Millisecond})) // of a busy machine
	}
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
		switch rand.N(3) {
		case 0:
			r.kill()
			time.Sleep(rand.N(200 * time.Millisecond))
			r.run()
		case 1:
			r.stall()
			time.Sleep(rand.N(time.Second))
			r.cont()
		case 2:
			p.cut()
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
	calm, done := measure.Of(20, 50, 50), 0
	for began := time.Now(); done < calm; { // a busy machine lets some time out
		redeemed, doubtful := crowd(t, replicas)
		if redeemed {
			done++
		} else if !doubtful {
			t.Error("nobody redeems a token after the faults")
		}
		if time.Since(began) > 2*patience {
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
