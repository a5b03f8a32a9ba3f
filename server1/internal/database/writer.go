package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// patience is how long a change may take once it is its turn, and how long a
// read may take. It is well under any caller's deadline.
const patience = 3 * time.Second

// writer is SQLite's changer. SQLite has one writer at a time, and each commit
// waits for the disk: changes that come meanwhile are committed together, by
// whichever of their callers gets the turn.
type writer struct {
	pool *sql.DB // of one connection
	turn chan struct{}

	mu      sync.Mutex
	waiting []*change
}

type change struct {
	do   func(context.Context, *sql.Tx) error
	err  error
	made chan struct{} // closed once err is the outcome
}

func newWriter(pool *sql.DB) *writer {
	return &writer{pool: pool, turn: make(chan struct{}, 1)}
}

// close ends the writer.
func (w *writer) close() error { return w.pool.Close() }

// change has do made in a transaction, which may be shared. It returns nil when
// that is on disk; an error means that nothing of do is kept.
func (w *writer) change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	c := &change{do: do, made: make(chan struct{})}
	w.mu.Lock()
	w.waiting = append(w.waiting, c)
	w.mu.Unlock()
	select {
	case <-c.made:
	case w.turn <- struct{}{}:
		w.makeAll(w.takeAll())
		<-c.made // by now, or by whose turn it was before
	case <-ctx.Done():
		if w.withdraw(c) {
			return fmt.Errorf("database: waiting to write: %w", ctx.Err())
		}
		<-c.made // it is being made: the outcome is soon known
	}
	return c.err
}

func (w *writer) takeAll() []*change {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.waiting
	w.waiting = nil
	return taken
}

// withdraw reports whether c was still waiting, and now is not.
func (w *writer) withdraw(c *change) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.waiting, c)
	if i < 0 {
		return false
	}
	w.waiting = slices.Delete(w.waiting, i, i+1)
	return true
}

// makeAll makes the changes, tells each its outcome, and ends the turn.
func (w *writer) makeAll(changes []*change) {
	err := errors.New("database: a change panicked")
	defer func() {
		for _, c := range changes {
			if err != nil {
				c.err = err
			}
			close(c.made)
		}
		<-w.turn
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = w.commit(ctx, changes)
}

// commit makes the changes in one transaction. What refuses one of them
// concerns it alone; what fails, fails them all.
func (w *writer) commit(ctx context.Context, changes []*change) error {
	tx, err := w.pool.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("database: beginning: %w", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	for _, c := range changes {
		if _, err := tx.ExecContext(ctx, `SAVEPOINT change`); err != nil {
			return fmt.Errorf("database: beginning: %w", err)
		}
		c.err = c.do(ctx, tx)
		undo := ``
		switch {
		case refused(c.err):
			undo = `ROLLBACK TO SAVEPOINT change; `
		case c.err != nil:
			return c.err
		}
		if _, err := tx.ExecContext(ctx, undo+`RELEASE SAVEPOINT change`); err != nil {
			return fmt.Errorf("database: ending: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("database: committing: %w", err)
	}
	return nil
}
