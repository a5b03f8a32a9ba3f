package gate

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// at is a connection from an address that nothing is sent on.
type at struct {
	net.Conn
	address net.Addr
}

func (a at) RemoteAddr() net.Addr { return a.address }
func (a at) Close() error         { return nil }

// held are connections of a network, all with an open call or all without.
type held struct {
	network, n int
	busy       bool
}

// full are 64 connections, of which so many, of network 1, are idle.
func full(idle int) []held {
	all := []held{{1, idle, false}, {1, 16 - idle, true}, {2, 16, true}}
	for n := range 32 {
		all = append(all, held{3 + n, 1, true})
	}
	return all
}

// I03: who gets the place of whom.
func TestI03Places(t *testing.T) {
	const busy, idle = true, false
	for name, c := range map[string]struct {
		open []held
		from int  // the network that asks for one more
		want bool // it gets it
		lost int  // the network that loses its longest idle one; 0: none
	}{
		"I03 there is room":                               {open: []held{{1, 10, idle}}, from: 1, want: true},
		"I03 a quarter is taken by one, and idle":         {open: []held{{1, 16, idle}}, from: 1, want: true, lost: 1},
		"I03 a quarter is taken by one, all with calls":   {open: []held{{1, 16, busy}, {2, 9, idle}}, from: 1},
		"I03 half is taken by two who are idle":           {open: []held{{1, 16, idle}, {2, 15, idle}, {3, 1, busy}}, from: 3, want: true, lost: 1},
		"I03 the largest has calls, the second is idle":   {open: []held{{1, 16, busy}, {2, 15, idle}, {3, 1, busy}}, from: 3, want: true, lost: 2},
		"I03 all who hold more have calls":                {open: []held{{1, 16, busy}, {2, 15, busy}, {3, 1, busy}}, from: 3},
		"I03 who holds no more, and is idle":              {open: []held{{1, 16, busy}, {2, 8, idle}, {3, 8, busy}}, from: 3, want: true, lost: 2},
		"I03 the 64th of another is its own":              {open: []held{{1, 16, busy}, {2, 14, busy}, {4, 1, idle}, {3, 1, busy}}, from: 3},
		"I03 it holds the most itself":                    {open: []held{{1, 16, busy}, {2, 7, idle}, {3, 8, busy}, {3, 1, idle}}, from: 3, want: true, lost: 3},
		"I03 of two who hold as much, the longest idle":   {open: []held{{1, 8, idle}, {2, 16, idle}, {1, 8, idle}, {3, 1, busy}}, from: 3, want: true, lost: 1},
		"I03 a newcomer where half is taken":              {open: []held{{1, 16, idle}, {2, 16, idle}}, from: 3, want: true},
		"I03 a newcomer where all is taken, some idle":    {open: full(15), from: 99, want: true, lost: 1},
		"I03 a newcomer where all is taken and has calls": {open: full(0), from: 99},
		"I03 a quarter, and others hold more than a 64th": {open: []held{{1, 16, idle}, {2, 16, busy}}, from: 2},
		"I03 one who holds the most may replace its own":  {open: []held{{1, 16, idle}, {2, 15, idle}, {4, 1, idle}}, from: 1, want: true, lost: 1},
	} {
		t.Run(name, func(t *testing.T) {
			all := New(64)
			var first [100]*connection // that is idle, of each network
			n := 0
			open := func(network int) (*connection, *connection) {
				n++
				return all.admit(at{address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(network)), Port: n}})
			}
			for _, h := range c.open {
				for range h.n {
					conn, lost := open(h.network)
					if lost != nil {
						t.Fatal("one is lost already")
					}
					if conn == nil {
						t.Fatal("one is refused already")
					}
					if h.busy {
						all.Begin(conn.RemoteAddr())
					} else if first[h.network] == nil {
						first[h.network] = conn
					}
				}
			}
			got, lost := open(c.from)
			if (got != nil) != c.want {
				t.Errorf("it gets one: %v, want %v", got != nil, c.want)
			}
			if lost != first[c.lost] {
				t.Errorf("lost: %+v, want the first of network %d", lost, c.lost)
			}
			if lost != nil && all.Begin(lost.RemoteAddr()) {
				t.Error("a call begins on a connection that has no place any more")
			}
			for _, conn := range all.from {
				_ = conn.Close()
				_ = conn.Close()
			}
			if all.taken != 0 || len(all.by) != 0 || len(all.from) != 0 {
				t.Errorf("all are closed, and %d are taken, by %v", all.taken, all.by)
			}
		})
	}
}

func TestConnectionsAreConcurrent(t *testing.T) {
	all := New(16)
	var done sync.WaitGroup
	for n := range 20 {
		done.Go(func() {
			for i := range 100 {
				address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(n%3)), Port: i}
				conn, lost := all.admit(at{address: address})
				if lost != nil {
					_ = lost.Close()
				}
				if conn == nil {
					continue
				}
				if all.Begin(address) {
					all.End(address)
				}
				_ = conn.Close()
			}
		})
	}
	done.Wait()
	if all.taken != 0 || len(all.by) != 0 || len(all.from) != 0 {
		t.Errorf("%d are taken, by %v", all.taken, all.by)
	}
}

// sends is a connection from an address, on which a byte comes with each read.
type sends struct{ at }

func (sends) Read(b []byte) (int, error) { return len(b), nil }

// I01: few connections can have a long header under way, in all and of one network; each
// gives its place back when the header is whole, and when it is closed.
func TestI01LongHeadersAreBounded(t *testing.T) {
	all := NewHTTP(64, 8) // of which one network has 2
	port := 0
	open := func(network byte) *connection {
		port++
		conn, _ := all.admit(sends{at{address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, network), Port: port}}})
		if conn == nil {
			t.Fatal("no place for a connection")
		}
		return conn
	}
	read := func(conn *connection, n int) bool {
		_, err := conn.Read(make([]byte, n))
		return err == nil
	}
	const long = lightHeader + 1
	first, second, third, light := open(1), open(1), open(1), open(1)
	if !read(first, long) || !read(second, lightHeader) || !read(second, 1) {
		t.Error("I01: a network's share of long headers is not read")
	}
	if read(third, long) {
		t.Error("I01: one network has more than its share of long headers under way")
	}
	if !read(light, lightHeader) {
		t.Error("I01: a short header is not read")
	}
	if !read(open(2), long) {
		t.Error("I01: another network's long header is not read")
	}
	if !all.Begin(first.RemoteAddr()) || !read(first, 10*long) { // the header is whole: this is its body
		t.Error("I01: a body counts as a header")
	}
	fourth := open(1)
	if !read(fourth, long) {
		t.Error("I01: a header that is whole keeps its place")
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if !read(open(1), long) {
		t.Error("I01: a connection that is closed keeps its place")
	}
	all.End(first.RemoteAddr())
	if read(first, long) {
		t.Error("I01: the header of the next request on a connection counts as none")
	}
}

// Connections within the process can have one address, and nothing to tell them apart. A call counts for the first of
// them while it is open, and its end does not count for the next one.
func TestConnectionsOfOneAddress(t *testing.T) {
	all := New(64)
	address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
	first, _ := all.admit(at{address: address})
	second, _ := all.admit(at{address: address})
	if !all.Begin(address) || first.calls != 1 || second.calls != 0 {
		t.Errorf("a call counts %d and %d", first.calls, second.calls)
	}
	_ = second.Close()
	if all.from[address] != first {
		t.Error("the first one is forgotten with the second")
	}
	_ = first.Close()
	third, _ := all.admit(at{address: address})
	all.End(address)
	if !all.Begin(address) || third.calls != 1 || third.idle != nil {
		t.Errorf("a call counts %d after the end of another's", third.calls)
	}
	_ = third.Close()
	if all.Len() != 0 || len(all.by) != 0 || len(all.from) != 0 {
		t.Errorf("all are closed, and %d are open", all.Len())
	}
}

// I01: a connection keeps its place among those that send a long header no longer than a
// header takes. What else it sends does not keep it.
func TestI01HeavyForSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewHTTP(16, 1)
		enter := func(address string) *connection {
			conn, _ := c.admit(at{address: &net.TCPAddr{IP: net.ParseIP(address)}})
			return conn
		}
		first, second := enter("192.0.2.1"), enter("192.0.2.2")
		if !c.sent(first, lightHeader) || !c.sent(first, 1) || c.sent(second, lightHeader+1) {
			t.Error("I01: not one has the place")
		}
		time.Sleep(headerTime)
		synctest.Wait()
		if !first.gone || second.gone || !c.sent(second, 1) {
			t.Error("I01: the place is kept")
		}
		if !c.Begin(second.RemoteAddr()) { // the header was one
			t.Error("a request is refused")
		}
		time.Sleep(2 * headerTime)
		synctest.Wait()
		if second.gone || !c.sent(enter("192.0.2.3"), lightHeader+1) {
			t.Error("a request keeps the place of its header, or is closed")
		}
		time.Sleep(2 * headerTime)
	})
}
