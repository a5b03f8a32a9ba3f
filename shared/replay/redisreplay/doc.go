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
// A batch of redemptions is one script. Each succeeds only when Redis says so, in time, over
// a connection whose server was checked since it was made. Everything else
// is a refusal, after which the token may be spent or not. The first redemption
// that meets with doubt has all others refused until a check, made at once, has
// found the Redis well.
//
// No mark has a time to live: what a clock of the Redis's says ends none.
//
// A Redis that is set up to lose marks is refused at the start and, while the
// store runs, within seconds. A Redis that has lost them (emptied, replaced,
// failed over) starts over: it refuses what was issued before, up to the skew,
// for every replica. So does one that was put back to an earlier state, as soon as
// a store asks it that has redeemed since.
//
// # What it does not do
//
// It speaks to one Redis server, its primary, and to no cluster. It does not
// retry: a client whose call was refused hands off again.
package redisreplay
