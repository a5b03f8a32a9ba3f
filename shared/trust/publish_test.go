package trust

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
)

// refusedField is the field that a *handoff.ConfigError names, or empty.
func refusedField(err error) string {
	var config *handoff.ConfigError
	if !errors.As(err, &config) || config.Problem == "" {
		return ""
	}
	return config.Field
}

func TestNewPublisherRefuses(t *testing.T) {
	good := PublisherConfig{Terms: terms, Key: newSigner(), Source: newStore()}
	for name, change := range map[string]func(*PublisherConfig){
		"Terms.Issuer":                      func(c *PublisherConfig) { c.Terms.Issuer = "" },
		"Terms.Issuer: quoted":              func(c *PublisherConfig) { c.Terms.Issuer = `x"y` },
		"Terms.TokenLifetime":               func(c *PublisherConfig) { c.Terms.TokenLifetime = time.Hour + time.Second },
		"Terms.TokenLifetime: ms":           func(c *PublisherConfig) { c.Terms.TokenLifetime = 1500 * time.Millisecond },
		"Terms.ListLifetime":                func(c *PublisherConfig) { c.Terms.ListLifetime = 25 * time.Hour },
		"Terms.ListLifetime: ms":            func(c *PublisherConfig) { c.Terms.ListLifetime = 1500 * time.Millisecond },
		"Terms.Skew":                        func(c *PublisherConfig) { c.Terms.Skew = -1 },
		"PublisherConfig.Key":               func(c *PublisherConfig) { c.Key = nil },
		"PublisherConfig.Source":            func(c *PublisherConfig) { c.Source = nil },
		"PublisherConfig.Refresh":           func(c *PublisherConfig) { c.Refresh = 31 * time.Second },
		"PublisherConfig.Refresh: negative": func(c *PublisherConfig) { c.Refresh = -1 },
		"Terms.ListLifetime: none":          func(c *PublisherConfig) { c.Terms.ListLifetime = -time.Second },
	} {
		config := good
		change(&config)
		field, _, _ := strings.Cut(name, ":")
		if _, err := NewPublisher(config); err == nil || refusedField(err) != "trust."+field {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewPublisher(good); err != nil {
		t.Errorf("control: %v", err)
	}
}

// While the store fails the last list stays until it expires, and no other is
// signed; one report for each cause, and one when it is over.
func TestF03StoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, trustKey, s := newSigner(), newSigner(), newStore()
		s.list(key.Key())
		var mu sync.Mutex
		var reports []error
		p := newPublisher(t, PublisherConfig{
			Terms: Terms{Issuer: issuer, ListLifetime: 6 * time.Second}, Key: trustKey, Source: s,
			Report: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, err)
			},
		})
		if p.Healthy() == nil || p.newest() != nil {
			t.Error("healthy before the first list")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go p.Run(ctx)
		time.Sleep(4500 * time.Millisecond)
		before := p.newest()
		if p.Healthy() != nil || before == nil {
			t.Fatal("not healthy")
		}
		s.fail(errors.New("disk I/O error"))
		time.Sleep(3 * time.Second)
		if p.newest() != before || p.Healthy() == nil {
			t.Error("the last list does not stand, or all seems well")
		}
		s.fail(errors.New("database is locked"))
		time.Sleep(6 * time.Second)
		if p.newest() != nil {
			t.Error("an expired list is handed out")
		}
		s.fail(nil)
		time.Sleep(2500 * time.Millisecond)
		if p.newest() == nil || p.Healthy() != nil {
			t.Errorf("not back: %v", p.Healthy())
		}
		// A store that hangs is one that fails.
		cancel()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(reports) != 3 || reports[0] == nil || reports[1] == nil || reports[2] != nil {
			t.Errorf("reported %q", reports)
		}
	})
}

type hanging struct{}

func (hanging) State(ctx context.Context) (State, error) {
	<-ctx.Done()
	return State{}, ctx.Err()
}

// A store that does not answer is one that fails.
func TestF03StoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reports := make(chan error, 1)
		p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: hanging{}, Report: func(err error) { reports <- err }})
		ctx, cancel := context.WithCancel(t.Context())
		go p.Run(ctx)
		began := time.Now()
		if err := <-reports; err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("reported %v after %s", err, time.Since(began))
		}
		cancel()
		synctest.Wait()
	})
}

// Changes reach the list at once; a burst of them costs few lists.
func TestChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newSigner()
		s := newStore(key.Key())
		p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: s})
		ctx, cancel := context.WithCancel(t.Context())
		go p.Run(ctx)
		time.Sleep(time.Second)
		if s.count() != 1 {
			t.Errorf("%d reads at the start", s.count())
		}
		e, err := terms.Token(handoff.NewID(), time.Now().Add(time.Minute))
		s.record(t, e, err)
		p.Changed()
		synctest.Wait()
		if s.count() != 2 {
			t.Errorf("%d reads after a change", s.count())
		}
		for range 1000 {
			p.Changed()
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(50 * time.Millisecond)
		if s.count() < 5 || s.count() > 12 {
			t.Errorf("%d reads after 1000 changes within 100 ms", s.count())
		}
		reads := s.count()
		time.Sleep(20 * time.Second)
		if got := s.count() - reads; got < 9 || got > 11 {
			t.Errorf("%d refreshes in 20 s", got)
		}
		cancel()
		synctest.Wait()
	})
}

// seq grows with each list, by the clock or by one, even when the clock steps; a
// list that followers would refuse is not signed.
func TestF01SeqGrows(t *testing.T) {
	c, key := newClock(), newSigner()
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: newStore(key.Key()), Now: c.Now})
	last := int64(0)
	for _, step := range []struct {
		by   time.Duration
		want int64 // beyond the last, or 0: the clock's
		ok   bool
	}{
		{0, 0, true},
		{0, 1, true},
		{0, 1, true},
		{time.Second, 0, true},
		{-3 * time.Second, 1, true},
		{-3 * time.Second, 0, false},
		{4 * time.Second, 1, true},
		{10 * time.Second, 0, true},
	} {
		c.advance(step.by)
		err := p.Publish(t.Context())
		if (err == nil) != step.ok {
			t.Fatalf("after %s: %v", step.by, err)
		}
		if !step.ok {
			continue
		}
		seq := p.newest().seq
		if step.want > 0 && seq != last+step.want || step.want == 0 && seq != c.Now().UnixMilli() || seq <= last {
			t.Errorf("after %s: seq is %d after %d at %d", step.by, seq, last, c.Now().UnixMilli())
		}
		last = seq
	}
}

// shared is a store that several publishers share.
type shared struct {
	*store
	seq *int64
}

func (s shared) NextSeq(_ context.Context, atLeast int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.seq = max(*s.seq+1, atLeast)
	return *s.seq, nil
}

// Two processes that sign at the same millisecond, and one that starts again,
// number no two lists alike.
func TestSequencer(t *testing.T) {
	c, key := newClock(), newSigner()
	s := shared{newStore(key.Key()), new(int64)}
	seen := map[int64]bool{}
	config := PublisherConfig{Key: newSigner(), Source: s, Now: c.Now}
	for range 3 {
		for _, p := range []*Publisher{newPublisher(t, config), newPublisher(t, config)} {
			for range 3 {
				if err := p.Publish(t.Context()); err != nil {
					t.Fatal(err)
				}
				if seq := p.newest().seq; seen[seq] {
					t.Errorf("%d twice", seq)
				} else {
					seen[seq] = true
				}
			}
		}
	}
	// One whose clock was ahead draws no numbers by what it was.
	late := newPublisher(t, config)
	c.advance(time.Hour)
	if err := late.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.advance(-time.Hour)
	*s.seq = c.Now().UnixMilli() // as an operator mends it
	if err := late.Publish(t.Context()); err == nil || *s.seq != c.Now().UnixMilli() {
		t.Errorf("the counter is %s ahead, %v", time.UnixMilli(*s.seq).Sub(c.Now()), err)
	}
	if err := newPublisher(t, config).Publish(t.Context()); err != nil {
		t.Errorf("another process: %v", err)
	}
	backward := newPublisher(t, PublisherConfig{Key: newSigner(), Source: constant{s.store}, Now: c.Now})
	if err := backward.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := backward.Publish(t.Context()); err == nil {
		t.Error("a number twice is accepted from the store")
	}
}

type constant struct{ *store }

func (constant) NextSeq(_ context.Context, atLeast int64) (int64, error) {
	return 1_800_000_000_000, nil
}

// The trust key signs lists and nothing else: it is not listed.
func TestTrustKeyIsNotListed(t *testing.T) {
	c, key, trustKey := newClock(), newSigner(), newSigner()
	s := newStore(key.Key(), trustKey.Key())
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s, Now: c.Now})
	if err := p.Publish(t.Context()); err == nil {
		t.Error("listed")
	}
	s.list(key.Key())
	if err := p.Publish(t.Context()); err != nil {
		t.Errorf("control: %v", err)
	}
}

// No bound refuses the revocation that would pass it: what would make a list too long
// for followers is taken back by a cut-off for all.
func TestListTooLong(t *testing.T) {
	measure.InCI(t)
	c, key, trustKey := newClock(), newSigner(), newSigner()
	s := &fixed{state: long(c, maxEntries+1, key.Key())}
	p := newPublisher(t, PublisherConfig{Key: trustKey, Source: s, Now: c.Now})
	last, err := terms.Session("AAAAAAAAAAAAAAAAAAAAAA", c.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	last.Until = c.Now().Add(time.Second) // the oldest
	s.state.Revoked = append(s.state.Revoked, last)
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size := len(p.archive.newest().text); size > maxText {
		t.Errorf("the entries have %d bytes", size)
	}
	f := newFollower(t, trustKey.Key(), c.Now)
	if _, err := f.take(t.Context(), p.text()); err != nil {
		t.Fatal(err)
	}
	for at, revoked := range map[time.Time]bool{c.Now().Add(-time.Minute): true, c.Now(): true, c.Now().Add(time.Second): false} {
		err := f.Revoked(t.Context(), &handoff.Claims{Issuer: issuer, ID: handoff.NewID(), Subject: "ann", IssuedAt: at})
		if errors.Is(err, handoff.ErrRevoked) != revoked {
			t.Errorf("a token issued %s from now: %v", at.Sub(c.Now()), err)
		}
	}
}

type fixed struct{ state State }

func (f *fixed) State(context.Context) (State, error) { return f.state, nil }
