package rotation_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

const (
	issuer   = "https://shop.example"
	audience = "https://billing.example"
)

// shop is an issuer: a ring, with the private keys of it, those that are over too.
type shop struct {
	memory
	steps   rotation.Steps
	private map[string]*signkey.Key
}

func newShop(t *testing.T, terms trust.Terms) *shop {
	s := &shop{memory: memory{terms: terms}, private: map[string]*signkey.Key{}}
	s.steps = rotation.Steps{Store: &s.memory, Folder: signkey.Folder(t.TempDir()), Now: time.Now}
	if err := s.steps.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.load(t)
	return s
}

func (s *shop) State(ctx context.Context) (trust.State, error) {
	ring, err := s.Ring(ctx)
	return trust.State{Keys: ring.Listed(time.Now())}, err
}

func (s *shop) Signer(ctx context.Context) (handoff.Signer, error) {
	ring, err := s.Ring(ctx)
	if err != nil {
		return nil, err
	}
	kid, _ := ring.Signing()
	return s.steps.Load(kid)
}

// step takes the step that is due, and says which.
func (s *shop) step(t *testing.T, every time.Duration, terms trust.Terms) rotation.Verb {
	taken, err := s.steps.TakeDue(t.Context(), s.ring, every, terms)
	if err != nil {
		t.Fatal(err)
	}
	s.load(t)
	return taken.Verb
}

// load keeps what the folder has, for later.
func (s *shop) load(t *testing.T) {
	for _, k := range s.ring.Records() {
		kid := k.Key.ID()
		if s.private[kid] != nil {
			continue
		}
		key, err := s.steps.Load(kid)
		if err != nil {
			t.Fatal(err)
		}
		s.private[kid] = key
	}
}

// well reads a publisher's list every 50 ms; one that runs dry fails for 400 ms of
// every 2 s.
type well struct {
	publisher *trust.Publisher
	runsDry   bool
}

func (w well) Follow(ctx context.Context, _ string, deliver func(string, trust.Fetch) error) error {
	for last := ""; ; {
		if w.runsDry && time.Now().UnixMilli()%2000 < 400 {
			return errors.New("the well is dry")
		}
		answer := httptest.NewRecorder()
		w.publisher.Handler().ServeHTTP(answer, httptest.NewRequest("GET", trust.ListPath, nil))
		if raw := answer.Body.String(); answer.Code == 200 && raw != last {
			if err := deliver(raw, trust.Given("")); err != nil {
				return err
			}
			last = raw
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Twenty rotations under traffic, with lives of two seconds and one audience whose
// feed flaps: every token is accepted as long as it lives, by each audience; no
// key is, once it has left.
func TestF06F07RotationUnderTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		const skew = 50 * time.Millisecond
		terms := trust.Terms{Issuer: issuer, TokenLifetime: 2 * time.Second, ListLifetime: 2 * time.Second, Skew: skew}
		const every = 4 * time.Second

		trustKey, err := signkey.Generate(handoff.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		s := newShop(t, terms)
		if got := s.step(t, every, terms); got != rotation.DuePrepare {
			t.Fatalf("%s is due, not %s", got, rotation.DuePrepare)
		}
		publisher, err := trust.NewPublisher(trust.PublisherConfig{
			Terms: terms, Key: trustKey, Source: s, Refresh: 200 * time.Millisecond,
			Report: func(err error) { t.Errorf("publisher: %v", err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { publisher.Run(ctx) })
		var verifiers []*handoff.Verifier
		for i := range 3 {
			follower, err := trust.NewFollower(trust.FollowerConfig{
				Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: well{publisher, i == 2},
				MaxStaleness: 2 * time.Second, Skew: skew,
			})
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { follower.Run(ctx) })
			v, err := handoff.NewVerifier(handoff.VerifierConfig{
				Audience: audience, Issuers: map[string]handoff.KeySource{issuer: follower},
				Store: replay.NewMemory(replay.Config{}), Skew: skew,
			})
			if err != nil {
				t.Fatal(err)
			}
			verifiers = append(verifiers, v)
		}
		issue := func(key handoff.SignerSource) string {
			i, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuer, Key: key, MaxLifetime: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			raw, _, err := i.Issue(ctx, handoff.IssueParams{
				Audience: audience, Subject: "ann", Operation: handoff.Operation{Method: "/billing.v1.Billing/Pay"},
			})
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		expect := func(raw string, want handoff.Reason) {
			t.Helper()
			for i, v := range verifiers {
				if _, err := v.Verify(ctx, raw); handoff.ReasonOf(err) != want || (err == nil) != (want == 0) {
					t.Fatalf("audience %d: %v, want %v", i, err, want)
				}
			}
		}
		time.Sleep(time.Second)

		for rotations := 0; rotations < 20; {
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
			raw := issue(s) // at the beginning of a second: it lives for two
			for range 20 {
				expect(raw, 0)
				time.Sleep(99 * time.Millisecond)
				if s.step(t, every, terms) == rotation.DueActivate {
					rotations++
				}
				expect(issue(s), 0)
			}
			expect(raw, 0)
		}

		// What is no longer in the ring verifies nothing; the rest still does.
		known := map[string]bool{}
		for range 5 {
			s.step(t, every, terms)
			time.Sleep(terms.After() / 2)
		}
		for _, k := range s.ring.Records() {
			known[k.Key.ID()] = true
		}
		refused := 0
		for kid, key := range s.private {
			if known[kid] {
				expect(issue(key), 0)
			} else {
				expect(issue(key), handoff.ReasonTokenInvalid)
				refused++
			}
		}
		if refused < 19 {
			t.Errorf("%d former keys refused", refused)
		}
	})
}
