package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// Publication measures what a trust list costs who publishes it to many followers, by
// how much it has taken back, each follower with a connection of its own.
func Publication(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	rounds, n, followers := 9, 4, 1000
	if s.Short {
		rounds, n, followers = 3, 2, 50
	}
	var all []*readership
	for _, entries := range []int{0, 1_000, 10_000} {
		s.Say("publication: %d followers of %d entries", followers, entries)
		r, err := newReadership(ctx, entries, followers)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.publisher.Stop()) }()
		all = append(all, r)
	}
	for round := range rounds {
		s.Say("publication: round %d of %d", round+1, rounds)
		for k := range all {
			r := all[(k+round)%len(all)]
			for _, of := range []struct {
				order string
				cost  *[]spread
			}{{"publish", &r.same}, {"take back", &r.more}} {
				if *of.cost, err = r.publish(ctx, of.order, n, *of.cost); err != nil {
					return err
				}
			}
		}
	}
	reportPublication(t, all, followers)
	return nil
}

// readership is a publisher in a process of its own, and those who follow it.
type readership struct {
	entries   int
	publisher *Child
	followers int
	heard     atomic.Int64 // statements, by all followers
	failed    chan error

	same, more []spread // where nothing changed, and where one more is taken back
}

// spread is what a publication cost, on average of a round.
type spread struct {
	processor float64 // ns
	bytes     float64 // a follower, both ways
}

func newReadership(ctx context.Context, entries, followers int) (*readership, error) {
	r := &readership{entries: entries, followers: followers, failed: make(chan error, followers)}
	var err error
	if r.publisher, err = startChild(ctx, order{Variant: publishing, Entries: entries}); err != nil {
		return nil, err
	}
	if err := r.publisher.dial(followers); err != nil {
		return nil, errors.Join(err, r.publisher.Stop())
	}
	for _, connection := range r.publisher.pool {
		go func() { r.failed <- r.follow(ctx, connection) }()
	}
	if err := r.hear(ctx, int64(followers)); err != nil {
		return nil, errors.Join(err, r.publisher.Stop())
	}
	return r, nil
}

// follow counts the statements that a follower is sent.
func (r *readership) follow(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := handoffv1.NewTrustServiceClient(connection).WatchTrustList(ctx, &handoffv1.WatchTrustListRequest{})
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			r.heard.Add(1)
		}
	}
	return err
}

// hear waits until the followers have heard so many statements in all.
func (r *readership) hear(ctx context.Context, statements int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for r.heard.Load() < statements {
		select {
		case err := <-r.failed:
			return fmt.Errorf("a follower: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("of %d statements, followers heard %d", statements, r.heard.Load())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// publish has lists published, one after the other, and adds what one cost.
func (r *readership) publish(ctx context.Context, order string, n int, to []spread) ([]spread, error) {
	before, err := r.publisher.ask("usage")
	if err != nil {
		return to, err
	}
	for range n {
		want := r.heard.Load() + int64(r.followers)
		if _, err := r.publisher.ask(order); err != nil {
			return to, err
		}
		if err := r.hear(ctx, want); err != nil {
			return to, err
		}
	}
	after, err := r.publisher.ask("usage")
	return append(to, spread{
		float64(after.Processor-before.Processor) / float64(n),
		float64(after.Moved-before.Moved) / float64(n*r.followers),
	}), err
}

func reportPublication(t *measure.Table, all []*readership, followers int) {
	for _, of := range []struct {
		what string
		cost func(*readership) []spread
	}{
		{"nothing has changed", func(r *readership) []spread { return r.same }},
		{"one more is taken back", func(r *readership) []spread { return r.more }},
	} {
		for i, r := range all {
			costs := of.cost(r)
			processor, bytes := func(c spread) float64 { return c.processor }, func(c spread) float64 { return c.bytes }
			each := make([]float64, len(costs))
			for round, c := range costs {
				each[round] = c.processor / of.cost(all[0])[round].processor
			}
			ratio, traffic := measure.Median(each, func(x float64) float64 { return x }), measure.Median(costs, bytes)
			what := fmt.Sprintf("%s entries, %s", measure.Grouped(float64(r.entries)), of.what)
			t.Add(measure.Line{
				What: what + ": processor time of a publication", Median: measure.Microseconds(measure.Median(costs, processor)), Ratio: ratio,
				Note: fmt.Sprintf("%s followers; %s B to and from each", measure.Grouped(float64(followers)), measure.Grouped(traffic)),
			})
			if i == len(all)-1 && of.what == "nothing has changed" {
				t.Most(fmt.Sprintf("publication to %s followers, 10,000 entries, to none, processor time", measure.Grouped(float64(followers))), ratio, 1.2, " x")
				t.Most("publication, traffic of a follower where nothing has changed", traffic, 2000, " B")
			}
		}
	}
}

// press publishes in a child.
type press struct {
	publisher *trust.Publisher
	store     *chronicle
	moved     atomic.Int64 // bytes, by the followers' connections
}

// chronicle is what has been taken back. One order is obeyed at a time.
type chronicle struct {
	terms trust.Terms
	state trust.State
}

func (c *chronicle) State(context.Context) (trust.State, error) { return c.state, nil }

func (c *chronicle) takeBack(n int) error {
	for i := range n {
		e, err := raced.TakeBack(c.terms, len(c.state.Revoked)+i)
		if err != nil {
			return err
		}
		c.state.Revoked = append(c.state.Revoked, e)
	}
	return nil
}

func newPress(ctx context.Context, entries int) (*press, error) {
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	trustKey, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	terms := trust.Terms{Issuer: raced.ShopName, ListLifetime: time.Hour}
	p := &press{store: &chronicle{terms: terms, state: trust.State{Keys: []handoff.Key{key.Key()}}}}
	if err := p.store.takeBack(entries); err != nil {
		return nil, err
	}
	p.publisher, err = trust.NewPublisher(trust.PublisherConfig{Terms: terms, Key: trustKey, Source: p.store})
	if err != nil {
		return nil, err
	}
	return p, p.publisher.Publish(ctx)
}

// obey does what a line of the parent's says.
func (p *press) obey(ctx context.Context, line string) error {
	switch line {
	case "take back":
		if err := p.store.takeBack(1); err != nil {
			return err
		}
		return p.publisher.Publish(ctx)
	case "publish":
		return p.publisher.Publish(ctx)
	}
	return nil
}

// listen counts what goes through a listener's connections.
func (p *press) listen(l net.Listener) net.Listener { return counting{l, &p.moved} }

type counting struct {
	net.Listener
	moved *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return counted{conn, l.moved}, err
}

type counted struct {
	net.Conn
	moved *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.moved.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.moved.Add(int64(n))
	return n, err
}
