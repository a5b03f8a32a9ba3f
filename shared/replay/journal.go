package replay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Journal is a handoff.Store for one process at a time that outlives it: each
// redemption is in a file before Redeem returns nil, and read back by the next
// Open. JOURNAL.md defines the files. It is safe for concurrent use.
//
// What the kernel took survives the process, but not for certain the machine:
// after a reboot, or when anything of the files is damaged, missing or a copy, a
// journal starts over, as a Memory does. It then refuses what was issued before, up to the skew, and up to
// 20 s more if it was in use moments ago, for the clock may have been set back.
type Journal struct {
	marks   *marks
	dir     *folder
	observe func(Event)
	writer  *writer
	begun   header     // of the segment that is written
	old     []*segment // the others; the keeper's, like begun
	stop    chan struct{}
	stopped sync.WaitGroup
	close   func() error // once
}

// Event is something about a Journal that its operator should know.
type Event struct {
	Kind  EventKind
	Marks int   // how many marks were read back, for Restored and StartedOver
	Err   error // the cause, for StartedOver, Failed and Overdue
}

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	// Restored: Open read the marks back, and none is missing.
	Restored EventKind = "restored"
	// StartedOver: marks may be missing. What was issued before, up to the skew, is
	// refused.
	StartedOver EventKind = "started over"
	// Failed: a write failed. Every redemption is refused until one succeeds again,
	// which is tried each second.
	Failed EventKind = "failed"
	// Resumed: redemptions are written again.
	Resumed EventKind = "resumed"
	// Overdue: a segment could not be begun, or one that is not needed any more
	// could not be removed. That is tried again.
	Overdue EventKind = "overdue"
)

// Create makes a journal: a folder at path, which must not exist. The journal's
// memory begins now: like a Memory, it refuses what was issued before, up to the
// skew. Of c it uses Skew and Now.
func Create(path string, c Config) (err error) {
	c = c.complete()
	defer func() {
		if err != nil {
			err = fmt.Errorf("making a journal: %w", err)
		}
	}()
	switch err := os.Mkdir(path, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w, and a journal is made once", path, fs.ErrExist)
	case err != nil:
		return err
	}
	dir, err := openFolder(path)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	defer dir.close()
	now := c.Now()
	first := header{
		boot: currentBoot(), sequence: 1, oldest: 1, clock: now, after: now.Add(c.Skew), passed: now.Add(-2 * c.Skew), skew: c.Skew,
	}
	s, err := createSegment(dir, first)
	if err != nil {
		return errors.Join(err, os.RemoveAll(path))
	}
	if err := s.file.Close(); err != nil {
		return err
	}
	return vetted.SyncFolder(filepath.Dir(path))
}

// Check returns nil where the journal at path is one that Open takes, or that another
// process has open, and otherwise why it is not. It changes nothing, but has the journal
// open for a moment, in which Open says that it is in use.
func Check(path string) error {
	dir, err := openFolder(path)
	switch {
	case errors.Is(err, errInUse):
		return nil
	case err == nil:
		_, _, err = readHeaders(dir) // what is damaged is opened all the same
		err = errors.Join(err, dir.close())
	}
	if err != nil {
		return fmt.Errorf("checking the journal: %w", err)
	}
	return nil
}

// Open opens the journal at path, only for this process, and reads its marks.
// It refuses a journal that is missing, in use, or written by another version.
func Open(path string, c Config) (*Journal, error) { return open(path, c, period) }

// open has the keeper begin a segment as often as every says.
func open(path string, c Config, every time.Duration) (j *Journal, err error) {
	c = c.complete()
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening the journal: %w", err)
		}
	}()
	dir, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	j = &Journal{dir: dir, observe: c.Observe, stop: make(chan struct{})}
	if err := j.restore(c); err != nil {
		return nil, errors.Join(err, dir.close())
	}
	j.close = sync.OnceValue(func() error {
		close(j.stop)
		j.stopped.Wait()
		return errors.Join(j.end(), j.dir.close())
	})
	j.stopped.Go(func() { j.keep(every) })
	return j, nil
}

// end ends the writer, and where all that it took is in the file, says so in a
// segment of its own: so that the next Open knows of anything that is missing.
func (j *Journal) end() error {
	clean, err := j.writer.close(j.begun.sequence + 1)
	if err != nil || !clean || j.dir.standing() != nil {
		return err
	}
	h := j.begun
	h.sequence++
	h.clock, h.former, h.closed = j.marks.latest(), 0, true
	last, err := createSegment(j.dir, h)
	if err != nil {
		return fmt.Errorf("closing the journal: %w", err)
	}
	return last.file.Close()
}

// Redeem implements handoff.Store. It returns nil once the redemption is in the
// file. When ctx is done before, or the write fails, the token stays spent.
func (j *Journal) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("not redeemed: %w", err)
	}
	if err := j.writer.failed(); err != nil {
		return err
	}
	k := newKey(r.Issuer, r.ID)
	if err := j.marks.redeem(&k, &r); err != nil {
		return err
	}
	return j.writer.append(ctx, mark{k, r.Expires.Unix()})
}

// Close ends the journal: what Redeem was called for is written or refused. The
// marks stay in the files.
func (j *Journal) Close() error { return j.close() }

// Skew returns the skew that the journal covers. NewVerifier refuses a larger one.
func (j *Journal) Skew() time.Duration { return j.marks.skew }

// Ready returns from when on tokens are issued that the journal accepts. It lies
// in the past, except for a journal that has just been made or has started over.
func (j *Journal) Ready() time.Time { return j.marks.ready() }

// Live returns how many marks the journal holds.
func (j *Journal) Live() int { return int(j.marks.live.Load()) }

// Healthy returns nil if the journal accepts a token that is issued now, or why
// not: its file cannot be written, it has only been made or has started over, it is full,
// or the clock was set back by more than twice the skew. It is cheap enough for
// each readiness probe.
func (j *Journal) Healthy() error {
	if err := j.writer.failed(); err != nil {
		return err
	}
	return j.marks.healthy()
}
