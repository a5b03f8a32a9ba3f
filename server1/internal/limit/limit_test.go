package limit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/measure"
)

var start = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// No key gets more than its due, however many others there are.
func TestNeverMoreThanItsDue(t *testing.T) {
	b := New(6)
	random := rand.New(rand.NewPCG(1, 2))
	taken := map[string][]time.Time{}
	for now := start; now.Before(start.Add(5 * time.Minute)); now = now.Add(10 * time.Millisecond) {
		key := fmt.Sprint(random.IntN(100) * random.IntN(100))
		if _, ok := Take(now, Share{b, key}); ok {
			taken[key] = append(taken[key], now)
		}
	}
	for key, times := range taken {
		for i := 6; i < len(times); i++ { // 6 at first, and one in 10 s
			if within := times[i].Sub(times[i-6]); within < 10*time.Second {
				t.Fatalf("%s got 7 tokens within %s", key, within)
			}
		}
	}
}

// One who waits for as long as is said gets a token, and not before.
func TestWait(t *testing.T) {
	for _, perMinute := range []int{1, 6, 7, 600, measure.Of(50_000, 1_000_000, 1_000_000)} {
		b := New(perMinute)
		for range perMinute {
			if _, ok := Take(start, Share{b, "k"}); !ok {
				t.Fatal("a token less than there are")
			}
		}
		wait, ok := Take(start, Share{b, "k"})
		if ok || wait <= 0 || wait > time.Minute/time.Duration(perMinute) {
			t.Errorf("%d a minute: %v, wait for %s", perMinute, ok, wait)
		}
		if _, ok := Take(start.Add(wait/2), Share{b, "k"}); ok {
			t.Errorf("%d a minute: a token after half of the time", perMinute)
		}
		if _, ok := Take(start.Add(wait+time.Microsecond), Share{b, "k"}); !ok {
			t.Errorf("%d a minute: no token after %s", perMinute, wait)
		}
	}
}

// What is refused by one bucket takes nothing of the others.
func TestAllOrNone(t *testing.T) {
	wide, narrow := New(10), New(1)
	allowed := 0
	for range 100 {
		if _, ok := Take(start, Share{wide, "all"}, Share{narrow, "one"}); ok {
			allowed++
		}
	}
	for i := range 100 {
		if _, ok := Take(start, Share{wide, "all"}, Share{narrow, fmt.Sprint(i)}); ok {
			allowed++
		}
	}
	if allowed != 10 {
		t.Errorf("%d were allowed, want 10", allowed)
	}
}

// The memory is bounded for any requests; and there is always room.
func TestKeysAreBounded(t *testing.T) {
	const keys = 1000
	b := bounded(1, keys)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := range keys {
				if _, ok := Take(start, Share{b, fmt.Sprint(part, " ", i)}); !ok {
					t.Error("a new key is refused")
				}
			}
		})
	}
	wg.Wait()
	if n := b.byKey.Len(); n > keys {
		t.Errorf("%d keys are kept", n)
	}
}
