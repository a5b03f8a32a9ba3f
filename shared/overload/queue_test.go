package overload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
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
		q := newQueue(2, 3, newCalls(1000))
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
		if n, waiting := q.checked, q.waiting.Load(); n != 0 || waiting != 0 {
			t.Errorf("%d places are taken and %d wait when all have left", n, waiting)
		}
	})
}

// A call that ends as its turn comes has no check, and keeps no place.
func TestQueueOfTheGone(t *testing.T) {
	refused := 0
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(1, 1, newCalls(1000))
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
			if n, waiting := q.checked, q.waiting.Load(); n != 0 || waiting != 0 {
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
	for range q.inFlight {
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
	address net.Addr
	bytes.Reader
}

func (s *sender) Read(p []byte) (int, error) { return s.Reader.Read(p) }
func (s *sender) Close() error               { return nil }
func (s *sender) RemoteAddr() net.Addr       { return s.address }

// While more than half wait, a connection is read when a token has had its turn,
// the longest waiting first, and a little at a time; or when there is no more need
// to wait, when it is closed, or after a second.
func TestListenerPaces(t *testing.T) {
	const most = 1000 // so that it matters little what else in this process could run
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, most, newCalls(1000))
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
		q := newQueue(1, most, newCalls(1000))
		if q.full(2*most, most) || (q.paces(netip.Prefix{}) != apace) {
			t.Error("an empty queue is full, or filling up")
		}
		crowd(t, q, most/2+100)
		if q.full(2*most, most) || q.paces(netip.Prefix{}) == apace {
			t.Error("a queue that is half full is full, or not filling up")
		}
		for range most/2 - 100 {
			go func() { _ = q.enter(t.Context()) }()
		}
		synctest.Wait()
		if !q.full(2*most, most) || q.paces(netip.Prefix{}) == apace {
			t.Error("a full queue is not full, or not filling up")
		}
		for range most + 1 {
			q.leave()
			synctest.Wait()
		}
	})
}

// I03: networks have their turns one after the other, however many calls of each wait; a
// full queue makes room for a network that has fewer.
func TestI03NetworksTakeTurns(t *testing.T) {
	const most = 64
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, most, newCalls(1000))
		var order []string
		shed := map[string]int{}
		var mu sync.Mutex
		enter := func(address string) {
			err := q.enter(from(t.Context(), address))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				shed[address]++
				return
			}
			order = append(order, address)
		}
		const flood, honest, other = "192.0.2.1", "192.0.2.2", "192.0.2.3"
		enter(flood)
		for range 2 * most {
			go enter(flood)
		}
		synctest.Wait()
		for _, address := range []string{honest, honest, other} {
			go enter(address)
			synctest.Wait()
		}
		if want := map[string]int{flood: most + 3}; !maps.Equal(shed, want) {
			t.Fatalf("shed %v, want %v", shed, want)
		}
		for range most + 1 {
			q.leave()
			synctest.Wait()
		}
		if want := []string{flood, flood, honest, other, flood, honest, flood}; len(order) != most+1 || !slices.Equal(order[:len(want)], want) {
			t.Errorf("I03: turns %v, want %v and so on", order, want)
		}
		if q.checked != 0 || q.waiting.Load() != 0 || len(q.calls.by) != 0 || q.calls.turns.Len() != 0 {
			t.Errorf("when all have left: %+v", q.calls)
		}
	})
}

// A full queue makes no room for a network where none has two more than it.
func TestQueueDisplacesNobodyForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, 2, newCalls(1000))
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3 {
			go func() { _ = q.enter(from(ctx, fmt.Sprintf("192.0.2.%d", i))) }()
			synctest.Wait()
		}
		isShed(t, q.enter(from(ctx, "192.0.2.9")), nil)
		isShed(t, q.enter(from(ctx, "192.0.2.2")), nil)
		cancel()
		synctest.Wait()
		if n := q.waiting.Load(); n != 0 {
			t.Errorf("%d wait when all have ended", n)
		}
	})
}

// I03: connections are read in the turns of their networks, too.
func TestI03ReadsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, 1000, newCalls(1000))
		disperse := crowd(t, q, 900)
		defer disperse()
		var order []string
		for _, network := range []string{"192.0.2.1/32", "192.0.2.1/32", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.2/32"} {
			go func() {
				q.awaitRead(netip.MustParsePrefix(network), 1, nil)
				order = append(order, network[:9])
			}()
			synctest.Wait()
		}
		for range 5 {
			q.leave()
			synctest.Wait()
		}
		if want := []string{"192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1"}; !slices.Equal(order, want) {
			t.Errorf("I03: read %v, want %v", order, want)
		}
		if len(q.reads.by) != 0 || q.reads.number != 0 {
			t.Errorf("when all are read: %+v", q.reads)
		}
	})
}

// I03: where others have connections as well, one network's are read call by call once it
// has more than a few calls open and something waits; by itself it is read as fast as it
// brings them until many wait.
func TestI03CrowdsArePaced(t *testing.T) {
	s := newShedder(t, Config{MaxWaiting: 256})
	s.queue.runnable = func() int64 { return 0 }
	dial := func(address string) net.Conn {
		conn, err := listener{queue: s.queue, Listener: accepts{&sender{address: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}}}}.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	crowd, quiet := dial("192.0.2.1"), dial("192.0.2.2")
	call := func(conn net.Conn) {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: conn.RemoteAddr()})
		if _, err := s.Tap(ctx, &tap.Info{FullMethodName: "/a.B/C"}); err != nil {
			t.Fatal(err)
		}
	}
	for range s.queue.few() + 1 {
		call(crowd)
	}
	call(quiet)
	if n := crowd.(*paced).calls.Load(); n != int64(s.queue.few()+1) {
		t.Errorf("%d calls came over a connection that brought %d", n, s.queue.few()+1)
	}
	const little, some, much = 16, 17, 129
	paces := func(waiting int64, conn net.Conn) pace {
		s.queue.waiting.Store(waiting)
		return s.queue.paces(conn.(*paced).network)
	}
	check := func(when string, waiting int64, conn net.Conn, want pace) {
		t.Helper()
		if got := paces(waiting, conn); got != want {
			t.Errorf("I03: %s, while %d wait, the pace is %d, want %d", when, waiting, got, want)
		}
	}
	check("of a crowd", little, crowd, apace)
	check("of a crowd", some, crowd, callByCall)
	check("of a crowd", much, crowd, callByCall)
	check("beside a crowd", some, quiet, apace)
	check("beside a crowd", much, quiet, inTurn)
	for range 2 {
		if err := quiet.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check("of a crowd by itself", some, crowd, apace)
	check("of a crowd by itself", much, crowd, inTurn)
	if err := crowd.Close(); err != nil || len(s.queue.readers.by) != 0 {
		t.Errorf("when all are closed: %v, %v", s.queue.readers.by, err)
	}
}

// A connection waits for as many turns as it brought calls.
func TestCallByCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, 1000, newCalls(1000))
		defer crowd(t, q, 900)()
		read := 0
		for range 2 {
			go func() {
				q.awaitRead(netip.MustParsePrefix("192.0.2.1/32"), 3, nil)
				read++
			}()
			synctest.Wait()
		}
		for turn, want := range []int{0, 0, 1, 1, 1, 2} {
			q.leave()
			if synctest.Wait(); read != want {
				t.Errorf("after %d turns %d were read, want %d", turn+1, read, want)
			}
		}
	})
}

// I03: while a queue is full, a network that has few calls open is not refused on its
// header; unless twice as many wait.
func TestI03FewCallsPass(t *testing.T) {
	s := newShedder(t, Config{MaxWaiting: 128})
	s.queue.runnable = func() int64 { return 0 }
	open := func(address string) bool {
		_, err := s.Tap(from(t.Context(), address), &tap.Info{FullMethodName: "/a.B/C"})
		return err == nil
	}
	for _, c := range []struct {
		waiting int64
		address string
		want    bool
	}{
		{127, "192.0.2.1", true},
		{127, "192.0.2.1", true}, // a 64th of those that may wait
		{128, "192.0.2.1", false},
		{128, "192.0.2.2", true},
		{255, "192.0.2.2", true},
		{255, "192.0.2.2", false},
		{256, "192.0.2.3", false},
		{128, "192.0.2.3", true},
		{127, "192.0.2.1", true},
	} {
		s.queue.waiting.Store(c.waiting)
		if got := open(c.address); got != c.want {
			t.Errorf("I03: while %d wait, a call of %s passes: %v", c.waiting, c.address, got)
		}
	}
}

// Goroutines that are no calls fill no queue: in one run a call was refused beside 31
// others, while hundreds of connections shook hands.
func TestQueueOfOthers(t *testing.T) {
	q := newQueue(1, 256, newCalls(1000))
	q.runnable = func() int64 { return 512 }
	if q.full(32, 32) {
		t.Error("32 calls and 512 goroutines fill a queue of 256")
	}
	if !q.full(256, 256) {
		t.Error("256 calls that wait for a processor do not fill it")
	}
	q.waiting.Store(224)
	if !q.full(32, 32) {
		t.Error("224 calls that wait for their turn, and 32 for a processor, do not fill it")
	}
}

// accepts is a listener of one connection.
type accepts struct{ conn net.Conn }

func (a accepts) Accept() (net.Conn, error) { return a.conn, nil }
func (a accepts) Close() error              { return nil }
func (a accepts) Addr() net.Addr            { return nil }
