package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// defaultMaxLive is how many marks a store holds when it is not told: 10 million,
// some 250 MB, or 140,000 redemptions a second of tokens that live a minute.
const defaultMaxLive = 10_000_000

// Config sets up an embedded store. Its zero value is a good one, and there is
// no bad one: a value out of its range counts as the nearest in it.
//
// A Memory, and a Journal that has just been made, refuses every token issued up
// to Skew after it began: the first five or six seconds of a fresh service's
// tokens. Ready says from when on they are accepted, Healthy whether it is so far.
type Config struct {
	// Skew is the largest skew of a verifier that uses the store, at most 60 s: what
	// one with a larger skew asks for is refused. Zero or less: 5 s.
	Skew time.Duration
	// MaxLive is how many marks the store holds; the next redemption is refused
	// with handoff.ErrStoreFull. A mark takes 20 to 25 bytes, and stays for its
	// token's remaining life, twice the skew and up to 16 s more. Zero or less:
	// 10 million.
	MaxLive int
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Observe is told what happens to a Journal. It may be called from several
	// goroutines and must return soon. A Memory has nothing to tell. Nil: nobody.
	Observe func(Event)
}

func (c Config) complete() Config {
	if c.Skew <= 0 {
		c.Skew = handoff.DefaultSkew
	}
	c.Skew = min(c.Skew, handoff.MaxSkew)
	if c.MaxLive <= 0 {
		c.MaxLive = defaultMaxLive
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return c
}

// Memory is a handoff.Store for one process, in its memory. Since that is lost
// with the process, it refuses every token that was issued before it began, up
// to the skew: no restart opens a window for replay. It is safe for concurrent
// use, and starts no goroutine.
type Memory struct {
	marks *marks
}

// NewMemory returns an empty store whose memory begins now.
//
// For the next seconds it redeems nothing: what was issued before it began, or
// within Config.Skew after, is refused with handoff.ErrIssuedBeforeStart, since a
// Memory before it may have redeemed it. A service is ready, and a test can hand
// off, from Ready on.
func NewMemory(c Config) *Memory {
	c = c.complete()
	m := newMarks(c)
	m.after = c.Now().Add(c.Skew)
	return &Memory{m}
}

// Redeem implements handoff.Store. A ctx that is done refuses.
func (m *Memory) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("not redeemed: %w", err)
	}
	k := newKey(r.Issuer, r.ID)
	return m.marks.redeem(&k, &r)
}

// Skew returns the skew that the store covers. NewVerifier refuses a larger one.
func (m *Memory) Skew() time.Duration { return m.marks.skew }

// Ready returns from when on tokens are issued that the store accepts: the first
// whole second later than its start + skew. Until then health says NOT_SERVING.
func (m *Memory) Ready() time.Time { return m.marks.ready() }

// Healthy returns nil if the store accepts a token that is issued now, or why
// not: it has only begun, it is full, or the clock was set back by more than
// twice the skew. It is cheap enough for each readiness probe.
func (m *Memory) Healthy() error { return m.marks.healthy() }

// Live returns how many marks the store holds.
func (m *Memory) Live() int { return int(m.marks.live.Load()) }
