// Package trust publishes and follows the trust list: an issuer's signed
// statement of the keys that may sign handoff tokens now, and of what it has
// taken back. With it an audience learns of a revocation or of a new key within a
// second, and shares nothing with the issuer but one public key, the trust key.
// SPEC.md beside this file defines the list.
//
// # Publishing
//
// An issuer makes entries by its Terms, records them in a store of its own, and
// says that something has changed:
//
//	terms := trust.Terms{Issuer: "https://shop.example"}
//	publisher, err := trust.NewPublisher(trust.PublisherConfig{Terms: terms, Key: trustKey, Source: store})
//	go publisher.Run(ctx)
//	publisher.Register(grpcServer)
//	mux.Handle("/.well-known/", publisher.Handler())
//
//	entry, err := terms.Session(session.HandoffID, time.Now()) // in SignOut
//	err = store.Insert(ctx, entry)                             // durable
//	publisher.Changed()                                        // acknowledge after this
//
// # Following
//
// An audience gives its verifier a follower in the place of a key set:
//
//	feed, err := trust.NewStreamFeed("dns:///shop.example:443", grpc.WithTransportCredentials(creds))
//	follower, err := trust.NewFollower(trust.FollowerConfig{
//		Issuer: "https://shop.example", TrustKeys: trustKeys.Keys(), Feed: feed})
//	go follower.Run(ctx)
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example", Store: replay.NewMemory(replay.Config{}),
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": follower}})
//
// # Taking back
//
// A token or a session is taken back by its id, which is exact. A user is cut
// off at a moment, which is not: see Terms.Subject for what the cut-off must
// cover, and Wait for how a user who signs in again gets only tokens that stand.
//
// # Invariants
//
// The trust key signs lists, and nothing else signs one. A list states all that
// the store knew at one moment, or is not made: nothing is signed when the store
// fails. A list that is refused replaces nothing, and none is in force before the
// digest of its entries agrees. While there is no list that is
// young enough, every token is refused with TRUST_STALE. seq grows, and age is
// now - iat, whichever way a list came and whenever. No token causes a fetch; the
// check of one allocates nothing and waits for nothing.
//
// # What it does not do
//
// It keeps nothing: entries and their durability are the store's, signing keys
// package signkey's, and the steps of their rotation package rotation's. The list
// names no user, but somebody who can guess a user's id can look for its digest.
//
// What is signed and sent every two seconds does not grow with what was taken back;
// what has changed is sent once. A follower that begins reads all entries: 4.4 MB
// for 100,000. Beyond 500,000 a cut-off for every user stands for the older half:
// bound what one user can take back, and take back a session rather than its tokens.
//
// Anybody may ask a publisher for the list. A caller who does not read what it is
// sent makes it hold up to 40 kB a call, however long the entries and however often
// they change: bound the connections and the calls of each, as for any service.
// Former entries are kept until they expire, 64 MiB of them at most, for those who
// read slowly.
package trust
