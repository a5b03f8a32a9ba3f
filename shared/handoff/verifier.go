package handoff

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/prepared"
)

// VerifierConfig says what a verifier accepts.
type VerifierConfig struct {
	// Audience is this service's own name, the only `aud` that is accepted, byte
	// for byte. Required.
	Audience string
	// Issuers maps each trusted `iss` to its keys. At least one is required.
	Issuers map[string]KeySource
	// Unseal returns the token in a sealed one; sealed.Opener has it. Its error is a
	// *Refusal. Nil: sealed tokens are refused, and a guard with a method whose rule
	// demands them does not start.
	Unseal func(raw string) (string, error)
	// Store makes a token's redemption single. Required.
	Store Store
	// MaxLifetime is the longest lifetime (exp - iat) of a handoff that is accepted, in
	// whole seconds. Zero: 300 s, which is also the most.
	MaxLifetime time.Duration
	// MaxVisitLifetime is the same of a visit. Zero: an hour, which is also the most.
	MaxVisitLifetime time.Duration
	// Skew is how far ahead of this clock an `iat` or `nbf` may lie, at most 60 s.
	// It never extends `exp`. Zero: 5 s.
	Skew time.Duration
	// Now is the clock. Nil: time.Now. Where it goes back, the verifier's stands
	// still until it has caught up.
	Now func() time.Time
}

// Verifier checks handoffs and visits for one audience, offline. It is safe for
// concurrent use.
type Verifier struct {
	config   VerifierConfig
	issuers  issuers
	prepared *prepared.Cache
	latest   atomic.Int64 // that config.Now has said, in Unix milliseconds
}

// NewVerifier returns a verifier, or an error that names the field of config
// that it refuses.
func NewVerifier(config VerifierConfig) (*Verifier, error) {
	config.Issuers = maps.Clone(config.Issuers)
	config.MaxLifetime = cmp.Or(config.MaxLifetime, MaxLifetime)
	config.MaxVisitLifetime = cmp.Or(config.MaxVisitLifetime, KindVisit.MaxLifetime())
	config.Skew = cmp.Or(config.Skew, DefaultSkew)
	if config.Now == nil {
		config.Now = time.Now
	}
	v := &Verifier{config: config, issuers: issuers{sources: config.Issuers}, prepared: prepared.NewCache(config.Now)}
	if err := checkName("handoff.VerifierConfig.Audience", config.Audience); err != nil {
		return nil, err
	}
	if err := v.issuers.arrange(); err != nil {
		return nil, err
	}
	if config.Store == nil {
		return nil, missing("handoff.VerifierConfig.Store")
	}
	if err := checkLifetime("handoff.VerifierConfig.MaxLifetime", config.MaxLifetime, MaxLifetime); err != nil {
		return nil, err
	}
	if err := checkLifetime("handoff.VerifierConfig.MaxVisitLifetime", config.MaxVisitLifetime, KindVisit.MaxLifetime()); err != nil {
		return nil, err
	}
	if err := checkSkew("handoff.VerifierConfig.Skew", config.Skew); err != nil {
		return nil, err
	}
	if store, ok := config.Store.(interface{ Skew() time.Duration }); ok && store.Skew() < config.Skew {
		return nil, &ConfigError{
			Field:   "handoff.VerifierConfig.Skew",
			Problem: fmt.Sprintf("is %s, but the Store covers only %s: a restart would forget redemptions", config.Skew, store.Skew()),
		}
	}
	return v, nil
}

// CanUnseal reports whether the verifier has a key for sealed tokens.
func (v *Verifier) CanUnseal() bool { return v.config.Unseal != nil }

// Verified is a token that is authentic and current. It entitles to nothing yet:
// that is Redeem's to say. Only Verify makes one.
type Verified struct {
	claims   *Claims
	key      Key
	sealed   bool
	verifier *Verifier
}

// Claims returns what the token says.
func (v *Verified) Claims() Claims {
	c := *v.claims
	c.Fields = slices.Clone(c.Fields)
	c.Methods = slices.Clone(c.Methods)
	return c
}

// Kind returns what the token is.
func (v *Verified) Kind() Kind { return v.claims.Kind() }

// Verify checks that raw is a handoff for this audience, signed by a key
// that its issuer lists, current, and not taken back. It has no side effect. The
// error is a *Refusal. raw may come from anybody and be anything. What is sealed to
// this audience is opened first. A token that is bound to a client certificate is
// refused: see VerifyFrom. So is a visit: VerifyVisit takes it.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Verified, error) {
	return v.VerifyFrom(ctx, raw, nil)
}

// VerifyFrom is Verify of what came over a connection whose client has proved, by
// TLS, that certificate is its own. A token that is bound to a certificate is
// accepted only with that very one. Who issued the certificate, and whether it has
// expired, is not looked at (RFC 8705 section 3.1). Nil: the client has none.
func (v *Verifier) VerifyFrom(ctx context.Context, raw string, certificate *x509.Certificate) (*Verified, error) {
	return v.verify(ctx, raw, onlyHandoffs, certificate)
}

func (v *Verifier) verify(ctx context.Context, raw string, of typs, certificate *x509.Certificate) (*Verified, error) {
	sealed := v.config.Unseal != nil && slices.Contains(of, handoffProfile.Typ) && strings.Count(raw, ".") == 4
	if sealed {
		var err error
		if raw, err = v.config.Unseal(raw); err != nil {
			return nil, err
		}
		of = onlyHandoffs // nothing else is sealed
	}
	opened, err := open(ctx, raw, maxToken, of, v.find)
	if err != nil {
		return nil, err
	}
	key := opened.key
	v.prepared.Used(key.id, key.public)
	claims, err := decodeClaims(Kind(opened.typ), opened.payload)
	if err != nil {
		return nil, err
	}
	listed, err := v.listed(ctx, claims, key)
	if err != nil {
		return nil, err
	}
	if err := v.accept(ctx, claims, listed, certificate); err != nil {
		return nil, withClaims(err, claims)
	}
	return &Verified{claims: claims, key: key, sealed: sealed, verifier: v}, nil
}

// find returns the key that a token names, with what has been prepared of it.
func (v *Verifier) find(ctx context.Context, h header, payload string) (Key, error) {
	key, err := v.issuers.find(ctx, h, payload)
	if err == nil {
		key.prepared = v.prepared.Get(key.id)
	}
	return key, err
}

// accept checks what depends on the verifier, of a token whose key is listed: for
// whom, how long, now, and from whom.
func (v *Verifier) accept(ctx context.Context, c *Claims, listed Key, certificate *x509.Certificate) error {
	if c.Audience != v.config.Audience {
		return &Refusal{Reason: ReasonAudienceMismatch, Check: "verify.aud", Detail: "the token is for another audience"}
	}
	most := v.config.MaxLifetime
	if c.Kind() == KindVisit {
		most = v.config.MaxVisitLifetime
	}
	if lifetime := c.Expires.Sub(c.IssuedAt); lifetime > most {
		return &Refusal{
			Reason: ReasonLifetimeTooLong, Check: "verify.lifetime",
			Detail: fmt.Sprintf("the token lives %s; this audience accepts %s", lifetime, most),
		}
	}
	if err := v.timely(c); err != nil {
		return err
	}
	if err := sentBy(c, certificate); err != nil {
		return err
	}
	return standing(ctx, c, listed)
}

// sentBy checks that a bound token came from the client that it is bound to.
func sentBy(c *Claims, certificate *x509.Certificate) error {
	switch {
	case c.CertificateSHA256 == "":
		return nil
	case certificate == nil:
		return &Refusal{
			Reason: ReasonCertificateMismatch, Check: "verify.cnf",
			Detail: "the token is bound to a client certificate, and its connection has none",
		}
	case thumbprint(certificate) != c.CertificateSHA256:
		return &Refusal{
			Reason: ReasonCertificateMismatch, Check: "verify.cnf",
			Detail: "the token is bound to another client certificate than that of its connection",
		}
	}
	return nil
}

// thumbprint returns the x5t#S256 of a certificate (RFC 8705 section 3.1), or an
// empty text for nil.
func thumbprint(certificate *x509.Certificate) string {
	if certificate == nil {
		return ""
	}
	sum := sha256.Sum256(certificate.Raw)
	return base64url.EncodeToString(sum[:])
}

// withClaims adds to a refusal what the token says, once its issuer vouches for
// it.
func withClaims(err error, claims *Claims) error {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		refusal.Claims = claims
	}
	return err
}

// Recheck returns nil while the grant stands, and a *Refusal once its token has
// expired or been taken back. A stream asks before each message.
func (v *Verifier) Recheck(ctx context.Context, grant *Grant) error {
	if grant == nil || grant.verifier != v {
		return &Refusal{Reason: ReasonTokenInvalid, Check: "redeem", Detail: "not granted by this verifier"}
	}
	return v.current(ctx, grant.claims, grant.key)
}

// current checks everything that can change while a token lives: the time, the
// listing of its key, and what its issuer has taken back.
func (v *Verifier) current(ctx context.Context, c *Claims, key Key) error {
	if err := v.timely(c); err != nil {
		return err
	}
	listed, err := v.listed(ctx, c, key)
	if err != nil {
		return err
	}
	return standing(ctx, c, listed)
}

// clock returns the time by a clock that never goes back: what has expired stays
// expired, though the machine's clock is set back.
func (v *Verifier) clock() time.Time {
	now := v.config.Now()
	milli := now.UnixMilli()
	for {
		switch latest := v.latest.Load(); {
		case milli < latest:
			return time.UnixMilli(latest)
		case milli == latest || v.latest.CompareAndSwap(latest, milli):
			return now
		}
	}
}

// Healthy returns nil, or an error while the machine's clock is behind the verifier's, which
// never goes back, by more than two clocks may differ that are right to the skew: it was
// ahead, for one token at least, and what expires counts as over until the time has come.
func (v *Verifier) Healthy() error {
	behind := time.UnixMilli(v.latest.Load()).Sub(v.config.Now())
	if behind <= 2*v.config.Skew {
		return nil
	}
	return fmt.Errorf("the clock was set back by %s: what expires counts as over until it has caught up; if it is right now, restart", behind.Round(time.Second))
}

// timely checks that now is within the token's life.
func (v *Verifier) timely(c *Claims) error {
	now := v.clock()
	switch {
	case !now.Before(c.Expires):
		return &Refusal{
			Reason: ReasonTokenExpired, Check: "verify.exp",
			Detail: fmt.Sprintf("the token expired %s ago", now.Sub(c.Expires).Round(time.Millisecond)),
		}
	case c.IssuedAt.After(now.Add(v.config.Skew)):
		return early("verify.iat", "issued", c.IssuedAt.Sub(now))
	case c.NotBefore.After(now.Add(v.config.Skew)):
		return early("verify.nbf", "valid", c.NotBefore.Sub(now))
	}
	return nil
}

// standing checks that the issuer has not taken the token back.
func standing(ctx context.Context, c *Claims, listed Key) error {
	if listed.revocations == nil {
		return c.unlisted()
	}
	switch err := listed.revocations.Revoked(ctx, c); {
	case err == nil:
		return nil
	case errors.Is(err, ErrRevoked):
		return &Refusal{Reason: ReasonTokenRevoked, Check: "verify.revoked", Err: err}
	default:
		return &Refusal{Reason: ReasonTrustStale, Check: "verify.trust", Err: err}
	}
}

func early(check Check, what string, ahead time.Duration) error {
	return &Refusal{
		Reason: ReasonTokenNotYetValid, Check: check,
		Detail: fmt.Sprintf("the token is %s %s from now", what, ahead.Round(time.Millisecond)),
	}
}

// listed returns the key as the token's issuer lists it now, with the algorithm
// that verified: a key of one trusted issuer signs nothing for another.
func (v *Verifier) listed(ctx context.Context, c *Claims, key Key) (Key, error) {
	source, ok := v.issuers.sources[c.Issuer]
	if !ok {
		return Key{}, &Refusal{Reason: ReasonIssuerMismatch, Check: "verify.iss", Detail: "iss is not a trusted issuer"}
	}
	switch listed, err := source.Key(ctx, key.id); {
	case errors.Is(err, ErrKeyUnknown) || err == nil && (listed.id != key.id || listed.algorithm != key.algorithm):
		return Key{}, &Refusal{Reason: ReasonIssuerMismatch, Check: "verify.iss", Detail: "iss does not list the key that signed"}
	case err != nil:
		return Key{}, &Refusal{Reason: ReasonTrustStale, Check: "verify.trust", Err: err}
	default:
		return listed, nil
	}
}
