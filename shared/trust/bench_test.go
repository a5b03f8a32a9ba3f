package trust

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// many is a store with n entries, half of them token ids and the rest sessions
// and subjects.
func many(b testing.TB, c *clock, n int, key handoff.Key) *store {
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
		raw := p.text()
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
				if _, err := f.take(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("check/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			f := newFollower(b, trustKey.Key(), c.Now)
			if _, err := f.take(b.Context(), raw); err != nil {
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
				if _, err := f.take(b.Context(), raw); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}

// A publication where nothing changes, to 1,000 watchers: what it costs must not grow
// with what was taken back. Both ends are in this process; the store is memory.
func BenchmarkPublication(b *testing.B) {
	const watchers, connections = 1000, 10
	for _, n := range []int{0, 1_000, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			c, key := newClock(), newSigner()
			state, err := many(b, c, n, key.Key()).State(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			p := newPublisher(b, PublisherConfig{Key: newSigner(), Source: &fixed{state: state}, Now: c.Now})
			if err := p.Publish(b.Context()); err != nil {
				b.Fatal(err)
			}
			dial, _ := serveGRPC(b, p.Register)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			received := make(chan int, watchers)
			for range connections {
				conn, err := grpc.NewClient("passthrough:///shop", dial...)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				for range watchers / connections {
					stream, err := handoffv1.NewTrustServiceClient(conn).WatchTrustList(ctx, &handoffv1.WatchTrustListRequest{})
					if err != nil {
						b.Fatal(err)
					}
					go func() {
						for {
							sent, err := stream.Recv()
							if err != nil {
								return
							}
							received <- proto.Size(sent)
						}
					}()
				}
			}
			size := 0
			all := func() {
				for range watchers {
					size = <-received
				}
			}
			all()
			began := processorTime(b)
			for b.Loop() {
				if err := p.Publish(b.Context()); err != nil {
					b.Fatal(err)
				}
				all()
				p.seq = 0
			}
			b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
			b.ReportMetric(float64(size), "B/follower")
		})
	}
}
