package handofftest

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"
)

// Issuer is a fake SERVER1: it makes good tokens for anybody. Use it where the
// real one would need users, sessions and a policy.
type Issuer struct {
	key *forge.Key
}

// NewIssuer returns an issuer with a new Ed25519 key.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	return &Issuer{key: forge.NewKey(handoff.EdDSA)}
}

// Name is the issuer's `iss`.
func (*Issuer) Name() string { return "https://issuer.test" }

// Keys lists the issuer's public key: give it to the verifier of the server
// under test, as VerifierConfig.Issuers[issuer.Name()]. It stands for a trust list
// on which nothing is taken back, so that the server takes visits too.
func (i *Issuer) Keys() handoff.KeySource { return keySource{i.key.Public.WithRevocations(nothing{})} }

type nothing struct{}

func (nothing) Revoked(context.Context, *handoff.Claims) error { return nil }

// Visit returns a visit of 15 minutes for subject to call methods on audience, by
// their full names.
func (i *Issuer) Visit(t testing.TB, audience, subject string, methods ...string) string {
	t.Helper()
	return i.visit(audience, subject, handoff.KindVisit.DefaultLifetime(), methods...).Compact()
}

func (i *Issuer) visit(audience, subject string, lifetime time.Duration, methods ...string) forge.Token {
	return forge.GoodVisit(forge.Params{
		Key: i.key, Issuer: i.Name(), Audience: audience, Subject: subject, Session: handoff.NewID(),
		IssuedAt: time.Now(), Lifetime: lifetime,
	}, methods...)
}

// Token returns a token for subject to make one call on audience. It lives for a
// minute, or as long as the method's rule accepts.
func (i *Issuer) Token(t testing.TB, audience, subject, method string, request proto.Message) string {
	t.Helper()
	return i.good(t, audience, subject, method, request).Compact()
}

func (i *Issuer) good(t testing.TB, audience, subject, method string, request proto.Message) forge.Token {
	t.Helper()
	op, err := rule.Operation(method, request)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	lifetime := handoff.KindHandoff.DefaultLifetime()
	if op.MaxLifetime > 0 {
		lifetime = min(lifetime, op.MaxLifetime)
	}
	return forge.Good(forge.Params{
		Key: i.key, Issuer: i.Name(), Audience: audience, Subject: subject, Session: handoff.NewID(),
		Operation: op, IssuedAt: time.Now(), Lifetime: lifetime,
	})
}

type keySource struct{ key handoff.Key }

func (s keySource) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != s.key.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return s.key, nil
}

// spent is a Store for the life of a test. Unlike replay.Memory it has no
// restart to guard against, so that a test need not wait for it to begin.
type spent struct {
	mu    sync.Mutex
	marks map[[2]string]bool
}

func (s *spent) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{r.Issuer, r.ID}
	if s.marks[key] {
		return handoff.ErrReplayed
	}
	if s.marks == nil {
		s.marks = make(map[[2]string]bool)
	}
	s.marks[key] = true
	return nil
}
