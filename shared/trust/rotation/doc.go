// Package rotation is the life of an issuer's signing keys: which step may be
// taken when, so that no audience ever meets a key that it has not heard of, and
// none loses a key that tokens in the air still need.
//
//	steps := rotation.Steps{Store: db, Folder: "keys", Now: time.Now}
//	err := steps.Begin(ctx)                    // with a first key, which signs at once
//	key, ring, err := steps.Prepare(ctx, "")   // its successor
//	ring, err = steps.Activate(ctx, key.ID())
//	var early *rotation.EarlyError
//	if errors.As(err, &early) { time.Sleep(early.Wait) } // and then again
//
// Steps takes them for you, over a Store of two methods and a folder of private
// keys. What each step does is in Ring.
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
// A Ring is a value: each step returns a new one, which is kept as strict JSON in a
// file or in a row of a database. A Store lets one process at a time change it.
//
// Nobody is told of a step before it is kept, and how long that takes nobody
// knows: a commit waits for a disk, or a crash leaves it to be found when the store
// is opened again. So the times on which guarantees hang do not count from the
// step. They are open until Settle, which counts from a look at the ring as it is
// kept, with the clock read after it. Steps takes that look once a step is kept,
// and before each other one, for a process that died before it could. A ring that
// is never settled is slow, not unsafe: its next key waits, and its retired one
// stays listed.
//
// Why not count from the first trust list that has the key? Several processes
// publish: one can still hand out a list that it read before the key was there, and
// the folder of the command knows of no list at all.
//
// # Invariants
//
// Once a ring has a signing key it always has one. Steps that would break living
// tokens are refused, and the error says how long to wait. Every process that
// signs takes up a new ring within trust.Terms.Skew.
//
// # What it does not do
//
// A ring has only public keys. The private ones are in a signkey.Folder: each is
// saved before the ring names it, and removed when it will not sign again.
package rotation
