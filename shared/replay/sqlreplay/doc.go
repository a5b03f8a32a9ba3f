// Package sqlreplay makes each handoff token spendable once across the replicas of a
// service, in the PostgreSQL that they share, over database/sql and any driver.
// POSTGRES.md, beside package replay, says what PostgreSQL can promise and what it
// cannot.
//
// # Use
//
//	err := sqlreplay.Create(ctx, sqlreplay.Config{DB: db}) // once
//	store, err := sqlreplay.Open(ctx, sqlreplay.Config{DB: db})
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
//		Audience: "https://billing.example",
//		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
//		Store:    store})
//
// # In the handler's own transaction
//
// A token that is spent before its handler runs is spent even if the handler fails.
// Where the effect is in the same database, the handler can redeem in the transaction
// of its effect, so that both are kept or neither is. The guard leaves that to methods
// that handoffgrpc.Config.Deferred names:
//
//	func (s *billing) Pay(ctx context.Context, req *billingv1.PayRequest) (*billingv1.PayResponse, error) {
//		tx, err := s.store.Begin(ctx, nil) // redeems: the first statement of the transaction
//		if err != nil {
//			return nil, err // TOKEN_REPLAYED, and so on
//		}
//		defer tx.Rollback() // undoes the effect and the redemption
//		if err := pay(ctx, tx, tx.Grant(), req); err != nil {
//			return nil, err
//		}
//		if err := tx.Commit(); err != nil {
//			return nil, err
//		}
//		return &billingv1.PayResponse{}, nil
//	}
//
// The grant comes with the transaction and from nowhere else: handoff.FromContext has
// none there. A handler that answers and has not committed such a transaction has its
// answer withheld. Of two calls with one token at once, the second waits for the
// first, and is refused if that commits, or runs if it rolls back.
//
// # Invariants
//
// A redemption is one INSERT … ON CONFLICT DO NOTHING, in a statement that inserts
// nothing unless its own server is a primary that keeps what it commits, and the one
// that has kept all marks so far. So nothing depends on which server a connection leads to.
// Everything but a row that was inserted is a refusal, after which the token may be spent or not.
//
// A PostgreSQL that may have lost marks (failed over, restored, emptied) starts over:
// it refuses what was issued before, up to the skew, for every replica.
//
// No mark is removed before its token has been expired for twice the skew, and what
// belongs to a time whose marks were removed is refused.
//
// # What it does not do
//
// It speaks PostgreSQL only. It does not retry an INSERT whose answer was lost. It
// does not size or close Config.DB.
package sqlreplay
