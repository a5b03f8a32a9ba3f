// Package redisreplay makes each handoff token spendable once across the
// replicas of a service, which share one Redis. REDIS.md, beside package replay,
// says what Redis can promise and what it cannot, and how to size it.
//
// # Use
//
//	store, err := redisreplay.Open(ctx, redisreplay.Config{URL: "rediss://:secret@redis.internal:6379/0"})
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example",
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
//		Store:    store})
//
// # Invariants
//
// A redemption is one SET NX. It succeeds only when Redis says so, in time, over
// a connection whose server was checked since it was made: whatever else happens
// is a refusal, and the token may be spent all the same. The first redemption
// that meets with doubt has all others refused until a check, made at once, has
// found the Redis well.
//
// A Redis that is set up to lose marks is refused at the start and, while the
// store runs, within seconds. A Redis that has lost them (emptied, replaced,
// failed over) begins anew: it refuses what was issued before, up to the skew,
// for every replica.
//
// # What it does not do
//
// It speaks to one Redis server, its primary, and to no cluster. It does not
// retry: a client whose call was refused hands off again.
package redisreplay
