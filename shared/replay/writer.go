package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

var errClosed = errors.New("the journal is closed")

// writer appends marks to a segment. Callers that come while a write is under
// way share the next one. The file is one goroutine's, so that callers wait no
// longer than their contexts do.
type writer struct {
	observe func(Event)
	wake    chan struct{} // a batch has begun, or the writer is closed
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

func startWriter(s *segment, observe func(Event)) *writer {
	w := &writer{
		observe: observe,
		wake:    make(chan struct{}, 1),
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
		w.signal()
	}
	w.batch.marks = append(w.batch.marks, m)
	return w.batch, nil
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
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
	w.mu.Lock()
	b := w.batch
	w.batch = nil
	closed = w.closed
	w.mu.Unlock()
	if b == nil {
		return closed
	}
	if b.err = w.failed(); b.err == nil {
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
	w.signal()
	return <-w.ended
}
