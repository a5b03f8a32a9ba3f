// Package rotation is the life of an issuer's signing keys: which step may be
// taken when, so that no audience ever meets a key that it has not heard of, and
// none loses a key that tokens in the air still need.
//
//	ring, err := rotation.Parse(stored)     // the zero Ring has no keys
//	ring = ring.Settle(time.Now(), terms)   // as it is in the store
//	ring, err = ring.Prepare(key.Key())     // or another step
//	stored, err = json.Marshal(ring)        // and settle that, too, once it is kept
//
//	ring, err = ring.Activate(key.Key().ID(), time.Now(), terms)
//	var early *rotation.EarlyError
//	if errors.As(err, &early) { time.Sleep(early.Wait) }
//
// # The states
//
//	Prepare -> next -> Activate -> active -> Retire -> retired -> Prune -> gone
//	                                 any of them -> Taint -> tainted
//
// A next key is listed and does not sign, until no list without it can be relied
// on anywhere. The active key that was activated last is the one that signs. A
// former one stays active, and listed, until it is retired; it then stays listed
// until its last token is dead. A tainted key is unlisted at once, and stays in
// the ring so that it cannot come back.
//
// Ring.Listed is what trust.State.Keys is to be. Ring.Due says which step comes
// next for keys that change by the clock.
//
// # Storage
//
// A Ring is a value: each step returns a new one, which is strict JSON to whoever
// keeps it, in a file or in a row of a database. Where several processes may take
// steps, the store lets one through: it replaces the ring only where it still is
// the one that the step was taken from.
//
// Nobody is told of a step before it is kept, and how long that takes nobody
// knows: a commit waits for a disk, or a crash leaves it to be found when the store
// is opened again. So the times on which guarantees hang do not count from the
// step. They are open until Settle, which counts from a look at the ring as it is
// kept: take that look, with the clock read after it, once a step is kept, and
// before each other one, for those who could not. A ring that is never settled is
// slow, not unsafe: its next key waits, and its retired one stays listed.
//
// # Invariants
//
// Once a ring has a signing key it always has one. Steps that would break living
// tokens are refused, and the error says how long to wait. Every process that
// signs takes up a new ring within trust.Terms.Skew.
//
// # What it does not do
//
// It holds public keys alone. The private ones are package signkey's to keep; save
// one before its Prepare is recorded, and delete it when it is retired.
package rotation
