package assertion

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// Clients is where a verifier finds whose key a kid names. Implementations are safe
// for concurrent use, and never fetch a key on behalf of an assertion.
type Clients interface {
	// Client returns the id of the one client that has the key with this id, and the
	// key. The error is handoff.ErrKeyUnknown where no client that may call has it. Any other error means
	// that it cannot tell.
	Client(ctx context.Context, kid string) (id string, key handoff.Key, err error)
}

// VerifierConfig says what a verifier accepts.
type VerifierConfig struct {
	// Audience is the issuer's own name, the only `aud` that is accepted, byte for
	// byte. Required.
	Audience string
	// Skew is how far ahead of this clock an `iat` may lie, at most 60 s. It never
	// extends `exp`. Zero: 5 s.
	Skew time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Verifier checks assertions for one issuer. It is safe for concurrent use.
type Verifier struct {
	config VerifierConfig
	// open is Profile.Open, and prepares the keys of clients that call often.
	open func(ctx context.Context, raw string, keys handoff.KeySource) (payload string, key handoff.Key, err error)
}

// NewVerifier returns a verifier, or an error that names the field of config that it
// refuses.
func NewVerifier(config VerifierConfig) (*Verifier, error) {
	if !ident.Name(config.Audience) {
		return nil, &handoff.ConfigError{Field: "assertion.VerifierConfig.Audience", Problem: "must be the issuer's name"}
	}
	config.Skew = cmp.Or(config.Skew, handoff.DefaultSkew)
	if config.Skew < 0 || config.Skew > handoff.MaxSkew {
		return nil, &handoff.ConfigError{Field: "assertion.VerifierConfig.Skew", Problem: "must be from 0s to " + handoff.MaxSkew.String()}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Verifier{config, profile.Opener(config.Now)}, nil
}

// Verify checks that raw is an assertion for this issuer, by a client that has the
// key, and current. It has no side effect: the caller spends (Client, ID) with what the
// call does, and keeps that until Expires plus twice the skew. The error is a
// *handoff.Refusal with CLIENT_INVALID, or, where clients cannot tell,
// ISSUER_UNAVAILABLE. raw may come from anybody and be anything.
func (v *Verifier) Verify(ctx context.Context, raw string, clients Clients) (*Claims, error) {
	owner := &owner{clients: clients}
	payload, _, err := v.open(ctx, raw, owner)
	if err != nil {
		return nil, unopened(err)
	}
	claims, err := decode(payload)
	if err != nil {
		return nil, err
	}
	now := v.config.Now()
	switch {
	case claims.Client != owner.id:
		return nil, refused("client.iss", "iss is not the client whose key has signed")
	case claims.Audience != v.config.Audience:
		return nil, refused("client.aud", "aud is not this issuer's name")
	case claims.Expires.Sub(claims.IssuedAt) > MaxLifetime:
		return nil, refused("client.lifetime", "it lives longer than "+MaxLifetime.String())
	case !now.Before(claims.Expires):
		return nil, refused("client.exp", "it has expired")
	case claims.IssuedAt.After(now.Add(v.config.Skew)):
		return nil, refused("client.iat", "its iat lies in the future")
	}
	return claims, nil
}

// owner is a handoff.KeySource that remembers whose key it has found.
type owner struct {
	clients Clients
	id      string
}

func (o *owner) Key(ctx context.Context, kid string) (key handoff.Key, err error) {
	o.id, key, err = o.clients.Client(ctx, kid)
	return key, err
}

// unopened makes of a token's refusal an assertion's.
func unopened(err error) error {
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	switch {
	case refusal.Reason == handoff.ReasonTrustStale:
		return &handoff.Refusal{Reason: handoff.ReasonIssuerUnavailable, Err: refusal.Err}
	case refusal.Check == "key.unknown":
		return refused(refusal.Check, "no client has the key")
	}
	return refused(refusal.Check, refusal.Detail)
}

func refused(check handoff.Check, detail string) *handoff.Refusal {
	return &handoff.Refusal{Reason: handoff.ReasonClientInvalid, Check: check, Detail: detail}
}

// Told reports whether the caller may know what a refusal found: the signature has
// verified by then, so that the caller is the client.
func Told(refusal *handoff.Refusal) bool {
	before, _, _ := strings.Cut(string(refusal.Check), ".")
	return before == "payload" || before == "claim" || before == "client"
}
