package handoff_test

import (
	"context"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// The shop lets a user pay one invoice at the billing service, once. The services
// share the shop's public key and nothing else. Here the operation is written out;
// package rule makes it from a real request, and package handoffgrpc does the
// audience's part for a gRPC server.
func Example() {
	ctx := context.Background()
	clock := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock } // leave the field out, and it is time.Now
	pay := handoff.Operation{
		Method: "/billing.v1.Billing/Pay",
		Bound:  []handoff.Field{{Path: "invoice_id", Value: "INV-42"}, {Path: "amount_cents", Value: "1200"}},
	}

	// The shop.
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		panic(err)
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key, Now: now})
	if err != nil {
		panic(err)
	}

	// The billing service. Its memory of redemptions begins now, and what was issued
	// before is refused: by the time of the first token it has run for a minute.
	keys, err := keyset.New(key.Key())
	if err != nil {
		panic(err)
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example",
		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
		Store:    replay.NewMemory(replay.Config{Now: now}),
		Now:      now,
	})
	if err != nil {
		panic(err)
	}
	clock = clock.Add(time.Minute)

	// The shop gives its user a token, who brings it to the billing service.
	raw, _, err := issuer.Issue(ctx, handoff.IssueParams{
		Audience: "https://billing.example", Subject: "user-7", Operation: pay,
	})
	if err != nil {
		panic(err)
	}
	verified, err := verifier.Verify(ctx, raw)
	if err != nil {
		panic(err)
	}

	another := pay
	another.Bound = []handoff.Field{{Path: "invoice_id", Value: "INV-42"}, {Path: "amount_cents", Value: "120000"}}
	_, err = verifier.Redeem(ctx, verified, another, handoff.Rule{})
	fmt.Println("another amount:", handoff.ReasonOf(err))

	grant, err := verifier.Redeem(ctx, verified, pay, handoff.Rule{})
	if err != nil {
		panic(err)
	}
	fmt.Println("granted:", grant.Subject(), "of", grant.Issuer(), "may call", grant.Method())

	_, err = verifier.Redeem(ctx, verified, pay, handoff.Rule{})
	fmt.Println("again:", handoff.ReasonOf(err))
	// Output:
	// another amount: FIELD_MISMATCH
	// granted: user-7 of https://shop.example may call /billing.v1.Billing/Pay
	// again: TOKEN_REPLAYED
}
