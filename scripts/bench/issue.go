package main

import (
	"context"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

func measureIssue(ctx context.Context, s settings, t *table) error {
	rounds, n := 25, 800
	if s.short {
		rounds, n = 5, 400
	}
	for _, algorithm := range []handoff.Algorithm{handoff.EdDSA, handoff.ES256} {
		s.say("issue: %s", algorithm)
		laps, err := issueRace(ctx, algorithm, rounds, n)
		if err != nil {
			return err
		}
		t.race(string(algorithm)+" ", laps)
		if algorithm == handoff.EdDSA {
			t.most("issue, to the Ed25519 signature alone", laps[1].ratio, 1.5, " x")
		}
	}
	return nil
}

func issueRace(ctx context.Context, algorithm handoff.Algorithm, rounds, n int) ([]lap, error) {
	shop, err := newShop(algorithm)
	if err != nil {
		return nil, err
	}
	raw, err := shop.issue(ctx, payment())
	if err != nil {
		return nil, err
	}
	input, err := apart(raw)
	if err != nil {
		return nil, err
	}
	header := (&jose.SignerOptions{}).WithType("handoff+jwt").WithHeader("kid", shop.key.Key().ID())
	joseSigner, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: shop.private}, header)
	if err != nil {
		return nil, err
	}
	req := payment()
	return race(ctx, rounds, n, func() error { return nil }, []runner{
		{"signature alone", func(int) error { return input.sign(algorithm, shop.private) }},
		{"handoff, typed request to token", func(int) error { return made(shop.issue(ctx, req)) }},
		{"handoff, with rule.Operation each time", func(int) error {
			op, err := rule.Operation(payMethod, req)
			if err != nil {
				return err
			}
			return made(shop.sign(ctx, op))
		}},
		{"go-jose Signed, Claims, Serialize", func(int) error {
			return made(josejwt.Signed(joseSigner).Claims(golangPayment(shop.session)).Serialize())
		}},
		{"golang-jwt SignedString", func(int) error {
			token := jwt.NewWithClaims(jwt.GetSigningMethod(string(algorithm)), golangPayment(shop.session))
			token.Header["typ"], token.Header["kid"] = "handoff+jwt", shop.key.Key().ID()
			return made(token.SignedString(shop.private))
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
func golangPayment(session string) golangClaims {
	now := time.Now()
	req := payment()
	return golangClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: shopName, Audience: jwt.ClaimStrings{billingName}, Subject: user, ID: handoff.NewID(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(handoff.MaxLifetime)),
		},
		Session: session,
		Details: details{{Type: "grpc_call", Actions: []string{payMethod}, Fields: map[string]string{
			"amount": "{}", "amount.currency_code": "EUR", "amount.minor_units": "120000",
			"invoice_id": req.GetInvoiceId(), "request_id": req.GetRequestId(),
		}}},
	}
}
