package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// turn is the place in front of SQLite's own lock. A process that wants to write
// takes the place, and leaves it when its transaction has begun. As transactions are
// long, the place is free for almost all of the time: a process that waits gets it
// while another one's transaction runs, and keeps the others out of the next.
//
// A process that goes first says so before it takes the place, and meanwhile the
// others do not take it.
//
// Both are locks on files, which the kernel frees when a process ends, however that
// is. A turn is used by one goroutine at a time.
type turn struct {
	place *os.File // locked by the process that is next
	first *os.File // locked, shared, by those that wait and go first
}

// look is how often a process that waits looks whether it can go on.
const look = time.Millisecond

// openTurn opens the lock files of the database at path. They are never removed:
// others may be waiting at them.
func openTurn(path string) (*turn, error) {
	place, err := openLock(path, "-turn")
	if err != nil {
		return nil, err
	}
	first, err := openLock(path, "-first")
	if err != nil {
		return nil, errors.Join(err, place.Close())
	}
	return &turn{place: place, first: first}, nil
}

func openLock(path, suffix string) (*os.File, error) {
	f, err := os.OpenFile(path+suffix, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveToOwner(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// take waits for the place.
func (t *turn) take(ctx context.Context, first bool) error {
	if !first {
		return until(ctx, t.takeUnlessFirst)
	}
	if err := until(ctx, func() (bool, error) { return tryLock(t.first, shared) }); err != nil {
		return err
	}
	err := until(ctx, func() (bool, error) { return tryLock(t.place, alone) })
	return errors.Join(err, unlock(t.first))
}

// takeUnlessFirst takes the place unless it is taken, or somebody waits for it who
// goes first.
func (t *turn) takeUnlessFirst() (bool, error) {
	if free, err := tryLock(t.first, alone); !free || err != nil {
		return false, err
	}
	if err := unlock(t.first); err != nil {
		return false, err
	}
	return tryLock(t.place, alone)
}

// until repeats an attempt until it succeeds.
func until(ctx context.Context, attempt func() (bool, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		switch done, err := attempt(); {
		case err != nil:
			return fmt.Errorf("sqlite: waiting to write: %w", err)
		case done:
			return nil
		}
		timer.Reset(look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("sqlite: waiting to write, as another process does: %w", ctx.Err())
		}
	}
}

// leave frees the place.
func (t *turn) leave() error { return unlock(t.place) }

func (t *turn) close() error { return errors.Join(t.place.Close(), t.first.Close()) }
