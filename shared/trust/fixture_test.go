package trust

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer   = "https://shop.example"
	audience = "https://billing.example"
)

// signer makes a forger's key sign.
type signer struct{ key *forge.Key }

func newSigner() signer { return signer{forge.NewKey(handoff.EdDSA)} }

func (s signer) Key() handoff.Key { return s.key.Public }
func (s signer) Sign(_ context.Context, input []byte) ([]byte, error) {
	return s.key.Sign(string(input)), nil
}
func (s signer) Signer(context.Context) (handoff.Signer, error) { return s, nil }

// store is an issuer's store in memory: it keeps an entry before it says so.
type store struct {
	mu      sync.Mutex
	keys    []handoff.Key
	entries map[string]Entry
	err     error
	reads   int
}

func newStore(keys ...handoff.Key) *store { return &store{keys: keys, entries: map[string]Entry{}} }

func (s *store) State(context.Context) (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.err != nil {
		return State{}, s.err
	}
	return State{Keys: s.keys, Revoked: slices.Collect(maps.Values(s.entries))}, nil
}

func (s *store) record(t testing.TB, e Entry, err error) Entry {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[string(e.Kind)+e.ID] = e
	return e
}

// count says how often the store has been read.
func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *store) list(keys ...handoff.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
}

// clock is a clock that a test sets. Its times have no monotonic reading.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_800_000_000, 0).UTC()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// goodList is a list of the forger's, to be accepted at now.
func goodList(trustKey *forge.Key, now time.Time, keys ...handoff.Key) forge.Token {
	text, err := jwks(keys)
	if err != nil {
		panic(err)
	}
	return forge.Token{
		Key:    trustKey,
		Header: forge.Object{{Name: "alg", Value: `"EdDSA"`}, {Name: "kid", Value: forge.Quote(trustKey.Public.ID())}, {Name: "typ", Value: `"handoff-trust+jwt"`}},
		Payload: forge.Object{
			{Name: "iss", Value: forge.Quote(issuer)},
			{Name: "iat", Value: strconv.FormatInt(now.Unix(), 10)},
			{Name: "exp", Value: strconv.FormatInt(now.Unix()+60, 10)},
			{Name: "seq", Value: strconv.FormatInt(now.UnixMilli(), 10)},
			{Name: "keys", Value: string(text)},
			{Name: "revoked_sha256", Value: digestOf(noEntries)},
		},
	}
}

const noEntries = `{"tokens":[],"sessions":[],"subjects":{}}`

// digestOf returns a statement's member for entries.
func digestOf(entries string) string {
	sum := hash([]byte(entries))
	return forge.Quote(base64url.EncodeToString(sum[:]))
}

// naming returns the list as a file has it, with these entries.
func naming(t forge.Token, entries string) string {
	return t.WithClaim("revoked_sha256", digestOf(entries)).Compact() + "\n" + entries
}

// take applies a list as a file has it.
func (f *Follower) take(ctx context.Context, text string) (newer bool, err error) {
	statement, entries, _ := strings.Cut(text, "\n")
	_, newer, err = f.apply(ctx, statement, Given(entries))
	return newer, err
}

// text returns the newest list as a file has it.
func (p *Publisher) text() string {
	e := p.newest()
	return e.raw + "\n" + p.archive.text(e.digest)
}

// numbered returns the list with a seq.
func numbered(t forge.Token, seq int64) forge.Token {
	return t.WithClaim("seq", strconv.FormatInt(seq, 10))
}

func newFollower(t testing.TB, trustKey handoff.Key, now func() time.Time) *Follower {
	t.Helper()
	f, err := NewFollower(FollowerConfig{Issuer: issuer, TrustKeys: []handoff.Key{trustKey}, Feed: noFeed{}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newPublisher(t testing.TB, config PublisherConfig) *Publisher {
	t.Helper()
	if config.Terms.Issuer == "" {
		config.Terms.Issuer = issuer
	}
	p, err := NewPublisher(config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// noFeed is for followers whose test applies lists itself.
type noFeed struct{}

func (noFeed) Follow(ctx context.Context, _ string, _ func(string, Fetch) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// feed is a function as a Feed.
type feed func(ctx context.Context, deliver func(string, Fetch) error) error

func (f feed) Follow(ctx context.Context, _ string, deliver func(string, Fetch) error) error {
	return f(ctx, deliver)
}

// spent is a store of redemptions.
type spent struct{ sync.Map }

func (s *spent) Redeem(_ context.Context, r handoff.Redemption) error {
	if _, twice := s.LoadOrStore(r.Issuer+" "+r.ID, true); twice {
		return handoff.ErrReplayed
	}
	return nil
}

func newVerifier(t testing.TB, source handoff.KeySource, now func() time.Time) *handoff.Verifier {
	t.Helper()
	v, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer: source}, Store: new(spent), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var operation = handoff.Operation{Method: "/billing.v1.Billing/Pay", Bound: []handoff.Field{{Path: "id", Value: "1"}}}

// issue makes a handoff token with the library's own issuer.
func issue(t testing.TB, key signer, now func() time.Time, subject, session string) (string, *handoff.Claims) {
	t.Helper()
	i, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuer, Key: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	raw, claims, err := i.Issue(t.Context(), handoff.IssueParams{
		Audience: audience, Subject: subject, Session: session, Operation: operation,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw, claims
}

// verified fails the test unless the verifier's reason is want; 0: it accepts.
func verified(t testing.TB, v *handoff.Verifier, raw string, want handoff.Reason) {
	t.Helper()
	_, err := v.Verify(t.Context(), raw)
	if got := handoff.ReasonOf(err); got != want || (err == nil) != (want == 0) {
		t.Errorf("verifying: %v, want reason %v", err, want)
	}
}
