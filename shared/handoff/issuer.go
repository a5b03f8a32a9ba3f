package handoff

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// Signer is a signing key: it signs for one public key. package signkey makes
// it from a file, or from any crypto.Signer. Implementations are safe for
// concurrent use.
type Signer interface {
	// Key returns the public key that verifies what Sign makes.
	Key() Key
	// Sign returns the JWS signature of input (RFC 7518 section 3), which it does
	// not keep.
	Sign(ctx context.Context, input []byte) ([]byte, error)
}

// SignerSource is where an issuer finds the key that signs now. A signing key
// that never changes is a source of itself.
type SignerSource interface {
	Signer(ctx context.Context) (Signer, error)
}

// IssuerConfig says who issues.
type IssuerConfig struct {
	// Issuer is the `iss` of every token: this service's own name, by which
	// audiences trust it. Required.
	Issuer string
	// Key signs. Required.
	Key SignerSource
	// Lifetime is how long a token lives unless IssueParams says otherwise, in
	// whole seconds. Zero: 60 s, or MaxLifetime where that is less.
	Lifetime time.Duration
	// MaxLifetime is the longest lifetime that Issue grants, in whole seconds.
	// Zero: 300 s, which is also the most.
	MaxLifetime time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Issuer signs handoff tokens. It is safe for concurrent use.
type Issuer struct {
	config IssuerConfig
}

// NewIssuer returns an issuer, or an error that names the field of config that
// it refuses.
func NewIssuer(config IssuerConfig) (*Issuer, error) {
	if err := checkName("IssuerConfig.Issuer", config.Issuer); err != nil {
		return nil, err
	}
	if config.Key == nil {
		return nil, errors.New("IssuerConfig.Key is required")
	}
	if config.MaxLifetime == 0 {
		config.MaxLifetime = MaxLifetime
	}
	if config.Lifetime == 0 {
		config.Lifetime = min(DefaultLifetime, config.MaxLifetime)
	}
	if err := checkLifetime("IssuerConfig.MaxLifetime", config.MaxLifetime, MaxLifetime); err != nil {
		return nil, err
	}
	if err := checkLifetime("IssuerConfig.Lifetime", config.Lifetime, config.MaxLifetime); err != nil {
		return nil, err
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Issuer{config: config}, nil
}

func checkLifetime(what string, d, most time.Duration) error {
	if d < time.Second || d > most || d%time.Second != 0 {
		return fmt.Errorf("%s is %s: it must be whole seconds from 1s to %s", what, d, most)
	}
	return nil
}

// IssueParams says what one token is for.
type IssueParams struct {
	// Audience is the `aud`: the service that is to run the operation, byte for
	// byte as it names itself. Required.
	Audience string
	// Subject is the user's immutable id, never a name that could be given to
	// someone else. Required.
	Subject string
	// Session is the 128 random bits, in base64url, that were made with the
	// user's session and derived from nothing (see NewID), so that signing out
	// takes its handoffs back. Empty: the token belongs to no session.
	Session string
	// Operation is what the user may do. Required; rule.Operation makes it.
	Operation Operation
	// Lifetime is how long the token lives, in whole seconds. Zero: the issuer's
	// default, or the operation's maximum where that is less. More than either
	// maximum is an error.
	Lifetime time.Duration
}

// Issue signs a token for one operation, and returns it with the claims it
// carries. The token is a secret until it is spent: hand it to the user over
// TLS, and never log it. The authority to ask is the caller's to check.
func (i *Issuer) Issue(ctx context.Context, params IssueParams) (raw string, claims *Claims, err error) {
	if err := checkName("IssueParams.Audience", params.Audience); err != nil {
		return "", nil, err
	}
	if err := checkName("IssueParams.Subject", params.Subject); err != nil {
		return "", nil, err
	}
	if params.Session != "" && !isRandom128(params.Session) {
		return "", nil, errors.New("IssueParams.Session must be 128 bits in base64url, as NewID makes them")
	}
	op, err := params.Operation.normal()
	if err != nil {
		return "", nil, fmt.Errorf("IssueParams.Operation: %w", err)
	}
	most := i.config.MaxLifetime
	if op.MaxLifetime > 0 {
		most = min(most, op.MaxLifetime)
	}
	lifetime := params.Lifetime
	if lifetime == 0 {
		lifetime = min(i.config.Lifetime, most)
	}
	if err := checkLifetime("IssueParams.Lifetime", lifetime, most); err != nil {
		return "", nil, err
	}

	now := i.config.Now().UTC().Truncate(time.Second)
	claims = &Claims{
		Issuer:   i.config.Issuer,
		Audience: params.Audience,
		Subject:  params.Subject,
		IssuedAt: now,
		Expires:  now.Add(lifetime),
		ID:       NewID(),
		Session:  params.Session,
		Method:   op.Method,
		Fields:   op.Bound,
	}
	if canonical := appendCanonical(nil, op.Bound); len(canonical) > maxInlineFields || len(op.Bound) > maxInlineNumber {
		claims.Fields, claims.FieldsSHA256 = nil, digest(canonical)
	}
	signer, err := i.config.Key.Signer(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("no signing key: %w", err)
	}
	raw, err = tokenProfile.Seal(ctx, claims.encode(), signer)
	if err != nil {
		return "", nil, fmt.Errorf("signing: %w", err)
	}
	return raw, claims, nil
}

// NewID returns 128 random bits in base64url: an id for a token (`jti`) or a
// session (`sid`).
func NewID() string {
	var bits [16]byte
	rand.Read(bits[:]) // never fails: it crashes the program instead
	return base64url.EncodeToString(bits[:])
}
