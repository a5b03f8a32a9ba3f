package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// together is how many changes are committed together at most, so that one that
// comes later, and goes first, does not wait for all of them.
const together = 128

// writer makes the changes of this process. Each commit waits for the disk: changes
// that come meanwhile are committed together, by whichever of their callers gets the
// turn.
type writer struct {
	pool   *sql.DB // of one connection
	turn   *turn   // used by the holder of making only
	answer func(error) bool
	room   func() (uint64, error) // that the disk has left, in bytes
	making chan struct{}          // held while changes are made

	// failing: the last transaction failed. Used by the holder of making only.
	failing bool

	mu      sync.Mutex
	first   []*change // go ahead of the others, and are committed without them
	waiting []*change
	passed  bool // those that wait have been passed by others since they had a turn
}

type change struct {
	whole    bool // where it answers, it has changed nothing
	do       func(context.Context, *sql.Tx) error
	patience time.Duration // zero: the usual
	taken    bool          // no longer waits; guarded by the writer's mu
	err      error
	made     chan struct{} // closed once err is the outcome
}

func newWriter(pool *sql.DB, turn *turn, answer func(error) bool, room func() (uint64, error)) *writer {
	return &writer{pool: pool, turn: turn, answer: answer, room: room, making: make(chan struct{}, 1)}
}

func (w *writer) close() error { return errors.Join(w.pool.Close(), w.turn.close()) }

// Change runs do in a transaction, which may be shared with other changes. It
// returns nil when that is on disk; an error means that nothing of do is kept.
func (f *File) Change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return f.writer.change(ctx, &f.writer.waiting, &change{do: do})
}

// ChangeFirst is Change, ahead of those that wait there, in other processes too: for
// what takes something back, and for operators, who must not wait for those who hand
// out. A failure of the others, such as a full disk, fails no change that goes first.
func (f *File) ChangeFirst(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return f.writer.change(ctx, &f.writer.first, &change{do: do})
}

// ChangeAtStart is ChangeFirst for what a program does before it serves anybody, which
// may take half a minute.
func (f *File) ChangeAtStart(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return f.writer.change(ctx, &f.writer.first, &change{do: do, patience: patienceAtStart})
}

// ChangeOrNothing is Change for a do that has changed nothing when it returns an
// answer: it costs less, as there is nothing to undo.
func (f *File) ChangeOrNothing(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return f.writer.change(ctx, &f.writer.waiting, &change{do: do, whole: true})
}

// Ready returns nil if changes can be made and kept, and the tables are there. It asks
// ahead of those who wait. After a transaction that failed it writes, so that it is
// nil only once the disk takes something again.
func (f *File) Ready(ctx context.Context, tables ...string) error {
	if err := f.writer.hasRoom(); err != nil {
		return err
	}
	return f.ChangeFirst(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, table := range tables {
			if _, err := tx.ExecContext(ctx, `SELECT EXISTS (SELECT 1 FROM `+table+`)`); err != nil {
				return err
			}
		}
		return nil
	})
}

// Prepare prepares a statement for changes. It is closed with the file.
func (f *File) Prepare(ctx context.Context, statement string) (*sql.Stmt, error) {
	return f.writer.pool.PrepareContext(ctx, statement)
}

func (w *writer) change(ctx context.Context, queue *[]*change, c *change) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sqlite: waiting to write: %w", err)
	}
	c.made = make(chan struct{})
	w.mu.Lock()
	*queue = append(*queue, c)
	w.mu.Unlock()
	defer w.withdraw(queue, c) // where another's change panics in this call
	for {
		making := w.making
		if ctx.Err() != nil || !w.waits(c) {
			making = nil // this caller needs no turn
		}
		select {
		case <-c.made:
			return c.err
		case making <- struct{}{}:
			if !w.waits(c) {
				<-w.making // others can make theirs
				continue
			}
			runtime.Gosched() // others who are about to ask are committed with this one
			w.makeAll(w.next())
		case <-ctx.Done():
			if w.withdraw(queue, c) {
				return fmt.Errorf("sqlite: waiting to write: %w", ctx.Err())
			}
			<-c.made // it is being made: the outcome is soon known
			return c.err
		}
	}
}

func (w *writer) waits(c *change) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !c.taken
}

// next returns what is to be committed next, and whether it goes first. Those who
// wait are passed once at a time: nobody keeps them out by taking back.
func (w *writer) next() (taken []*change, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := &w.waiting
	if len(w.first) > 0 && (!w.passed || len(w.waiting) == 0) {
		queue, first = &w.first, true
	}
	w.passed = first
	n := min(len(*queue), together)
	taken = slices.Clone((*queue)[:n])
	*queue = slices.Delete(*queue, 0, n)
	for _, c := range taken {
		c.taken = true
	}
	return taken, first
}

// withdraw reports whether c was still waiting, and now is not.
func (w *writer) withdraw(queue *[]*change, c *change) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.taken {
		return false
	}
	c.taken = true
	i := slices.Index(*queue, c)
	*queue = slices.Delete(*queue, i, i+1)
	return true
}

// makeAll makes the changes and tells each its outcome. Then others can make theirs.
func (w *writer) makeAll(changes []*change, first bool) {
	err := errors.New("sqlite: a change panicked")
	defer func() {
		for _, c := range changes {
			if err != nil {
				c.err = err
			}
			close(c.made)
		}
		<-w.making
	}()
	most := patience
	for _, c := range changes {
		most = max(most, c.patience)
	}
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	err = w.commit(ctx, changes, first)
	w.failing = err != nil
}

// commit makes the changes in one transaction. What one of them answers concerns
// only that one; what fails, fails them all.
func (w *writer) commit(ctx context.Context, changes []*change, first bool) error {
	tx, err := w.begin(ctx, first)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing once it is committed
	if w.failing {
		if err := touch(ctx, tx); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := w.makeOne(ctx, tx, c); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqlite: committing: %w", err)
	}
	return nil
}

// touch writes what is there already. A transaction that changes nothing would succeed
// on a disk that takes nothing.
func touch(ctx context.Context, tx *sql.Tx) error {
	var version int32 // not used by this package, but perhaps by the program
	err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version)
	if err == nil {
		_, err = tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version))
	}
	if err != nil {
		return fmt.Errorf("sqlite: writing again after a failure: %w", err)
	}
	return nil
}

// makeOne makes one change. It returns what failed; an answer is the change's own.
func (w *writer) makeOne(ctx context.Context, tx *sql.Tx, c *change) error {
	if c.whole {
		if c.err = c.do(ctx, tx); c.err != nil && !w.answer(c.err) {
			return c.err
		}
		return nil
	}
	if _, err := tx.ExecContext(ctx, `SAVEPOINT change`); err != nil {
		return fmt.Errorf("sqlite: beginning: %w", err)
	}
	c.err = c.do(ctx, tx)
	undo := ``
	switch {
	case c.err != nil && w.answer(c.err):
		undo = `ROLLBACK TO SAVEPOINT change; `
	case c.err != nil:
		return c.err
	}
	if _, err := tx.ExecContext(ctx, undo+`RELEASE SAVEPOINT change`); err != nil {
		return fmt.Errorf("sqlite: ending: %w", err)
	}
	return nil
}

// begin begins a transaction when it is this process's turn.
func (w *writer) begin(ctx context.Context, first bool) (*sql.Tx, error) {
	if !first {
		if err := w.hasRoom(); err != nil {
			return nil, err
		}
	}
	if err := w.turn.take(ctx, first); err != nil {
		return nil, err
	}
	tx, err := w.pool.BeginTx(ctx, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: beginning: %w", err), w.turn.leave())
	}
	if err := w.turn.leave(); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}
