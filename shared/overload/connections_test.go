package overload

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/grpc/test/bufconn"

	"github.com/handoff-auth/handoff/shared/internal/gate"
)

// comes is a connection of a client that says nothing.
type comes struct {
	net.Conn
	address net.Addr
	closed  bool
}

func (c *comes) RemoteAddr() net.Addr { return c.address }
func (c *comes) Close() error         { c.closed = true; return nil }

// door is a listener to which one client comes.
type door struct {
	net.Listener
	client *comes // nil: it has come
}

func (d *door) Accept() (net.Conn, error) {
	if d.client == nil {
		return nil, net.ErrClosed
	}
	client := d.client
	d.client = nil
	return client, nil
}

// enters has a client from an address come to a shedder's listener.
func enters(t *testing.T, s *Shedder, address string) (client *comes, conn net.Conn) {
	t.Helper()
	client = &comes{address: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}}
	conn, err := s.Listener(&door{client: client}).Accept()
	if err != nil && !(client.closed && errors.Is(err, net.ErrClosed)) {
		t.Fatal(err)
	}
	return client, conn
}

// I03: the connections of all listeners of a shedder are bounded for each network. The one that has been idle for the
// longest time makes room for a new one, and one with a call or a request under way does not.
func TestI03ConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowded := 0
		s := newShedder(t, Config{MaxConnections: 16, Crowded: func(idleClosed, refused int, last net.Addr) {
			if crowded++; idleClosed+refused != 1 || last.String() != "192.0.2.1:1" {
				t.Errorf("told of %d and %d, the last from %s", idleClosed, refused, last)
			}
		}})
		called, conn := enters(t, s, "192.0.2.1")
		ctx, end := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{Addr: conn.RemoteAddr()}))
		if _, err := s.Tap(ctx, &tap.Info{FullMethodName: "/a.B/C"}); err != nil {
			t.Fatal(err)
		}
		asked, request := enters(t, s, "192.0.2.1")
		s.ConnState(request, http.StateActive)
		first, lost := enters(t, s, "192.0.2.1")
		second, _ := enters(t, s, "192.0.2.1") // a quarter of 16
		third, _ := enters(t, s, "192.0.2.1")
		if !first.closed || second.closed || third.closed || called.closed || asked.closed {
			t.Errorf("I03: closed: %v, and %v, %v with a call, %v with a request", first.closed, second.closed, called.closed, asked.closed)
		}
		if _, err := s.Tap(peer.NewContext(t.Context(), &peer.Peer{Addr: lost.RemoteAddr()}), &tap.Info{FullMethodName: "/a.B/C"}); err != nil {
			t.Error("a call on a connection that is gone for good:", err)
		}
		if other, _ := enters(t, s, "192.0.2.2"); other.closed {
			t.Error("I03: another network's connection is closed")
		}
		end()
		s.ConnState(request, http.StateIdle)
		synctest.Wait()
		for range 4 {
			enters(t, s, "192.0.2.1")
		}
		if !called.closed || !asked.closed || !third.closed {
			t.Error("I03: a connection whose calls have ended makes no room")
		}
		if crowded != 5 { // each listener tells for itself
			t.Errorf("told %d times", crowded)
		}
	})
}

// I03: where all connections of a network have calls, its new one is closed. A call that is refused is none.
func TestI03ConnectionsWithCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShedder(t, Config{MaxConnections: 4, MaxOpen: 4}) // of which one network has one
		called, conn := enters(t, s, "192.0.2.1")
		ctx, end := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{Addr: conn.RemoteAddr()}))
		call := &tap.Info{FullMethodName: "/a.B/C"}
		if _, err := s.Tap(ctx, call); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Tap(ctx, call); err == nil {
			t.Error("a network has two calls")
		}
		if client, conn := enters(t, s, "192.0.2.1"); !client.closed || conn != nil || called.closed {
			t.Errorf("I03: one too many is closed: %v, the one with a call: %v", client.closed, called.closed)
		}
		end()
		synctest.Wait()
		if client, _ := enters(t, s, "192.0.2.1"); client.closed || !called.closed {
			t.Errorf("I03: closed: the new one %v, the one whose call has ended %v", client.closed, called.closed)
		}
	})
}

// What is bounded already is not bounded twice: each would count as two, one of them without calls.
func TestBoundedOnce(t *testing.T) {
	s := newShedder(t, Config{})
	other := gate.New(1).Listener(bufconn.Listen(1), nil)
	own := s.Listener(bufconn.Listen(1))
	for _, l := range []net.Listener{other, own} {
		if got := s.Listener(l).(listener).Listener; got != l {
			t.Errorf("%T is bounded by %T", l, got)
		}
	}
}
