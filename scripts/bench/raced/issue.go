package raced

import (
	"context"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

func Issue(ctx context.Context, s measure.Settings, t *measure.Table) error {
	rounds, n := 25, 800
	if s.Short {
		rounds, n = 5, 400
	}
	for _, algorithm := range []handoff.Algorithm{handoff.EdDSA, handoff.ES256} {
		s.Say("issue: %s", algorithm)
		laps, err := issueRace(ctx, algorithm, rounds, n)
		if err != nil {
			return err
		}
		report(t, string(algorithm)+" ", laps)
		if algorithm == handoff.EdDSA {
			t.Most("issue, to the Ed25519 signature alone", laps[1].ratio, 1.2, " x")
		}
	}
	return nil
}

func issueRace(ctx context.Context, algorithm handoff.Algorithm, rounds, n int) ([]lap, error) {
	shop, err := NewShop(algorithm)
	if err != nil {
		return nil, err
	}
	raw, err := shop.Issue(ctx, Payment())
	if err != nil {
		return nil, err
	}
	input, err := Apart(raw)
	if err != nil {
		return nil, err
	}
	header := (&jose.SignerOptions{}).WithType("handoff+jwt").WithHeader("kid", shop.Key.Key().ID())
	joseSigner, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: shop.Private}, header)
	if err != nil {
		return nil, err
	}
	req := Payment()
	return race(ctx, rounds, n, func() error { return nil }, []runner{
		{"signature alone", func(int) error { return input.Sign(algorithm, shop.Private) }},
		{"handoff, typed request to token", func(int) error { return made(shop.Issue(ctx, req)) }},
		{"handoff, with rule.Operation each time", func(int) error {
			op, err := rule.Operation(PayMethod, req)
			if err != nil {
				return err
			}
			return made(shop.Sign(ctx, op))
		}},
		{"go-jose Signed, Claims, Serialize", func(int) error {
			return made(josejwt.Signed(joseSigner).Claims(golangPayment(shop.session)).Serialize())
		}},
		{"golang-jwt SignedString", func(int) error {
			token := jwt.NewWithClaims(jwt.GetSigningMethod(string(algorithm)), golangPayment(shop.session))
			token.Header["typ"], token.Header["kid"] = "handoff+jwt", shop.Key.Key().ID()
			return made(token.SignedString(shop.Private))
		}},
	})
}

func made(raw string, err error) error {
	if err == nil && raw == "" {
		err = errors.New("no token")
	}
	return err
}

// golangPayment is the same claims, filled in by hand.
func golangPayment(session string) GolangClaims {
	now := time.Now()
	req := Payment()
	return GolangClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: ShopName, Audience: jwt.ClaimStrings{billingName}, Subject: User, ID: handoff.NewID(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(handoff.MaxLifetime)),
		},
		Session: session,
		Details: details{{Type: "grpc_call", Actions: []string{PayMethod}, Fields: map[string]string{
			"amount": "{}", "amount.currency_code": "EUR", "amount.minor_units": "120000",
			"invoice_id": req.GetInvoiceId(), "request_id": req.GetRequestId(),
		}}},
	}
}
