package handofftest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// patience is how long Chaos waits for a store to answer clearly.
const patience = time.Minute

// Chaos is the conformance test of a handoff.Store that lives on a server of its own and
// keeps its marks when that is killed. harm does the server one harm, which lasts as long
// as the call, and is called again for at least the given time. Meanwhile callers of all
// replicas redeem tokens: none is redeemed twice, and none is said to be replayed that
// nobody can have redeemed. Tokens that were redeemed are offered again after each harm and
// at the end, and must be replayed then: an answer in doubt is asked for again for a minute.
// After the harms each replica redeems again, and then at least calm tokens, and at least
// half of those that are tried, within a minute.
//
// The store's memory must have begun before: Chaos issues its tokens now.
func Chaos(t *testing.T, lasts time.Duration, calm int, harm func(), replicas ...handoff.Store) {
	t.Helper()
	if len(replicas) == 0 {
		t.Fatal("Chaos is given no replicas")
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &chaos{T: t, ctx: ctx, replicas: replicas}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel() // harm may end the test
	underHarm(c, &wait, lasts, harm)

	began := time.Now()
	for _, replica := range replicas {
		for c.redeem(replica, issuedNow()) != nil {
			if time.Since(began) > patience {
				t.Fatalf("a replica redeems nothing %s after the last harm", patience)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	tried, done := 0, 0
	for began := time.Now(); done < calm || done*2 < tried; tried++ { // a busy machine lets some time out
		if time.Since(began) > patience {
			t.Fatalf("nothing is harmed any more, and %d of %d tokens were redeemed in %s", done, tried, patience)
		}
		redeemed, inDoubt := c.crowd()
		if redeemed {
			done++
		} else if !inDoubt {
			t.Error("nobody redeems a token after the harms")
		}
	}
	c.again(c.spent())
}

// chaos is one run of Chaos.
type chaos struct {
	*testing.T
	ctx      context.Context
	replicas []handoff.Store

	mu   sync.Mutex
	kept []handoff.Redemption // the last tokens that a caller was told to have redeemed
}

// underHarm redeems tokens while harm is done.
func underHarm(c *chaos, wait *sync.WaitGroup, lasts time.Duration, harm func()) {
	c.Helper()
	var tokens, succeeded atomic.Int64
	var stop atomic.Bool
	for range 4 {
		wait.Go(func() {
			for !stop.Load() && c.ctx.Err() == nil {
				tokens.Add(1)
				if redeemed, _ := c.crowd(); redeemed {
					succeeded.Add(1)
				}
			}
		})
	}
	harmed := make(chan []handoff.Redemption, 1)
	wait.Go(func() {
		for before := range harmed {
			c.again(append(before, c.spent()...))
		}
	})
	harms := 0
	func() {
		defer close(harmed)
		for until := time.Now().Add(lasts); time.Now().Before(until); harms++ {
			before := c.spent()
			harm()
			select {
			case harmed <- before:
			default: // the tokens of an earlier harm are still to be offered
			}
		}
	}()
	stop.Store(true)
	wait.Wait()
	c.Logf("%d harms, %d of %d tokens redeemed", harms, succeeded.Load(), tokens.Load())
}

// redeem offers a token, with a deadline.
func (c *chaos) redeem(replica handoff.Store, token handoff.Redemption) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	return replica.Redeem(ctx, token)
}

// crowd is a Crowd whose token is kept if it is redeemed.
func (c *chaos) crowd() (redeemed, inDoubt bool) {
	c.Helper()
	token := issuedNow()
	redeemed, inDoubt = crowd(c, c.ctx, token, c.replicas)
	if redeemed {
		const most = 256
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kept = append(c.kept, token)
		c.kept = c.kept[max(0, len(c.kept)-most):]
	}
	return redeemed, inDoubt
}

// spent returns the tokens that were redeemed last.
func (c *chaos) spent() []handoff.Redemption {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kept)
}

// again offers tokens that were redeemed, each until the answer is clear.
func (c *chaos) again(tokens []handoff.Redemption) {
	c.Helper()
	for i, token := range tokens {
		for began := time.Now(); c.ctx.Err() == nil && began.Before(token.Expires); {
			err := c.redeem(c.replicas[i%len(c.replicas)], token)
			if err == nil {
				c.Error("a token that was redeemed is redeemed again: its mark was lost")
				return
			}
			if errors.Is(err, handoff.ErrReplayed) {
				break
			}
			if time.Since(began) > patience {
				c.Errorf("a token that was redeemed is not said to be replayed in %s: %v", patience, err)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// Crowd has 64 callers redeem one token at replicas of a store, half of them later than
// the others, and returns whether one succeeded, and whether any was left in doubt: had
// another error than handoff.ErrReplayed. It is an error if more than one succeeds, and if
// the token is said to be replayed when nobody can have redeemed it.
func Crowd(t testing.TB, replicas ...handoff.Store) (redeemed, inDoubt bool) {
	t.Helper()
	if len(replicas) == 0 {
		t.Fatal("Crowd is given no replicas")
	}
	return crowd(t, t.Context(), issuedNow(), replicas)
}

func crowd(t testing.TB, ctx context.Context, token handoff.Redemption, replicas []handoff.Store) (redeemed, inDoubt bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const callers = 64
	var succeeded, replayed, doubtful atomic.Int32
	for range 2 {
		var wait sync.WaitGroup
		for i := range callers / 2 {
			wait.Go(func() {
				switch err := replicas[i%len(replicas)].Redeem(ctx, token); {
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
		IssuedAt: issued, Expires: issued.Add(handoff.MaxLifetime),
	}
}
