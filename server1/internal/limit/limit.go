// Package limit bounds how often something is done.
//
//	attempts := limit.New(10) // a minute, for each key
//	wait, ok := limit.Take(now, limit.Share{Of: attempts, Key: "alice"})
//
// # Invariants
//
// A key has a bucket that is full at first and takes a minute to fill. A take that is
// refused takes nothing. The buckets of those who come least often are forgotten when
// there are too many keys, and are full again then: the memory is bounded.
//
// Each process counts for itself.
package limit

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/time/rate"
)

// keys is how many buckets of one kind are kept: about 15 MiB.
const keys = 1 << 16

// Buckets are token buckets, one for each key. They are safe for concurrent use.
type Buckets struct {
	perMinute int

	mu    sync.Mutex
	byKey *expirable.LRU[string, *rate.Limiter]
}

// New returns buckets of so many tokens, at least 1, that come back in a minute.
func New(perMinute int) *Buckets { return bounded(perMinute, keys) }

func bounded(perMinute, keys int) *Buckets {
	// A bucket that nobody has used for a minute is full, as a new one is.
	return &Buckets{perMinute: perMinute, byKey: expirable.NewLRU[string, *rate.Limiter](keys, nil, time.Minute)}
}

// Share is one token of a key's bucket.
type Share struct {
	Of  *Buckets
	Key string
}

// Take takes all of the shares, whose buckets differ, or none. Where one has nothing
// left, it returns how long it takes until it has.
func Take(now time.Time, shares ...Share) (wait time.Duration, ok bool) {
	for _, share := range shares { // in one order everywhere, or two would wait for each other
		share.Of.mu.Lock()
		defer share.Of.mu.Unlock()
	}
	for _, share := range shares {
		wait = max(wait, share.Of.wait(share.Key, now))
	}
	if wait > 0 {
		return wait, false
	}
	for _, share := range shares {
		share.Of.take(share.Key, now)
	}
	return 0, true
}

// wait returns how long it takes until a key's bucket has a token.
func (b *Buckets) wait(key string, now time.Time) time.Duration {
	bucket, ok := b.byKey.Peek(key)
	if !ok {
		return 0
	}
	missing := 1 - bucket.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Nanosecond, time.Duration(missing*float64(b.every())))
}

func (b *Buckets) take(key string, now time.Time) {
	bucket, ok := b.byKey.Peek(key)
	if !ok {
		bucket = rate.NewLimiter(rate.Every(b.every()), b.perMinute)
	}
	bucket.AllowN(now, 1)
	b.byKey.Add(key, bucket) // for a minute from now
}

// every is how long it takes until a token comes back.
func (b *Buckets) every() time.Duration { return time.Minute / time.Duration(b.perMinute) }
