package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var errClosed = errors.New("the journal is closed")

// writer appends marks to a segment. Callers that come while a write is under
// way share the next one. The file is one goroutine's, so that callers wait no
// longer than their contexts do.
type writer struct {
	clock   func() time.Time // later than no mark that is appended afterwards
	observe func(Event)
	wake    chan struct{} // a batch has begun, or the writer is closed
	due     chan struct{} // the batch waits for another segment: this one's tenure is over
	next    chan *segment // the segment to go on with
	former  chan *segment // the one before it, in answer
	ended   chan ending
	follows atomic.Uint64 // the segment that closes the journal, before closed is set
	failure atomic.Pointer[error]
	kept    atomic.Int64 // the bytes that count of a segment to which a write failed; or zero
	// standing returns an error where the journal is not to be written.
	standing func() error

	mu     sync.Mutex // of what follows
	batch  *batch     // nil when nobody waits
	spare  []mark
	closed bool
}

// batch is what one write takes.
type batch struct {
	marks   []mark
	written chan struct{} // closed when err is set
	err     error
}

// ending is how the writer ended.
type ending struct {
	clean bool // all that was acknowledged is in a segment with a seal
	err   error
}

func startWriter(s *segment, clock func() time.Time, standing func() error, observe func(Event)) *writer {
	w := &writer{
		standing: standing,
		clock:    clock,
		observe:  observe,
		wake:     make(chan struct{}, 1),
		due:      make(chan struct{}, 1),
		next:     make(chan *segment),
		former:   make(chan *segment),
		ended:    make(chan ending, 1),
	}
	go w.run(s)
	return w
}

// append returns nil once m is in the file.
func (w *writer) append(ctx context.Context, m mark) error {
	b, err := w.join(m)
	if err != nil {
		return err
	}
	select {
	case <-b.written:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("not known to be written: %w", context.Cause(ctx))
	}
}

func (w *writer) join(m mark) (*batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errClosed
	}
	if w.batch == nil {
		w.batch = &batch{marks: w.spare, written: make(chan struct{})}
		w.spare = nil
		nudge(w.wake)
	}
	w.batch.marks = append(w.batch.marks, m)
	return w.batch, nil
}

func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (w *writer) run(s *segment) {
	for {
		select {
		case next := <-w.next:
			former := s
			s = next
			w.leave(former, next.header.sequence)
			w.resume()
			w.former <- former
			nudge(w.wake) // a batch may wait for it
		case <-w.wake:
			if closed := w.flush(s); closed {
				clean := w.leave(s, w.follows.Load())
				w.ended <- ending{clean, s.file.Close()}
				return
			}
		}
	}
}

// flush writes the batch, if there is one.
func (w *writer) flush(s *segment) (closed bool) {
	b, closed := w.take(s)
	if b == nil {
		return closed
	}
	if b.err == nil {
		if b.err = w.standing(); b.err == nil {
			if b.err = s.write(b.marks); b.err != nil {
				w.kept.Store(s.size)
			}
		}
		if b.err != nil {
			b.err = w.fail(b.err)
		}
	}
	marks := b.marks[:0]
	close(b.written)
	w.mu.Lock()
	w.spare = marks
	w.mu.Unlock()
	return closed
}

// take returns the batch that s is to take, or that is refused.
func (w *writer) take(s *segment) (b *batch, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.batch == nil {
		return nil, w.closed
	}
	err := w.failed()
	if err == nil && s.header.over(w.clock()) {
		if !w.closed {
			nudge(w.due)
			return nil, false
		}
		err = errClosed
	}
	b, w.batch = w.batch, nil
	b.err = err
	return b, w.closed
}

// refuse fails the batch that waits for another segment, which there is not.
func (w *writer) refuse(err error) {
	w.fail(err)
	nudge(w.wake)
}

// A segment to which a write failed is never written again, for what it ends
// with is not known. Until there is another, every redemption is refused.
func (w *writer) fail(err error) error {
	err = fmt.Errorf("the journal cannot be written: %w", err)
	w.failure.Store(&err)
	w.observe(Event{Kind: Failed, Err: err})
	return err
}

func (w *writer) resume() {
	if w.failure.Swap(nil) != nil {
		w.observe(Event{Kind: Resumed})
	}
}

// failed returns why redemptions are refused, or nil.
func (w *writer) failed() error {
	if err := w.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// swap goes on with another segment, and returns the former.
func (w *writer) swap(s *segment) (former *segment) {
	w.next <- s
	return <-w.former
}

// leave seals a segment that takes no more marks, and reports whether it could. One
// to which a write failed ends with something unknown: the next header says how much
// of it counts.
func (w *writer) leave(s *segment, next uint64) (sealed bool) {
	return w.kept.Swap(0) == 0 && w.standing() == nil && s.seal(next) == nil
}

// close writes what waits and ends. next is the segment that closes the journal.
func (w *writer) close(next uint64) (clean bool, err error) {
	w.follows.Store(next)
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	nudge(w.wake)
	e := <-w.ended
	return e.clean, e.err
}
