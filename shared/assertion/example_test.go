package assertion_test

import (
	"context"
	"fmt"

	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// A client signs for one call, and its issuer checks that.
func Example() {
	key := forge.NewKey(handoff.EdDSA) // signkey.Load, outside tests
	raw, err := assertion.Sign(context.Background(), signer{key}, assertion.Params{Client: "c-1", Audience: "https://shop.example"})
	if err != nil {
		panic(err)
	}

	verifier, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: "https://shop.example"})
	if err != nil {
		panic(err)
	}
	clients := registry{key.Public.ID(): {"c-1", key.Public}} // a table of the issuer's database
	claims, err := verifier.Verify(context.Background(), raw, clients)
	if err != nil {
		panic(err)
	}
	fmt.Println(claims.Client, claims.Expires.Sub(claims.IssuedAt))
	// Output: c-1 1m0s
}
