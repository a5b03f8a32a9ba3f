package handoff

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// VerifierConfig says what a verifier accepts.
type VerifierConfig struct {
	// Audience is this service's own name, the only `aud` that is accepted, byte
	// for byte. Required.
	Audience string
	// Issuers maps each trusted `iss` to its keys. At least one is required.
	Issuers map[string]KeySource
	// Store makes a token's redemption single. Required.
	Store Store
	// MaxLifetime is the longest token lifetime (exp - iat) that is accepted, in
	// whole seconds. Zero: 300 s, which is also the most.
	MaxLifetime time.Duration
	// Skew is how far ahead of this clock an `iat` or `nbf` may lie, at most 60 s.
	// It never extends `exp`. Zero: 5 s.
	Skew time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Verifier checks handoff tokens for one audience, offline. It is safe for
// concurrent use.
type Verifier struct {
	audience    string
	sources     map[string]KeySource
	order       []KeySource // of the sources, each once, by the issuers' names
	store       Store
	maxLifetime time.Duration
	skew        time.Duration
	now         func() time.Time
}

// The checks that depend on the verifier. SPEC.md defines each.
const (
	CheckIssuer   Check = "verify.iss"
	CheckAudience Check = "verify.aud"
	CheckIssuedAt Check = "verify.iat"
	CheckExpiry   Check = "verify.exp"
	CheckStart    Check = "verify.nbf"
	CheckLifetime Check = "verify.lifetime"
	CheckRevoked  Check = "verify.revoked"
	CheckTrust    Check = "verify.trust"
)

// NewVerifier returns a verifier, or an error that names the field of config
// that it refuses.
func NewVerifier(config VerifierConfig) (*Verifier, error) {
	v := &Verifier{
		audience:    config.Audience,
		sources:     maps.Clone(config.Issuers),
		store:       config.Store,
		maxLifetime: config.MaxLifetime,
		skew:        config.Skew,
		now:         config.Now,
	}
	if err := checkName("VerifierConfig.Audience", v.audience); err != nil {
		return nil, err
	}
	if len(v.sources) == 0 {
		return nil, errors.New("VerifierConfig.Issuers is required: without an issuer no token is acceptable")
	}
	for _, issuer := range slices.Sorted(maps.Keys(v.sources)) {
		if err := checkName("VerifierConfig.Issuers: an issuer", issuer); err != nil {
			return nil, err
		}
		source := v.sources[issuer]
		if source == nil {
			return nil, fmt.Errorf("VerifierConfig.Issuers: %s has no key source", issuer)
		}
		v.order = append(v.order, source)
	}
	if v.store == nil {
		return nil, errors.New("VerifierConfig.Store is required: without it a token could be spent twice")
	}
	if v.maxLifetime == 0 {
		v.maxLifetime = MaxLifetime
	}
	if v.maxLifetime < time.Second || v.maxLifetime > MaxLifetime || v.maxLifetime%time.Second != 0 {
		return nil, fmt.Errorf("VerifierConfig.MaxLifetime is %s: it must be whole seconds from 1s to %s", v.maxLifetime, MaxLifetime)
	}
	if v.skew == 0 {
		v.skew = DefaultSkew
	}
	if v.skew < 0 || v.skew > MaxSkew {
		return nil, fmt.Errorf("VerifierConfig.Skew is %s: it must be at most %s, and not negative", v.skew, MaxSkew)
	}
	if store, ok := v.store.(interface{ Skew() time.Duration }); ok && store.Skew() < v.skew {
		return nil, fmt.Errorf("VerifierConfig.Skew is %s, but the Store covers only %s: a restart would forget redemptions", v.skew, store.Skew())
	}
	if v.now == nil {
		v.now = time.Now
	}
	return v, nil
}

// Verified is a token that is authentic and current. It entitles to nothing yet:
// that is Redeem's to say. Only Verify makes one.
type Verified struct {
	claims   *Claims
	key      Key
	verifier *Verifier
}

// Claims returns what the token says.
func (v *Verified) Claims() Claims {
	c := *v.claims
	c.Fields = slices.Clone(c.Fields)
	return c
}

// Method returns the full name of the method that the token is for.
func (v *Verified) Method() string { return v.claims.Method }

// Verify checks that raw is a handoff token for this audience, signed by a key
// that its issuer lists, current, and not taken back. It has no side effect. The
// error is a *Refusal. raw may come from anybody and be anything.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Verified, error) {
	payload, key, err := tokenProfile.open(ctx, raw, anyOf(v.order).find)
	if err != nil {
		return nil, err
	}
	claims, err := decodeClaims(payload)
	if err != nil {
		return nil, err
	}
	listed, err := v.listed(ctx, claims, key)
	if err != nil {
		return nil, err
	}
	if err := v.accept(ctx, claims, listed); err != nil {
		return nil, withClaims(err, claims)
	}
	return &Verified{claims: claims, key: key, verifier: v}, nil
}

// accept checks what depends on the verifier, of a token whose key is listed: for
// whom, how long, and now.
func (v *Verifier) accept(ctx context.Context, c *Claims, listed Key) error {
	if c.Audience != v.audience {
		return &Refusal{Reason: ReasonAudienceMismatch, Check: CheckAudience, Detail: "the token is for another audience"}
	}
	if lifetime := c.Expires.Sub(c.IssuedAt); lifetime > v.maxLifetime {
		return &Refusal{
			Reason: ReasonLifetimeTooLong, Check: CheckLifetime,
			Detail: fmt.Sprintf("the token lives %s; this audience accepts %s", lifetime, v.maxLifetime),
		}
	}
	if err := v.timely(c); err != nil {
		return err
	}
	return standing(ctx, c, listed)
}

// withClaims adds to a refusal what the token says, once its issuer vouches for
// it.
func withClaims(err error, claims *Claims) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		refusal.Claims = claims
	}
	return err
}

// Recheck returns nil while the grant stands, and a *Refusal once its token has
// expired or been taken back. A stream asks before each message.
func (v *Verifier) Recheck(ctx context.Context, grant *Grant) error {
	if grant == nil || grant.verifier != v {
		return &Refusal{Reason: ReasonTokenInvalid, Check: CheckRedeem, Detail: "not granted by this verifier"}
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

// timely checks that now is within the token's life.
func (v *Verifier) timely(c *Claims) error {
	now := v.now()
	switch {
	case !now.Before(c.Expires):
		return &Refusal{
			Reason: ReasonTokenExpired, Check: CheckExpiry,
			Detail: fmt.Sprintf("the token expired %s ago", now.Sub(c.Expires).Round(time.Millisecond)),
		}
	case c.IssuedAt.After(now.Add(v.skew)):
		return early(CheckIssuedAt, "issued", c.IssuedAt.Sub(now))
	case c.NotBefore.After(now.Add(v.skew)):
		return early(CheckStart, "valid", c.NotBefore.Sub(now))
	}
	return nil
}

// standing checks that the issuer has not taken the token back.
func standing(ctx context.Context, c *Claims, listed Key) error {
	if listed.revocations == nil {
		return nil
	}
	switch err := listed.revocations.Revoked(ctx, c); {
	case err == nil:
		return nil
	case errors.Is(err, ErrRevoked):
		return &Refusal{Reason: ReasonTokenRevoked, Check: CheckRevoked, Err: err}
	default:
		return &Refusal{Reason: ReasonTrustStale, Check: CheckTrust, Err: err}
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
	source, ok := v.sources[c.Issuer]
	if !ok {
		return Key{}, &Refusal{Reason: ReasonIssuerMismatch, Check: CheckIssuer, Detail: "iss is not a trusted issuer"}
	}
	switch listed, err := source.Key(ctx, key.id); {
	case errors.Is(err, ErrKeyUnknown) || err == nil && (listed.id != key.id || listed.algorithm != key.algorithm):
		return Key{}, &Refusal{Reason: ReasonIssuerMismatch, Check: CheckIssuer, Detail: "iss does not list the key that signed"}
	case err != nil:
		return Key{}, &Refusal{Reason: ReasonTrustStale, Check: CheckTrust, Err: err}
	default:
		return listed, nil
	}
}

// anyOf finds a key at whichever issuer lists it. Until the signature has
// verified, the token's own word for its issuer counts for nothing.
type anyOf []KeySource

// find returns the first key with this id and algorithm, or else one with
// another algorithm. A key can be listed with two, by two issuers: neither hides
// the other's. Where none has it and one source could not tell, its error counts.
func (sources anyOf) find(ctx context.Context, kid string, algorithm Algorithm) (Key, error) {
	var other Key
	unknown := ErrKeyUnknown
	for _, source := range sources {
		switch key, err := source.Key(ctx, kid); {
		case err == nil && key.algorithm == algorithm:
			return key, nil
		case err == nil:
			other = key
		case !errors.Is(err, ErrKeyUnknown):
			unknown = err
		}
	}
	if other.id != "" && unknown == ErrKeyUnknown {
		return other, nil
	}
	return Key{}, unknown
}
