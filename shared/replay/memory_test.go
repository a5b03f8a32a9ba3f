package replay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/replay"
)

// clock is a clock that a test moves, in either direction.
type clock struct{ now atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.now.Store(time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time        { return time.Unix(0, c.now.Load()) }
func (c *clock) Add(d time.Duration)   { c.now.Add(int64(d)) }
func (c *clock) second() time.Time     { return c.Now().Truncate(time.Second) }
func (c *clock) config() replay.Config { return replay.Config{Now: c.Now} }

// token returns a token issued now, to live for a minute.
func (c *clock) token() handoff.Redemption {
	return handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(), IssuedAt: c.second(), Expires: c.second().Add(time.Minute),
	}
}

func redeem(t *testing.T, s handoff.Store, r handoff.Redemption, want error) {
	t.Helper()
	if err := s.Redeem(t.Context(), r); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// unclear checks that r is refused for none of the reasons that a store names.
func unclear(t *testing.T, s handoff.Store, r handoff.Redemption) {
	t.Helper()
	err := s.Redeem(t.Context(), r)
	if err == nil || errors.Is(err, handoff.ErrReplayed) || errors.Is(err, handoff.ErrStoreFull) || errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v, want an error of no named kind", err)
	}
}

func TestMemoryConforms(t *testing.T) {
	handofftest.Store(t, func(*testing.T) handoff.Store { return replay.NewMemory(replay.Config{}) })
}

// E02: a restart forgets, so nothing is accepted that could have been redeemed
// before it, and health can tell until when.
func TestE02MemoryRefusesWhatWasIssuedBeforeItsStart(t *testing.T) {
	c := newClock() // 12:00:00.25
	s := replay.NewMemory(c.config())
	for _, ahead := range []time.Duration{-time.Minute, -time.Second, 0, time.Second, 5 * time.Second} {
		r := c.token()
		r.IssuedAt = r.IssuedAt.Add(ahead)
		redeem(t, s, r, handoff.ErrIssuedBeforeStart)
	}
	if want := c.second().Add(6 * time.Second); !s.Ready().Equal(want) {
		t.Errorf("ready at %v, want %v", s.Ready(), want)
	}
	r := c.token()
	r.IssuedAt = s.Ready()
	redeem(t, s, r, nil)
	redeem(t, s, r, handoff.ErrReplayed)
}

func TestMemoryKeepsAMarkForTwiceTheSkew(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Second, time.Minute, 5 * time.Minute} {
		c := newClock()
		s := replay.NewMemory(c.config())
		c.Add(10 * time.Second)
		r := c.token()
		r.Expires = r.IssuedAt.Add(lifetime)
		redeem(t, s, r, nil)
		for c.Add(time.Second); c.Now().Before(r.Expires.Add(10 * time.Second)); c.Add(time.Second) {
			redeem(t, s, r, handoff.ErrReplayed)
		}
		unclear(t, s, r)
		if c.Add(20 * time.Second); s.Live() != 1 {
			t.Errorf("%d live before the next redemption, want 1", s.Live())
		}
		redeem(t, s, c.token(), nil)
		if s.Live() != 1 {
			t.Errorf("%d live a period after the only mark's end, want the new one", s.Live())
		}
	}
}

// F01: a mark that was dropped stays refused when the clock is set back, and one
// that was not stays.
func TestF01MemoryWhenTheClockIsSetBack(t *testing.T) {
	c := newClock()
	s := replay.NewMemory(c.config())
	c.Add(10 * time.Second)
	old := c.token()
	redeem(t, s, old, nil)
	c.Add(2 * time.Minute)
	recent := c.token()
	redeem(t, s, recent, nil)
	c.Add(-2 * time.Minute)
	unclear(t, s, old)
	redeem(t, s, recent, handoff.ErrReplayed)
	c.Add(-24 * time.Hour)
	unclear(t, s, old)
	redeem(t, s, c.token(), handoff.ErrIssuedBeforeStart)
	redeem(t, s, recent, handoff.ErrReplayed)
}

// E12: full is a refusal. Nothing is dropped for a newcomer, and there is room
// again as soon as marks have ended.
func TestE12MemoryIsBounded(t *testing.T) {
	c := newClock()
	s := replay.NewMemory(replay.Config{Now: c.Now, MaxLive: 100})
	c.Add(10 * time.Second)
	var all []handoff.Redemption
	for range 100 {
		all = append(all, c.token())
		redeem(t, s, all[len(all)-1], nil)
	}
	redeem(t, s, c.token(), handoff.ErrStoreFull)
	for _, r := range all {
		redeem(t, s, r, handoff.ErrReplayed)
	}
	if s.Live() != 100 {
		t.Errorf("%d live, want 100", s.Live())
	}
	c.Add(90 * time.Second)
	for range 100 {
		redeem(t, s, c.token(), nil)
	}
	redeem(t, s, c.token(), handoff.ErrStoreFull)
}

func TestMemoryRefusesATokenThatLivesTooLong(t *testing.T) {
	c := newClock()
	s := replay.NewMemory(c.config())
	c.Add(10 * time.Second)
	r := c.token()
	for _, expires := range []time.Time{
		c.Now().Add(6 * time.Minute), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Unix(1<<62, 0),
	} {
		r.Expires = expires
		unclear(t, s, r)
	}
	for _, expires := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1<<62, 0)} {
		r.Expires = expires
		unclear(t, s, r)
	}
	r.Expires = c.second().Add(305 * time.Second)
	redeem(t, s, r, nil)
	redeem(t, s, r, handoff.ErrReplayed)
}

func TestConfigHasNoBadValue(t *testing.T) {
	for _, c := range []struct{ skew, want time.Duration }{
		{0, 5 * time.Second}, {-time.Hour, 5 * time.Second}, {time.Second, time.Second}, {time.Hour, time.Minute},
	} {
		if got := replay.NewMemory(replay.Config{Skew: c.skew}).Skew(); got != c.want {
			t.Errorf("Skew %s: got %s, want %s", c.skew, got, c.want)
		}
	}
}

// Marks survive their tables' growth: a hundred thousand, found again each.
func TestMemoryFindsEachOfMany(t *testing.T) {
	c := newClock()
	s := replay.NewMemory(c.config())
	c.Add(10 * time.Second)
	r := c.token()
	const workers = 4
	each := measure.Of(2_500, 25_000, 25_000)
	for _, want := range []error{nil, handoff.ErrReplayed} {
		var wait sync.WaitGroup
		for w := range workers {
			wait.Go(func() {
				for i := range each {
					r := r
					r.ID = fmt.Sprintf("%d-%d", w, i)
					r.Expires = r.IssuedAt.Add(time.Duration(1+i%300) * time.Second)
					if err := s.Redeem(context.Background(), r); !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
						return
					}
				}
			})
		}
		wait.Wait()
	}
	if s.Live() != each*workers {
		t.Errorf("%d live, want %d", s.Live(), each*workers)
	}
}

// While periods end under load, each token is still redeemed exactly once.
func TestE01MemoryWhilePeriodsEnd(t *testing.T) {
	c := newClock()
	s := replay.NewMemory(c.config())
	c.Add(10 * time.Second)
	for range 200 {
		r := c.token()
		var succeeded atomic.Int32
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				if s.Redeem(context.Background(), r) == nil {
					succeeded.Add(1)
				}
				c.Add(time.Second)
			})
		}
		wait.Wait()
		if succeeded.Load() != 1 {
			t.Fatalf("redeemed %d times, want 1", succeeded.Load())
		}
	}
}

func ExampleNewMemory() {
	store := replay.NewMemory(replay.Config{})
	issued := store.Ready() // the store has just begun: it refuses what was issued earlier
	token := handoff.Redemption{
		Issuer: "https://shop.example", ID: "Ux9nF2n0Q1C8m3kq7yTz0A",
		IssuedAt: issued, Expires: issued.Add(time.Minute),
	}
	fmt.Println(store.Redeem(context.Background(), token))
	fmt.Println(store.Redeem(context.Background(), token))
	// Output:
	// <nil>
	// redeemed before
}
