package handoff

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/ident"
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
	// MaxLifetime is the longest lifetime of a handoff that Issue grants, in whole
	// seconds. Zero: 300 s, which is also the most.
	MaxLifetime time.Duration
	// MaxVisitLifetime is the longest lifetime of a visit that Issue grants, in whole
	// seconds up to an hour. Zero: it issues none. What this issuer takes back, and a
	// key that it retires, must be listed for as long: trust.Terms.TokenLifetime.
	MaxVisitLifetime time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Issuer signs handoffs and visits. It is safe for concurrent use.
type Issuer struct {
	config IssuerConfig
}

// NewIssuer returns an issuer, or an error that names the field of config that
// it refuses.
func NewIssuer(config IssuerConfig) (*Issuer, error) {
	if err := checkName("handoff.IssuerConfig.Issuer", config.Issuer); err != nil {
		return nil, err
	}
	if config.Key == nil {
		return nil, missing("handoff.IssuerConfig.Key")
	}
	config.MaxLifetime = cmp.Or(config.MaxLifetime, MaxLifetime)
	config.Lifetime = cmp.Or(config.Lifetime, min(KindHandoff.DefaultLifetime(), config.MaxLifetime))
	if err := checkLifetime("handoff.IssuerConfig.MaxLifetime", config.MaxLifetime, MaxLifetime); err != nil {
		return nil, err
	}
	if err := checkLifetime("handoff.IssuerConfig.Lifetime", config.Lifetime, config.MaxLifetime); err != nil {
		return nil, err
	}
	if config.MaxVisitLifetime != 0 {
		if err := checkLifetime("handoff.IssuerConfig.MaxVisitLifetime", config.MaxVisitLifetime, KindVisit.MaxLifetime()); err != nil {
			return nil, err
		}
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Issuer{config: config}, nil
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
	// takes its handoffs back. Empty: the token belongs to no session, which a visit
	// must.
	Session string
	// Actor is the immutable id of the API client that acts for the subject (RFC 8693
	// section 4.1), where one does. The operation's rule must allow it. Empty: the
	// subject acts.
	Actor string
	// Operation is what the user may do, of a handoff; rule.Operation makes it.
	// Required, unless there are Methods.
	Operation Operation
	// Methods make the token a visit, which may call each of them, with any request,
	// until it expires: 1 to 32 full names of methods whose rules say visit. With them,
	// Operation, Actor, Certificate and Seal are errors. Nil: the token is a handoff.
	Methods []string
	// Lifetime is how long the token lives, in whole seconds. Zero: the issuer's
	// default (15 minutes of a visit), or the operation's or the issuer's maximum where
	// that is less. More than either maximum is an error.
	Lifetime time.Duration
	// Certificate is the client certificate of the caller who asks for the token: only a
	// connection with that very certificate can then present it (RFC 8705 section
	// 3.1). No CA has any part in it. Nil: any holder of the token can present it.
	// Required where the operation demands it.
	Certificate *x509.Certificate
	// Seal returns the token as one that only the audience can read; sealed.Key has it.
	// Nil: it is not sealed, and any holder can read what it names. Required where
	// the operation demands it. A visit, which names no values, is never sealed.
	Seal func(raw string) (string, error)
}

// Issue signs a token, for one operation or a visit, and returns it with the claims it
// carries. The token is a secret until it is spent: hand it to the user over
// TLS, and never log it. The authority to ask is the caller's to check.
func (i *Issuer) Issue(ctx context.Context, params IssueParams) (raw string, claims *Claims, err error) {
	if err := params.checkNames(); err != nil {
		return "", nil, err
	}
	if params.Methods != nil {
		return i.visit(ctx, params)
	}
	op, err := params.operation()
	if err != nil {
		return "", nil, err
	}
	most := i.config.MaxLifetime
	if op.MaxLifetime > 0 {
		most = min(most, op.MaxLifetime)
	}
	lifetime := cmp.Or(params.Lifetime, min(i.config.Lifetime, most))
	if err := checkLifetime("handoff.IssueParams.Lifetime", lifetime, most); err != nil {
		return "", nil, err
	}

	claims = i.claims(params, lifetime)
	claims.Method, claims.Fields = op.Method, op.Bound
	var room [maxInlineFields]byte // on the stack; what is longer gets room of its own
	if canonical := appendCanonical(room[:0], op.Bound); len(canonical) > maxInlineFields || len(op.Bound) > maxInlineNumber {
		claims.Fields, claims.FieldsSHA256 = nil, digest(canonical)
	}
	if raw, err = i.sign(ctx, KindHandoff, claims); err != nil {
		return "", nil, err
	}
	if params.Seal != nil {
		if raw, err = params.Seal(raw); err != nil {
			return "", nil, fmt.Errorf("sealing: %w", err)
		}
	}
	return raw, claims, nil
}

// checkNames checks who the token is for, and from where.
func (params IssueParams) checkNames() error {
	if err := checkName("handoff.IssueParams.Audience", params.Audience); err != nil {
		return err
	}
	if err := checkName("handoff.IssueParams.Subject", params.Subject); err != nil {
		return err
	}
	if params.Session != "" && !ident.ID(params.Session) {
		return &ConfigError{
			Field:   "handoff.IssueParams.Session",
			Problem: "must be 128 random bits in base64url: 22 characters",
		}
	}
	return nil
}

// operation returns the operation in its one form, if its rule allows the token that
// is asked for.
func (params IssueParams) operation() (Operation, error) {
	op, err := params.Operation.normal()
	if err != nil {
		return op, &ConfigError{Field: "handoff.IssueParams.Operation", Problem: "cannot be signed", Err: err}
	}
	if params.Actor != "" {
		if err := checkName("handoff.IssueParams.Actor", params.Actor); err != nil {
			return op, err
		}
		if !op.Actors {
			return op, &ConfigError{Field: "handoff.IssueParams.Actor", Problem: "is not allowed: the rule of the method takes no actors"}
		}
	}
	if op.Sealed && params.Seal == nil {
		return op, &ConfigError{Field: "handoff.IssueParams.Seal", Problem: "is required: the rule of the method takes sealed tokens only"}
	}
	if op.CertificateBound && params.Certificate == nil {
		return op, &ConfigError{
			Field:   "handoff.IssueParams.Certificate",
			Problem: "is required: the rule of the method takes only tokens that are bound to a client certificate",
		}
	}
	if params.Certificate != nil && len(params.Certificate.Raw) == 0 {
		return op, &ConfigError{Field: "handoff.IssueParams.Certificate", Problem: "has no DER"}
	}
	return op, nil
}

// claims returns those that tokens of both kinds have.
func (i *Issuer) claims(params IssueParams, lifetime time.Duration) *Claims {
	now := i.config.Now().UTC().Truncate(time.Second)
	return &Claims{
		Issuer:   i.config.Issuer,
		Audience: params.Audience,
		Subject:  params.Subject,
		IssuedAt: now,
		Expires:  now.Add(lifetime),
		ID:       NewID(),
		Session:  params.Session,
		Actor:    params.Actor,

		CertificateSHA256: thumbprint(params.Certificate),
	}
}

func (i *Issuer) sign(ctx context.Context, kind Kind, claims *Claims) (raw string, err error) {
	signer, err := i.config.Key.Signer(ctx)
	if err != nil {
		return "", fmt.Errorf("no signing key: %w", err)
	}
	raw, err = kind.Profile().Seal(ctx, claims.encode(), signer)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return raw, nil
}

// NewID returns 128 random bits in base64url: an id for a token (`jti`) or a
// session (`sid`).
func NewID() string {
	var bits [16]byte
	rand.Read(bits[:]) // never fails: it crashes the program instead
	return base64url.EncodeToString(bits[:])
}
