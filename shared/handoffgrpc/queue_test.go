package handoffgrpc

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// isShed checks that a call was refused as one whose token was not looked at.
func isShed(t *testing.T, err, cause error) {
	t.Helper()
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != handoff.ReasonLimitExceeded || refusal.Check != CheckGuardWaiting || !errors.Is(refusal.Err, cause) {
		t.Errorf("%#v", err)
	}
}

// Two are in verification, three wait, and the sixth is refused. Those who wait
// get their turn in the order in which they came, but for the one whose call ends.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2, 3)
		for range 2 {
			if err := q.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		var turns []int
		var ended error
		for i, ctx := range []context.Context{t.Context(), ctx, t.Context()} {
			go func() {
				if err := q.enter(ctx); err != nil {
					ended = err
					return
				}
				turns = append(turns, i)
			}()
			synctest.Wait()
		}
		isShed(t, q.enter(t.Context()), nil)

		gone := errors.New("the caller has gone")
		cancel(gone)
		synctest.Wait()
		isShed(t, ended, gone)
		go func() { _ = q.enter(t.Context()); turns = append(turns, 3) }() // in its room
		synctest.Wait()
		if len(turns) != 0 {
			t.Fatalf("%v did not wait for their turn", turns)
		}
		for range 3 {
			q.leave()
			synctest.Wait()
		}
		if want := []int{0, 2, 3}; !slices.Equal(turns, want) {
			t.Errorf("turns %v, want %v", turns, want)
		}
		q.leave()
		q.leave()
		if n, waiting := len(q.places), q.waiting.Load(); n != 0 || waiting != 0 {
			t.Errorf("%d places are taken and %d wait when all have left", n, waiting)
		}
	})
}

// A call that has ended by its turn costs no check, and keeps no place.
func TestQueueOfTheGone(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // a select takes either
		q := newQueue(1, 1)
		if err := q.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		answer := make(chan error)
		go func() { answer <- q.enter(ended) }()
		q.leave()
		if err := <-answer; err != nil {
			isShed(t, err, context.Canceled)
		} else {
			q.leave() // it never had to wait
		}
		if n, waiting := len(q.places), q.waiting.Load(); n != 0 || waiting != 0 {
			t.Fatalf("%d places are taken and %d wait", n, waiting)
		}
	}
}

// For each check there is one refusal at once, which can be saved up. Another
// comes with the next check, or after a pause.
func TestQueueRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, 3)
		check := func() {
			if err := q.enter(t.Context()); err != nil {
				t.Error(err)
			}
			q.leave()
		}
		for range 5 {
			check()
		}
		start := time.Now()
		for range 3 * refusalsPerCheck { // as many as may wait
			if !q.mayRefuse() {
				t.Error("a refusal that was saved up is not there")
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("refusals that were there took %s", took)
		}
		if q.mayRefuse() || time.Since(start) != pause {
			t.Errorf("one more took %s, want %s", time.Since(start), pause)
		}
		start = time.Now()
		time.AfterFunc(pause/2, check)
		if q.mayRefuse() || time.Since(start) != pause/2 {
			t.Errorf("with a check after %s, one more took %s", pause/2, time.Since(start))
		}
	})
}
