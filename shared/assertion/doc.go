// Package assertion is how an API client proves to an issuer which client it is:
// by a JWT that it signs for one call, with a key of which the issuer has the
// public half (RFC 7523 section 2.2). There is no shared secret and no endpoint
// where something is exchanged. Section 8 of shared/handoff/SPEC.md defines the
// assertion exactly; frozen vectors are in testdata/assertions.json.
//
// The client:
//
//	key, err := signkey.Load("nightly.key")
//	raw, err := assertion.Sign(ctx, key, assertion.Params{Client: id, Audience: "https://shop.example"})
//
// In Go, handoffgrpc.ClientKey does so for each attempt of each call. The issuer:
//
//	verifier, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: "https://shop.example", })
//	claims, err := verifier.Verify(ctx, raw, clients)
//	// record claims.Client and claims.ID in the transaction of what the call does, or refuse
//
// # Invariants
//
// An assertion is for one issuer: its `aud` is that issuer's name, one string and
// nothing else (CVE-2025-27370, CVE-2025-27371). It lives for a minute at most. Verify has no
// side effect, so an assertion is single only if its issuer spends it: with the
// effect of the call, in one transaction.
//
// # What it does not do
//
// It fetches no keys: a kid that is not known is refused. What a client may do is
// the issuer's policy to say.
package assertion
