// Package replay makes each handoff token spendable once, for a service that
// runs as one process. Several replicas share a Redis or a PostgreSQL
// instead: packages redisreplay and sqlreplay.
//
// # Use
//
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example",
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
//		Store:    replay.NewMemory(replay.Config{})})
//
// A Memory forgets with its process and makes up for it by refusing what was
// issued before its start. A Journal remembers, in files:
//
//	err := replay.Create("/var/lib/billing/journal", replay.Config{}) // once
//	store, err := replay.Open("/var/lib/billing/journal", replay.Config{})
//
// # Invariants
//
// For one (issuer, id) exactly one Redeem returns nil. A mark is kept until its
// token's exp + 2 x skew by a clock that never goes back; a token whose mark may
// have been dropped is refused. A store that is full refuses and never forgets.
// What the store cannot remember, because it was issued before its memory began,
// is refused. A Journal's redemption is in the file before it is acknowledged, and
// none is acknowledged while the file cannot be written.
//
// # What it does not do
//
// The stores of two processes know nothing of each other: give each replica its
// own audience, or let them share a Redis or a PostgreSQL. A Memory that is restarted after the
// machine's clock was set back, or with a smaller skew, can accept tokens that it
// accepted before; a Journal does not.
package replay
