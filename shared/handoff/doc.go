// Package handoff issues and verifies handoff tokens: short-lived signed JWTs
// that each name exactly one gRPC call, with the values of its fields, for one
// user of one service to make on another.
//
// # Issuing
//
//	key, err := signkey.Load("shop.key")
//	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key})
//	op, err := rule.Operation(billingv1.Billing_Pay_FullMethodName, req)
//	raw, claims, err := issuer.Issue(ctx, handoff.IssueParams{
//		Audience: "https://billing.example", Subject: user.ID, Operation: op})
//
// # Verifying
//
// Trust shows in the types. A raw string becomes a *Verified only by Verify,
// which has no side effect, and a *Verified becomes a *Grant only by Redeem,
// which spends it. There are two steps because a stream sees the token before
// the request. package handoffgrpc makes both for a gRPC server.
//
//	keys, err := keyset.Load("shop.jwks")
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example",
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
//		Store:    replay.NewMemory(replay.Config{})})
//	verified, err := verifier.Verify(ctx, raw)
//	grant, err := verifier.Redeem(ctx, verified, op, handoff.Rule{})
//
// # Invariants
//
// The order of checks is fixed (SPEC.md): length, parts, base64url, header, key,
// signature, payload, issuer, audience, times, revocation, operation, and last
// the redemption. Nothing before the signature has a side effect; nothing after
// the redemption refuses. Every error on the way to yes is a no, as a *Refusal
// with a Reason. No error contains a token or a part of one.
//
// # What it does not do
//
// A grant proves who asked and for what; whether the thing is theirs is the
// handler's to decide, by (Issuer, Subject). Tokens are signed, not encrypted.
// The package knows no protobuf, no gRPC and no network.
package handoff
