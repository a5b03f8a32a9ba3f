package overload

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// isShed checks that a call was refused for its cause; nil: too many wait.
func isShed(t *testing.T, err, cause error) {
	t.Helper()
	if cause == nil {
		cause = ErrShed
	}
	if !errors.Is(err, cause) {
		t.Errorf("%v, want %v", err, cause)
	}
}

// Two are in verification, three wait, and the sixth is refused. Those who wait
// get their turn in the order in which they came, except the one whose call ends.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2, 3)
		for range 2 {
			if err := q.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		var turns []int
		var ended error
		for i, ctx := range []context.Context{t.Context(), ctx, t.Context()} {
			go func() {
				if err := q.enter(ctx); err != nil {
					ended = err
					return
				}
				turns = append(turns, i)
			}()
			synctest.Wait()
		}
		isShed(t, q.enter(t.Context()), nil)

		gone := errors.New("the caller has gone")
		cancel(gone)
		synctest.Wait()
		isShed(t, ended, gone)
		go func() { _ = q.enter(t.Context()); turns = append(turns, 3) }() // in its room
		synctest.Wait()
		if len(turns) != 0 {
			t.Fatalf("%v did not wait for their turn", turns)
		}
		for range 3 {
			q.leave()
			synctest.Wait()
		}
		if want := []int{0, 2, 3}; !slices.Equal(turns, want) {
			t.Errorf("turns %v, want %v", turns, want)
		}
		q.leave()
		q.leave()
		if n, waiting := len(q.places), q.waiting.Load(); n != 0 || waiting != 0 {
			t.Errorf("%d places are taken and %d wait when all have left", n, waiting)
		}
	})
}

// A call that ends as its turn comes has no check, and keeps no place.
func TestQueueOfTheGone(t *testing.T) {
	refused := 0
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(1, 1)
			if err := q.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var answer error
			go func() { answer = q.enter(ctx) }()
			synctest.Wait()
			q.leave() // which gives the place to who waits
			cancel()
			synctest.Wait()
			if answer == nil { // it was quicker
				q.leave()
			} else {
				refused++
				isShed(t, answer, context.Canceled)
			}
			if n, waiting := len(q.places), q.waiting.Load(); n != 0 || waiting != 0 {
				t.Fatalf("%d places are taken and %d wait", n, waiting)
			}
		})
	}
	if refused == 0 {
		t.Error("no call that had ended was refused")
	}
}

// crowd has n tokens wait, each for the one before it, until their calls end.
func crowd(t *testing.T, q *queue, n int) (disperse func()) {
	t.Helper()
	for range cap(q.places) {
		if err := q.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for range n {
		go func() { _ = q.enter(ctx) }()
	}
	synctest.Wait()
	return cancel
}

// sender is a connection on which all that is written is there to be read.
type sender struct {
	net.Conn
	bytes.Reader
}

func (s *sender) Read(p []byte) (int, error) { return s.Reader.Read(p) }
func (s *sender) Close() error               { return nil }

// While more than half wait, a connection is read when a token has had its turn,
// the longest waiting first, and a little at a time; or when there is no more need
// to wait, when it is closed, or after a second.
func TestListenerPaces(t *testing.T) {
	const most = 1000 // so that it matters little what else in this process could run
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, most)
		conn := func() net.Conn {
			conn, err := listener{queue: q, Listener: accepts{&sender{Reader: *bytes.NewReader(make([]byte, 10*readBytes))}}}.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		read := func(conn net.Conn) (n int, took time.Duration) {
			start := time.Now()
			n, err := conn.Read(make([]byte, 4*readBytes))
			if err != nil {
				t.Error(err)
			}
			return n, time.Since(start)
		}
		if n, took := read(conn()); n != 4*readBytes || took != 0 {
			t.Errorf("while nobody waits, %d bytes in %s", n, took)
		}
		disperse := crowd(t, q, most/2+100)
		if n, took := read(conn()); n != readBytes || took != time.Second {
			t.Errorf("while no token has its turn, %d bytes in %s", n, took)
		}
		if n, err := conn().Read(nil); n != 0 || err != nil {
			t.Errorf("nothing was read as %d bytes, %v", n, err)
		}
		q.leave() // is not saved up
		synctest.Wait()
		var order []int
		for i := range 3 {
			go func() {
				if n, took := read(conn()); n != readBytes || took != time.Duration(i)*time.Millisecond {
					t.Errorf("number %d: %d bytes in %s", i, n, took)
				}
				order = append(order, i)
			}()
			synctest.Wait()
		}
		for i := range 3 {
			if len(order) != i {
				t.Errorf("%d connections were read for %d tokens", len(order), i)
			}
			q.leave()
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		if want := []int{0, 1, 2}; !slices.Equal(order, want) {
			t.Errorf("read in the order %v", order)
		}

		closing := conn()
		time.AfterFunc(3*time.Millisecond, func() { _, _ = closing.Close(), closing.Close() })
		if _, took := read(closing); took != 3*time.Millisecond {
			t.Errorf("closed after 3 ms, a read took %s", took)
		}
		time.AfterFunc(lookEvery+lookEvery/2, disperse)
		if n, took := read(conn()); n != readBytes || took != 2*lookEvery {
			t.Errorf("when nobody waits any longer, %d bytes in %s", n, took)
		}
	})
}

// Those who wait count, whether or not a processor is free.
func TestQueueIsFull(t *testing.T) {
	const most = 1000
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, most)
		if q.full(2*most) || q.filling() {
			t.Error("an empty queue is full, or filling up")
		}
		crowd(t, q, most/2+100)
		if q.full(2*most) || !q.filling() {
			t.Error("a queue that is half full is full, or not filling up")
		}
		for range most/2 - 100 {
			go func() { _ = q.enter(t.Context()) }()
		}
		synctest.Wait()
		if !q.full(2*most) || !q.filling() {
			t.Error("a full queue is not full, or not filling up")
		}
		for range most + 1 {
			q.leave()
			synctest.Wait()
		}
	})
}

// Goroutines that are no calls fill no queue: in one run a call was refused beside 31
// others, while hundreds of connections shook hands.
func TestQueueOfOthers(t *testing.T) {
	q := newQueue(1, 256)
	q.runnable = func() int64 { return 512 }
	if q.full(32) {
		t.Error("32 calls and 512 goroutines fill a queue of 256")
	}
	if !q.full(256) {
		t.Error("256 calls that wait for a processor do not fill it")
	}
	q.waiting.Store(224)
	if !q.full(32) {
		t.Error("224 calls that wait for their turn, and 32 for a processor, do not fill it")
	}
}

// accepts is a listener of one connection.
type accepts struct{ conn net.Conn }

func (a accepts) Accept() (net.Conn, error) { return a.conn, nil }
func (a accepts) Close() error              { return nil }
func (a accepts) Addr() net.Addr            { return nil }
