// Package gate bounds the connections that listeners have open, in all and from one
// network, so that no few strangers keep all the others out.
package gate

import (
	"container/list"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// Connections are those that one or more listeners have open: so many in all, and of one
// network a share. A new one for which there is no room takes the place of one without
// an open call. It is safe for concurrent use.
type Connections struct {
	all int

	mu    sync.Mutex
	taken int
	by    map[netip.Prefix]*holder
	from  map[net.Addr]*connection // by the very value that RemoteAddr returns, which no two share that are of a network
	turns uint64

	heavy *quota.Quota // nil: as many as there are
}

// lightHeader is how much a connection can send ahead of a call and count as idle, in
// bytes: a TLS handshake, and a header that is not long.
const lightHeader = 3 << 10

// headerTime is how long a connection can keep a place among the heavy: what comes after
// it is no header.
const headerTime = 5 * time.Second

// errHeavy is why a connection is not read on.
var errHeavy = errors.New("as many long headers are under way as may be, in all or from one network")

// A holder is a network that has connections open.
type holder struct {
	open int
	idle list.List // of *connection: those without an open call, the one first that has been for the longest time
}

// A connection makes room when it is closed.
type connection struct {
	net.Conn
	in      *Connections
	address net.Addr
	network netip.Prefix

	// in.mu guards these.
	calls int
	idle  *list.Element // nil: it has an open call, or no place
	since uint64        // the turn in which it became idle
	gone  bool          // it has no place any more
	ahead int           // the bytes that it has sent since it became idle
	ease  func()        // gives back its place among the heavy; nil: it has none
}

// New returns room for so many connections.
func New(all int) *Connections {
	return &Connections{all: all, by: map[netip.Prefix]*holder{}, from: map[net.Addr]*connection{}}
}

// NewHTTP returns room for so many connections, of which so many may have sent more than
// lightHeader since their last request, and not the rest of a header.
func NewHTTP(all, heavy int) *Connections {
	c := New(all)
	c.heavy = quota.New(heavy)
	return c
}

// Len returns how many are open.
func (c *Connections) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// admit returns the connection with a place, or nil where there is none for it. What
// had the place before is to be closed, if it is not nil: it has no open call and
// gets none.
func (c *Connections) admit(conn net.Conn) (admitted, displaced *connection) {
	address := conn.RemoteAddr()
	network := quota.NetworkOf(address)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := 0
	if of := c.by[network]; of != nil {
		held = of.open
	}
	if c.taken >= c.all || held >= quota.Share(c.all, c.taken) {
		if displaced = c.idlest(network, held); displaced == nil {
			return nil, nil
		}
		c.leave(displaced)
	}
	of := c.by[network]
	if of == nil {
		of = &holder{}
		c.by[network] = of
	}
	c.taken++
	of.open++
	admitted = &connection{Conn: conn, in: c, address: address, network: network}
	if c.from[address] == nil { // two within the process can have one address
		c.from[address] = admitted
	}
	c.rest(admitted)
	return admitted, displaced
}

// idlest returns the connection whose place one of the network can take, which holds
// so many: the longest idle of the network that holds the most, of those with an idle
// one. Which has its quarter takes of its own only; and nobody takes from who holds
// neither more than it does nor more than the 64th that everybody can have. It looks
// at each network, which takes less time than the handshake that follows.
func (c *Connections) idlest(network netip.Prefix, held int) (found *connection) {
	most := 0
	for at, of := range c.by {
		candidate := of.idlest()
		if candidate == nil || at != network && (held >= quota.Share(c.all, 0) || of.open <= min(held, quota.Share(c.all, c.all))) {
			continue
		}
		if of.open > most || of.open == most && candidate.since < found.since {
			found, most = candidate, of.open
		}
	}
	return found
}

func (h *holder) idlest() *connection {
	if front := h.idle.Front(); front != nil {
		return front.Value.(*connection)
	}
	return nil
}

// Begin notes that a call begins on the connection from an address, which keeps its
// place until the call's end. It reports false if the place is another's already. An
// address that is not of these connections has nothing to lose.
func (c *Connections) Begin(address net.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.from[address]
	if conn == nil {
		return true
	}
	if conn.gone {
		return false
	}
	if conn.calls++; conn.calls == 1 {
		c.by[conn.network].idle.Remove(conn.idle)
		conn.idle = nil
		conn.lighten()
	}
	return true
}

// sent notes that so many bytes have come from a connection. It reports false for one
// that sends a long header and gets no place among the heavy: of 40 KiB, net/http makes
// a megabyte, before any handler can refuse it.
func (c *Connections) sent(conn *connection, n int) bool {
	if c.heavy == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.calls > 0 || conn.gone {
		return true // a body, which its reader bounds; or it is being closed
	}
	if conn.ahead += n; conn.ahead <= lightHeader || conn.ease != nil {
		return true
	}
	release, ok := c.heavy.Take(conn.address)
	if ok {
		late := time.AfterFunc(headerTime, func() { _ = conn.Close() })
		conn.ease = func() { late.Stop(); release() }
	}
	return ok
}

// lighten forgets what a connection has sent.
func (c *connection) lighten() {
	c.ahead = 0
	if c.ease != nil {
		c.ease()
		c.ease = nil
	}
}

// End notes the end of a call for which Begin has reported true.
func (c *Connections) End(address net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.from[address]
	if conn == nil || conn.gone || conn.calls == 0 {
		return
	}
	if conn.calls--; conn.calls == 0 {
		c.rest(conn)
	}
}

// ConnState is an http.Server's. It notes requests, as the state of a connection tells of
// them: it is active from a request's header to the end of the answers under way, and
// only then.
func (c *Connections) ConnState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		if !c.Begin(conn.RemoteAddr()) {
			_ = conn.Close() // as the one that took its place is doing
		}
	case http.StateIdle:
		c.End(conn.RemoteAddr())
	}
}

// rest puts a connection behind all others that are idle.
func (c *Connections) rest(conn *connection) {
	c.turns++
	conn.since = c.turns
	conn.idle = c.by[conn.network].idle.PushBack(conn)
}

// leave gives a connection's place back, once.
func (c *Connections) leave(conn *connection) {
	if conn.gone {
		return
	}
	conn.gone = true
	conn.lighten()
	of := c.by[conn.network]
	if conn.idle != nil {
		of.idle.Remove(conn.idle)
		conn.idle = nil
	}
	c.taken--
	if of.open--; of.open == 0 {
		delete(c.by, conn.network)
	}
}

// RemoteAddr returns the same value each time.
func (c *connection) RemoteAddr() net.Addr { return c.address }

// Read reads what has come, unless it is more of a header than there is room for.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.in.sent(c, n) {
		return 0, errHeavy
	}
	return n, err
}

// Close closes the connection and gives its place back.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.leave(c)
	if c.in.from[c.address] == c {
		delete(c.in.from, c.address)
	}
	return err
}
