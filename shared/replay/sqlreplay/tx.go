package sqlreplay

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Tx is a transaction in which a call's token is redeemed: with the handler's effect,
// or not at all. It ends with the call: what is not committed by then is rolled back.
type Tx struct {
	*sql.Tx
	grant    *handoff.Grant
	deferred *handoff.Deferred
	settle   sync.Once
}

var (
	errNotDeferred = errors.New("sqlreplay: the token of this call is not the handler's to redeem: handoffgrpc.Config.Deferred must name its method")
	errOver        = errors.New("sqlreplay: the transaction has ended, or its call has")
)

// Begin begins a transaction in Config.DB and redeems the call's token in it, before
// anything else. ctx is the handler's. A *handoff.Refusal is what the caller is
// told, even if the handler returns something else.
//
// While another transaction with the same token is open, Begin waits for its end, as
// long as Config.Timeout. After a Rollback, Begin can be called again: a serialization
// failure of the effect is tried again so.
func (s *Store) Begin(ctx context.Context, options *sql.TxOptions) (_ *Tx, err error) {
	deferred, ok := handoff.DeferredFrom(ctx)
	if !ok {
		return nil, errNotDeferred
	}
	var tx *sql.Tx
	begun := false
	defer func() {
		if !begun && tx != nil {
			_ = tx.Rollback()
		}
	}()
	grant, err := deferred.Redeem(ctx, func(ctx context.Context, r handoff.Redemption) error {
		for again := true; ; again = false {
			if tx, err = s.beginWith(ctx, options, r); err == nil || !again || !conflicts(err) {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	begun = true
	return &Tx{Tx: tx, grant: grant, deferred: deferred}, nil
}

// beginWith begins a transaction with a redemption.
func (s *Store) beginWith(ctx context.Context, options *sql.TxOptions, r handoff.Redemption) (*sql.Tx, error) {
	if err := s.takes(ctx, r); err != nil {
		return nil, err
	}
	tx, err := s.config.DB.BeginTx(ctx, options)
	if err != nil {
		s.look()
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	if err := s.spend(within, tx, r); err != nil {
		return nil, errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx, nil
}

// conflicts reports whether a transaction of a stricter isolation met with another one
// of the same token, which is over now: the next one sees what became of it.
func conflicts(err error) bool { return codeOf(err) == serializationFailure }

// SQLSTATEs.
const (
	serializationFailure = "40001"
	undefinedTable       = "42P01"
)

// codeOf returns the SQLSTATE of an error of pgx's or of lib/pq's, or nothing.
func codeOf(err error) string {
	var answer interface{ SQLState() string }
	if !errors.As(err, &answer) {
		return ""
	}
	return answer.SQLState()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// Grant returns what the call runs with, if the transaction is committed.
func (t *Tx) Grant() *handoff.Grant { return t.grant }

// Commit keeps the effect and the redemption. After an error both are undone, or, if
// the connection was lost meanwhile, both may have been kept.
func (t *Tx) Commit() error {
	if !t.deferred.Open() {
		return errors.Join(errOver, ignoreDone(t.Rollback()))
	}
	err := t.Tx.Commit()
	t.settle.Do(func() { t.deferred.Settle(err == nil) })
	return err
}

// Rollback undoes the effect and the redemption. After Commit it does nothing and
// returns sql.ErrTxDone.
func (t *Tx) Rollback() error {
	err := t.Tx.Rollback()
	t.settle.Do(func() { t.deferred.Settle(false) })
	return err
}
