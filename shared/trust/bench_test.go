package trust

import (
	"fmt"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// many is a store with n entries, half of them token ids and the rest sessions
// and subjects.
func many(b *testing.B, c *clock, n int, key handoff.Key) *store {
	s := newStore(key)
	for i := range n {
		var e Entry
		var err error
		switch i % 4 {
		case 0, 1:
			e, err = terms.Token(handoff.NewID(), c.Now().Add(handoff.MaxLifetime))
		case 2:
			e, err = terms.Session(handoff.NewID(), c.Now())
		case 3:
			e, err = terms.Subject(handoff.NewID(), c.Now())
		}
		s.record(b, e, err)
	}
	return s
}

func BenchmarkList(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		c, key, trustKey := newClock(), newSigner(), newSigner()
		p := newPublisher(b, PublisherConfig{Key: trustKey, Source: many(b, c, n, key.Key()), Now: c.Now})
		if err := p.Publish(b.Context()); err != nil {
			b.Fatal(err)
		}
		raw := p.newest().raw
		b.Run(fmt.Sprintf("publish/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Publish(b.Context()); err != nil {
					b.Fatal(err)
				}
				p.seq = 0
			}
			b.ReportMetric(float64(len(raw)), "bytes")
		})
		b.Run(fmt.Sprintf("apply/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			f := newFollower(b, trustKey.Key(), c.Now)
			for b.Loop() {
				f.current.Store(nil)
				if _, err := f.apply(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("check/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			f := newFollower(b, trustKey.Key(), c.Now)
			if _, err := f.apply(b.Context(), raw); err != nil {
				b.Fatal(err)
			}
			_, claims := issue(b, key, c.Now, "ann", handoff.NewID())
			claims.ID = handoff.NewID()
			ctx := b.Context()
			for b.Loop() {
				if err := f.Revoked(ctx, claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A follower is offered 10 MB that nobody signed.
func BenchmarkGarbage(b *testing.B) {
	c, trustKey := newClock(), forge.NewKey(handoff.EdDSA)
	f := newFollower(b, trustKey.Public, c.Now)
	good := goodList(trustKey, c.Now(), newSigner().Key())
	for _, hostile := range hostileLists(trustKey, newSigner().key, c.Now()) {
		raw := hostile.forge(good)
		if len(raw) < 10<<20 {
			continue
		}
		b.Run(hostile.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.apply(b.Context(), raw); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
