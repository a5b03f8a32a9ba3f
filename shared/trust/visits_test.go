package trust

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// visitors is a store that lists visits.
type visitors struct {
	*store
	mu     sync.Mutex
	listed bool
	visits []Visit
}

func (v *visitors) State(ctx context.Context) (State, error) {
	s, err := v.store.State(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	s.VisitsListed, s.Visits = v.listed, append([]Visit(nil), v.visits...)
	return s, err
}

func (v *visitors) add(c *handoff.Claims) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.visits = append(v.visits, Visit{ID: c.ID, Expires: c.Expires})
}

// visiting is a pair whose publisher lists visits.
func visiting(t *testing.T, now func() time.Time) (*pair, *visitors) {
	t.Helper()
	p := &pair{t: t, now: now, key: newSigner()}
	trustKey := newSigner()
	p.store = newStore(p.key.Key())
	v := &visitors{store: p.store, listed: true}
	p.publisher = newPublisher(t, PublisherConfig{Key: trustKey, Source: v, Now: now})
	p.follower = newFollower(t, trustKey.Key(), now)
	p.verifier = newVerifier(t, p.follower, now)
	p.publish()
	return p, v
}

// visit signs a visit, as any holder of the key can.
func (p *pair) visit() (string, *handoff.Claims) {
	p.t.Helper()
	i, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuer, Key: p.key, MaxVisitLifetime: time.Hour, Now: p.now})
	if err != nil {
		p.t.Fatal(err)
	}
	raw, claims, err := i.Issue(p.t.Context(), handoff.IssueParams{
		Audience: audience, Subject: "ann", Session: handoff.NewID(), Methods: []string{"/billing.v1.Billing/Get"},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return raw, claims
}

func (p *pair) visited(what, raw string, want handoff.Reason) {
	p.t.Helper()
	if _, err := p.verifier.VerifyVisit(p.t.Context(), raw); handoff.ReasonOf(err) != want || (err == nil) != (want == 0) {
		p.t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// Where visits are listed, only those stand: not one that a stolen key signs, with any
// times. Handoffs are not listed.
func TestVisitsListed(t *testing.T) {
	c := newClock()
	p, v := visiting(t, c.Now)
	raw, claims := p.visit()
	p.visited("signed, and not yet listed", raw, handoff.ReasonTrustStale)
	v.add(claims)
	p.publish()
	p.visited("listed", raw, 0)
	handedOff := p.issue("ann", handoff.NewID())
	p.accepted(handedOff)

	stolen, _ := p.visit()
	p.visited("signed by a thief, just now", stolen, handoff.ReasonTrustStale)
	c.advance(6 * time.Second)
	p.publish()
	p.visited("signed by a thief, a while ago", stolen, handoff.ReasonTokenRevoked)
	p.visited("listed, a while later", raw, 0)
	if got := p.follower.Status(); got.Visits != 1 || got.Entries != 0 {
		t.Errorf("%+v", got)
	}

	p.takeBack(terms.Token(claims.ID, claims.Expires))
	p.visited("listed, and taken back", raw, handoff.ReasonTokenRevoked)

	// What is over leaves the list; that none stands is said as well.
	c.advance(16 * time.Minute)
	p.publish()
	if got := p.follower.Status(); got.Visits != 0 {
		t.Errorf("%+v", got)
	}
	stolen, _ = p.visit()
	p.visited("signed by a thief, where no visit stands", stolen, handoff.ReasonTrustStale)

	// Without the allow list a visit stands that is not taken back, and with it again.
	v.listed = false
	p.publish()
	p.visited("where none is listed", stolen, 0)
	v.listed = true
	p.publish()
	p.visited("where they are listed again", stolen, handoff.ReasonTrustStale)
}

// A change of the listed visits makes what the whole would have made, from each kind of
// entries to each.
func TestVisitsChange(t *testing.T) {
	ids := make([]id, 6)
	for i := range ids {
		ids[i] = id([]byte(handoff.NewID()))
	}
	of := func(which ...int) *entries {
		e := newEntries()
		e.live = map[id]struct{}{}
		for _, i := range which {
			e.live[ids[i]] = struct{}{}
		}
		return e
	}
	states := map[string]*entries{"unlisted": newEntries(), "none": of(), "some": of(0, 1, 2), "others": of(2, 3, 4, 5)}
	for before, from := range states {
		for after, to := range states {
			text := string(to.encode())
			read, err := decodeEntries(text)
			if err != nil || (read.live == nil) != (to.live == nil) || string(read.encode()) != text {
				t.Fatalf("%s: %v: %s", after, err, text)
			}
			change := string(difference(hash(from.encode()), from, to).encode())
			made, err := become(change, hash(to.encode()), &list{digest: hash(from.encode()), entries: from})
			if err != nil || (made.live == nil) != (to.live == nil) || string(made.encode()) != text {
				t.Errorf("%s to %s: %v: %s", before, after, err, change)
			}
		}
	}
	for _, text := range []string{
		`{"tokens":[],"sessions":[],"subjects":{},"live":null}`, `{"tokens":[],"sessions":[],"subjects":{},"live":{}}`,
		`{"tokens":[],"sessions":[],"live":[],"subjects":{}}`, `{"tokens":[],"sessions":[],"subjects":{},"live":["x"]}`,
		`{"tokens":[],"sessions":[],"subjects":{},"live":["` + string(ids[0][:]) + `","` + string(ids[0][:]) + `"]}`,
		`{"live":[]}`,
	} {
		if _, err := decodeEntries(text); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
	const from = `{"from":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","added":{"tokens":[],"sessions":[],"subjects":{}`
	for _, text := range []string{
		from + `,"live":[]},"removed":{"tokens":[],"sessions":[],"subjects":[]}}`,
		from + `},"removed":{"tokens":[],"sessions":[],"subjects":[],"live":[]}}`,
	} {
		if _, err := decodeChange(text); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
}

// A state that cannot be listed makes no list; of too many visits those stay that last
// longest.
func TestVisitsOfTheState(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	if _, err := standing(State{VisitsListed: true, Visits: []Visit{{ID: "x", Expires: now.Add(time.Minute)}}}, now); err == nil {
		t.Error("an id that is none is listed")
	}
	if live, err := standing(State{Visits: []Visit{{ID: handoff.NewID(), Expires: now.Add(time.Minute)}}}, now); live != nil || err != nil {
		t.Errorf("%v, %v: visits are listed where they are not", live, err)
	}
	many := State{VisitsListed: true, Visits: make([]Visit, MaxVisits+10)}
	for i := range many.Visits {
		many.Visits[i] = Visit{ID: handoff.NewID(), Expires: now.Add(time.Duration(1+i) * time.Second)}
	}
	live, err := standing(many, now)
	if err != nil || len(live) != MaxVisits {
		t.Fatalf("%d are listed, %v", len(live), err)
	}
	for i, visit := range many.Visits {
		if _, listed := live[id([]byte(visit.ID))]; listed != (i >= 10) {
			t.Fatalf("%d: listed %t", i, listed)
		}
	}
}

// Published returns once a list is out whose state was read after the call.
func TestPublished(t *testing.T) {
	v := &visitors{store: newStore(newSigner().Key()), listed: true}
	p := newPublisher(t, PublisherConfig{Key: newSigner(), Source: v})
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Published(stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("before the first list: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	defer func() { stop(); <-ended }()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			c := &handoff.Claims{ID: handoff.NewID(), Expires: time.Now().Add(time.Hour)}
			v.add(c)
			if err := p.Published(t.Context()); err != nil {
				t.Error(err)
				return
			}
			if _, text, _ := strings.Cut(p.text(), "\n"); !strings.Contains(text, c.ID) {
				t.Error("the list that is out lacks what was recorded before the call")
			}
		})
	}
	group.Wait()
}

// What 100,000 listed visits cost: the text, a list with one more, and at a follower that
// change.
func BenchmarkVisitsListed(b *testing.B) {
	c, key, trustKey := newClock(), newSigner(), newSigner()
	v := &visitors{store: newStore(key.Key()), listed: true}
	for range 100_000 {
		v.visits = append(v.visits, Visit{ID: handoff.NewID(), Expires: c.Now().Add(time.Hour)})
	}
	p := newPublisher(b, PublisherConfig{Key: trustKey, Source: v, Now: c.Now})
	if err := p.Publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("publish the same", func(b *testing.B) {
		for b.Loop() {
			p.seq = 0
			if err := p.Publish(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(p.text())), "bytes")
	})
	b.Run("publish one more", func(b *testing.B) {
		for b.Loop() {
			v.visits[0].ID = handoff.NewID()
			p.seq = 0
			if err := p.Publish(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	f := newFollower(b, trustKey.Key(), c.Now)
	raw := p.text()
	b.Run("apply whole", func(b *testing.B) {
		for b.Loop() {
			f.current.Store(nil)
			if _, err := f.take(b.Context(), raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("apply one more", func(b *testing.B) {
		before := f.current.Load().list
		after := newEntries()
		after.live = turned(before.live, map[id]struct{}{id([]byte(handoff.NewID())): {}}, nil)
		change, want := string(difference(before.digest, before.entries, after).encode()), hash(after.encode())
		for b.Loop() {
			if _, err := become(change, want, before); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(change)), "bytes")
	})
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		claims := &handoff.Claims{Issuer: issuer, ID: v.visits[5].ID, Session: handoff.NewID(), Subject: "ann", Methods: []string{"/a.B/C"}, IssuedAt: c.Now()}
		for b.Loop() {
			if err := f.Revoked(b.Context(), claims); err != nil {
				b.Fatal(err)
			}
		}
	})
}
