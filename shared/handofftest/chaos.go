package handofftest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Chaos is the conformance test of a handoff.Store that lives on a server of its own:
// what holds while that is killed, stopped or cut off. harm does it one harm, which lasts
// for as long as harm takes, and is called for at least the given time. No token is
// redeemed twice meanwhile by the callers of all replicas, and none is said to be
// replayed that nobody can have redeemed. Afterwards each replica redeems again, and
// then so many tokens are redeemed once each as calm says.
//
// The store's memory must have begun before: Chaos issues its tokens now.
func Chaos(t *testing.T, lasts time.Duration, calm int, harm func(), replicas ...handoff.Store) {
	t.Helper()
	var tokens, succeeded atomic.Int64
	var wait sync.WaitGroup
	var stop atomic.Bool
	for range 4 {
		wait.Go(func() {
			for !stop.Load() {
				tokens.Add(1)
				if redeemed, _ := Crowd(t, replicas...); redeemed {
					succeeded.Add(1)
				}
			}
		})
	}
	harms := 0
	for until := time.Now().Add(lasts); time.Now().Before(until); harms++ {
		harm()
	}
	stop.Store(true)
	wait.Wait()
	t.Logf("%d harms, %d of %d tokens redeemed", harms, succeeded.Load(), tokens.Load())

	const patience = time.Minute
	began := time.Now()
	for _, replica := range replicas {
		for replica.Redeem(t.Context(), issuedNow()) != nil {
			if time.Since(began) > patience {
				t.Fatalf("a replica redeems nothing %s after the last harm", patience)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for began, done := time.Now(), 0; done < calm; { // a busy machine lets some time out
		redeemed, inDoubt := Crowd(t, replicas...)
		if redeemed {
			done++
		} else if !inDoubt {
			t.Error("nobody redeems a token after the harms")
		}
		if time.Since(began) > patience {
			t.Fatalf("%d tokens redeemed after the harms in %s", done, patience)
		}
	}
}

// Crowd has 64 callers redeem one token at replicas of a store, half of them later than
// the others, and returns whether one succeeded, and whether any was left in doubt: had
// another error than handoff.ErrReplayed. It is an error if more than one succeeds, and if
// the token is said to be replayed when nobody can have redeemed it.
func Crowd(t testing.TB, replicas ...handoff.Store) (redeemed, inDoubt bool) {
	t.Helper()
	const callers = 64
	token := issuedNow()
	var succeeded, replayed, doubtful atomic.Int32
	for range 2 {
		var wait sync.WaitGroup
		for i := range callers / 2 {
			wait.Go(func() {
				switch err := replicas[i%len(replicas)].Redeem(context.Background(), token); {
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

func issuedNow() handoff.Redemption {
	issued := time.Now().Truncate(time.Second)
	return handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(),
		IssuedAt: issued, Expires: issued.Add(handoff.KindHandoff.DefaultLifetime()),
	}
}
