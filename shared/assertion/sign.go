package assertion

import (
	"context"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// Params says who asks whom.
type Params struct {
	// Client is the client's id at the issuer. Required.
	Client string
	// Audience is the issuer's own name, as it stands in the `iss` of its tokens: not
	// the address of a method. Required.
	Audience string
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Check returns nil if Sign takes the parameters, and else an error that names the field.
func (p Params) Check() error {
	for _, field := range []struct{ name, value string }{{"Client", p.Client}, {"Audience", p.Audience}} {
		if !ident.Name(field.value) {
			return &handoff.ConfigError{
				Field:   "assertion.Params." + field.name,
				Problem: fmt.Sprintf("must be 1 to %d visible ASCII characters without space, quote or backslash", ident.MaxName),
			}
		}
	}
	return nil
}

// Sign returns a new assertion, which lives for MaxLifetime. It is the client's
// secret until it is spent, and it is good for one call: sign again for the next, and
// for every attempt to repeat one.
func Sign(ctx context.Context, key handoff.Signer, params Params) (raw string, err error) {
	if err := params.Check(); err != nil {
		return "", err
	}
	now := params.Now
	if now == nil {
		now = time.Now
	}
	issued := now().UTC().Truncate(time.Second)
	claims := Claims{
		Client: params.Client, Audience: params.Audience, ID: handoff.NewID(),
		IssuedAt: issued, Expires: issued.Add(MaxLifetime),
	}
	return profile.Seal(ctx, claims.encode(), key)
}
