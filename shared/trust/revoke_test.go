package trust

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// pair is an issuer with its store and publisher, and a verifier that follows.
type pair struct {
	t         *testing.T
	now       func() time.Time
	key       signer
	store     *store
	publisher *Publisher
	follower  *Follower
	verifier  *handoff.Verifier
}

func newPair(t *testing.T, now func() time.Time) *pair {
	p := &pair{t: t, now: now, key: newSigner()}
	trustKey := newSigner()
	p.store = newStore(p.key.Key())
	p.publisher = newPublisher(t, PublisherConfig{Key: trustKey, Source: p.store, Now: now})
	p.follower = newFollower(t, trustKey.Key(), now)
	p.verifier = newVerifier(t, p.follower, now)
	p.publish()
	return p
}

func (p *pair) publish() {
	p.t.Helper()
	if err := p.publisher.Publish(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.follower.take(p.t.Context(), p.publisher.text()); err != nil {
		p.t.Fatal(err)
	}
}

// takeBack records the entry and publishes.
func (p *pair) takeBack(e Entry, err error) Entry {
	p.t.Helper()
	p.store.record(p.t, e, err)
	p.publish()
	return e
}

func (p *pair) issue(subject, session string) string {
	raw, _ := issue(p.t, p.key, p.now, subject, session)
	return raw
}

func (p *pair) refused(raw string) {
	p.t.Helper()
	verified(p.t, p.verifier, raw, handoff.ReasonTokenRevoked)
}

func (p *pair) accepted(raw string) {
	p.t.Helper()
	verified(p.t, p.verifier, raw, 0)
}

func TestTokenIsTakenBack(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	raw, claims := issue(t, p.key, c.Now, "ann", "")
	other := p.issue("ann", "")
	p.accepted(raw)
	p.takeBack(terms.Token(claims.ID, claims.Expires))
	p.refused(raw)
	p.accepted(other)
}

// F02: a session's tokens go with it, those that are still being signed and those
// of clocks that are ahead as well; a new session works at once.
func TestF02Session(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	session := handoff.NewID()
	before := p.issue("ann", session)
	none := p.issue("ann", "")
	p.takeBack(terms.Session(session, c.Now()))
	p.refused(before)
	p.refused(p.issue("ann", session))
	ahead, _ := issue(t, p.key, func() time.Time { return c.Now().Add(5 * time.Second) }, "ann", session)
	p.refused(ahead)
	p.accepted(none)
	p.accepted(p.issue("ann", handoff.NewID()))
}

// F02: what has been handed out until a cut-off is acknowledged is refused;
// what the user gets after it, having waited as Wait says, is not.
func TestF02Subject(t *testing.T) {
	for _, within := range []time.Duration{0, 1, time.Millisecond, 500 * time.Millisecond, time.Second - 1} {
		c := newClock()
		c.advance(within)
		p := newPair(t, c.Now)
		before := p.issue("ann", "")
		bob := p.issue("bob", "")
		e := p.takeBack(terms.Subject("ann", c.Now()))
		p.refused(before)
		p.accepted(bob)
		p.accepted(p.issue("bob", ""))

		// A token of the same second is one that SERVER2 refuses: so the wait,
		// which is never longer than to the next second.
		p.refused(p.issue("ann", ""))
		wait := Wait(e.Cutoff, c.Now())
		if wait != time.Second-within {
			t.Errorf("%s into the second: wait %s", within, wait)
		}
		c.advance(wait - 1)
		p.refused(p.issue("ann", ""))
		c.advance(1)
		if got := Wait(e.Cutoff, c.Now()); got != 0 {
			t.Errorf("after the wait: wait %s", got)
		}
		p.accepted(p.issue("ann", ""))
		p.refused(before)
	}
	if got := Wait(time.Time{}, time.Now()); got != 0 {
		t.Errorf("never cut off: wait %s", got)
	}
}

// F02: several processes issue, and one clock is ahead of the one that cuts off.
func TestF02ClockAhead(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	const skew = 5 * time.Second
	ahead := func() time.Time { return c.Now().Add(skew) }
	raw, claims := issue(t, p.key, ahead, "ann", "")
	p.accepted(raw)

	// Where the latest iat is recorded, the cut-off is just that.
	recorded, err := terms.Subject("ann", claims.IssuedAt)
	if err != nil {
		t.Fatal(err)
	}
	// Where it is not, it is as late as any clock can be.
	e := p.takeBack(terms.Subject("ann", c.Now().Add(skew)))
	if !recorded.Cutoff.Equal(e.Cutoff) {
		t.Errorf("cut-offs differ: %s and %s", recorded.Cutoff, e.Cutoff)
	}
	p.refused(raw)
	if wait := Wait(e.Cutoff, ahead()); wait != time.Second {
		t.Errorf("the process that is ahead waits %s", wait)
	}
	wait := Wait(e.Cutoff, c.Now())
	if wait != skew+time.Second {
		t.Errorf("the other waits %s", wait)
	}
	c.advance(wait)
	p.publish()
	p.accepted(p.issue("ann", ""))
	p.refused(raw)
}

// F02: an issuer that signs, and then looks once more before it hands out, as Wait
// says. What it handed out before a cut-off is refused; what it was still signing
// it withholds; what it hands out afterwards is accepted.
func TestF02InFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, time.Now)
		var mu sync.Mutex // the store's transactions
		var cutoff time.Time
		type token struct {
			raw string
			out bool
		}
		handOut := func(signing time.Duration) token {
			raw, claims := issue(t, p.key, time.Now, "ann", "")
			time.Sleep(signing)
			mu.Lock()
			defer mu.Unlock()
			return token{raw, claims.IssuedAt.After(cutoff)}
		}
		for i := range 50 {
			signing := time.Duration(i*37%101) * time.Millisecond
			cutting := time.Duration(i*53%101)*time.Millisecond + time.Microsecond
			inFlight := make(chan token, 1)
			go func() { inFlight <- handOut(signing) }()
			time.Sleep(cutting)
			mu.Lock()
			cutoff = p.takeBack(terms.Subject("ann", time.Now())).Cutoff
			mu.Unlock()
			before := <-inFlight
			if before.out != (signing < cutting) {
				t.Errorf("signed for %s, cut off after %s: handed out: %v", signing, cutting, before.out)
			}
			p.refused(before.raw)
			time.Sleep(Wait(cutoff, time.Now())) // she signs in again
			after := handOut(0)
			if !after.out {
				t.Error("a token after the wait is withheld")
			}
			p.accepted(after.raw)
		}
	})
}

// F04: what is in the store is in the list of the next publisher: a publisher
// that dies takes nothing with it.
func TestF04PublisherStartsAnew(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	raw, claims := issue(t, p.key, c.Now, "ann", "")
	e, err := terms.Token(claims.ID, claims.Expires)
	p.store.record(t, e, err) // and then it is killed
	p.publisher = newPublisher(t, PublisherConfig{Key: p.publisher.config.Key, Source: p.store, Now: c.Now})
	c.advance(time.Millisecond)
	p.publish()
	p.refused(raw)
}

// F05: a user who is added again under an old name has another id, and is not the
// one who was cut off.
func TestF05AnotherIDIsAnotherUser(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	old, young := p.issue("user-1", ""), p.issue("user-2", "")
	p.takeBack(terms.Subject("user-1", c.Now()))
	p.refused(old)
	p.accepted(young)
	// The digest takes both names together: where one ends is not lost.
	if subjectDigest("ab", "c") == subjectDigest("a", "bc") {
		t.Error("two subjects have one digest")
	}
}

// An entry is listed as long as a token that it touches can be alive, by any
// clock, and no longer.
func TestEntriesLeave(t *testing.T) {
	const life = handoff.MaxLifetime
	for _, test := range []struct {
		name  string
		entry func(c *clock, claims *handoff.Claims) (Entry, error)
		lasts time.Duration
	}{
		{"token", func(_ *clock, claims *handoff.Claims) (Entry, error) { return terms.Token(claims.ID, claims.Expires) }, time.Minute + 5*time.Second},
		{"session", func(c *clock, claims *handoff.Claims) (Entry, error) { return terms.Session(claims.Session, c.Now()) }, life + 10*time.Second},
		{"subject", func(c *clock, claims *handoff.Claims) (Entry, error) { return terms.Subject(claims.Subject, c.Now()) }, life + 10*time.Second},
	} {
		c := newClock()
		p := newPair(t, c.Now)
		_, claims := issue(t, p.key, c.Now, "ann", handoff.NewID())
		e, err := test.entry(c, claims)
		p.takeBack(e, err)
		if got := p.follower.Status().Entries; got != 1 {
			t.Errorf("%s: %d entries", test.name, got)
		}
		c.advance(test.lasts - 1)
		p.publish()
		if got := p.follower.Status().Entries; got != 1 {
			t.Errorf("%s: gone too early", test.name)
		}
		c.advance(1)
		p.publish()
		if got := p.follower.Status().Entries; got != 0 {
			t.Errorf("%s: not gone", test.name)
		}
	}
}

func TestTermsRefuse(t *testing.T) {
	now := time.Now()
	for name, err := range map[string]error{
		"a short id":        second(terms.Token("AAAA", now)),
		"no id":             second(terms.Session("", now)),
		"an id with a tail": second(terms.Token("AAAAAAAAAAAAAAAAAAAAAB", now)),
		"no subject":        second(terms.Subject("", now)),
		"no issuer":         second(Terms{}.Subject("ann", now)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := second(terms.Token("AAAAAAAAAAAAAAAAAAAAAA", now)); err != nil {
		t.Errorf("control: %v", err)
	}
}

func second(_ Entry, err error) error { return err }

// F06, F07: a key that is not listed verifies nothing, from the moment that the
// list without it is in force; open streams hear of it as well.
func TestF07UnlistedKey(t *testing.T) {
	c := newClock()
	p := newPair(t, c.Now)
	next := newSigner()
	raw := p.issue("ann", "")
	early, _ := issue(t, next, c.Now, "ann", "")
	verified(t, p.verifier, early, handoff.ReasonTokenInvalid) // F06
	held, err := p.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := p.verifier.Redeem(t.Context(), held, operation, handoff.Rule{})
	if err != nil {
		t.Fatal(err)
	}

	p.store.list(p.key.Key(), next.Key())
	c.advance(time.Second)
	p.publish()
	p.accepted(raw)
	p.accepted(early)

	p.store.list(next.Key()) // tainted
	c.advance(time.Second)
	p.publish()
	verified(t, p.verifier, raw, handoff.ReasonTokenInvalid)
	p.accepted(early)
	if err := p.verifier.Recheck(t.Context(), grant); handoff.ReasonOf(err) != handoff.ReasonIssuerMismatch {
		t.Errorf("an open stream: %v", err)
	}
}
