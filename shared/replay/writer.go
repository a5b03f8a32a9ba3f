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
	ended   chan error
	failure atomic.Pointer[error]

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

func startWriter(s *segment, clock func() time.Time, observe func(Event)) *writer {
	w := &writer{
		clock:   clock,
		observe: observe,
		wake:    make(chan struct{}, 1),
		due:     make(chan struct{}, 1),
		next:    make(chan *segment),
		former:  make(chan *segment),
		ended:   make(chan error, 1),
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
			w.resume()
			w.former <- former
			nudge(w.wake) // a batch may wait for it
		case <-w.wake:
			if closed := w.flush(s); closed {
				w.ended <- s.file.Close()
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
		if err := s.write(b.marks); err != nil {
			b.err = w.fail(err)
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

// close writes what waits and ends.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	nudge(w.wake)
	return <-w.ended
}
