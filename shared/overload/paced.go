package overload

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// Listener returns a listener that has no more than Config.MaxConnections open, and
// whose connections are read no faster than calls are checked, neither of which Tap
// can see to:
//
//	err := s.Serve(shedder.Listener(listener))
//
// A refusal by Tap costs a tenth of a call that is checked, most of it for reading
// the header, and a refused caller may retry at once: were all calls read, those
// that are refused would take the processors from those that are checked. So while
// more than half of Config.MaxWaiting wait, each call that has had its turn lets
// one connection be read, the one that has waited longest of the network whose turn it
// is, and of that 1 KiB: about a call, or some of a client whose headers repeat. What
// comes above that waits with its caller, as it does wherever the other end of a
// connection is slow. Where several networks have connections, one that has many calls
// open is paced sooner, and its connections wait for as many turns as they bring calls:
// those of the others are not lost among what waits for a processor.
//
// No connection waits longer than a second for such a piece, and with 1,000 of one
// network that call all the time most wait a tenth of it; a new connection takes
// several pieces until its first call. So what asks for health should keep a
// connection of its own open, or be given some seconds.
//
// Tap tells it which connections have a call, and ConnState those of an http.Server. The
// clients' addresses are those that l's connections have: RemoteAddr, which Accept asks
// for, must not wait, and what it returns must be a pointer.
func (s *Shedder) Listener(l net.Listener) net.Listener { return listener{s.bounded(l), s.queue} }

type listener struct {
	net.Listener
	queue *queue
}

// Accept waits for the next connection.
func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &paced{Conn: conn, queue: l.queue, network: quota.NetworkOf(conn.RemoteAddr()), closed: make(chan struct{})}
	l.queue.readers.join(c)
	return c, nil
}

// readers are the connections that are open.
type readers struct {
	of sync.Map // by the very value that RemoteAddr returns: *paced

	mu    sync.Mutex
	by    map[netip.Prefix]int // no entry is zero
	mixed atomic.Bool          // whether more than one network has connections
}

func (r *readers) join(conn *paced) {
	r.of.LoadOrStore(conn.RemoteAddr(), conn) // two within the process can have one address
	r.mu.Lock()
	defer r.mu.Unlock()
	if !conn.network.IsValid() { // it has no address: the program's own
		return
	}
	r.by[conn.network]++
	r.mixed.Store(len(r.by) > 1)
}

func (r *readers) leave(conn *paced) {
	r.of.CompareAndDelete(conn.RemoteAddr(), conn)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !conn.network.IsValid() {
		return
	}
	if r.by[conn.network]--; r.by[conn.network] == 0 {
		delete(r.by, conn.network)
	}
	r.mixed.Store(len(r.by) > 1)
}

// came notes that the header of a call has come over its connection.
func (r *readers) came(address net.Addr) {
	if conn, ok := r.of.Load(address); ok {
		conn.(*paced).calls.Add(1)
	}
}

// paced is a connection that is read as the queue allows. It waits here, beneath
// TLS and gRPC, because neither holds a lock then that an answer or a stop needs.
type paced struct {
	net.Conn
	queue   *queue
	network netip.Prefix
	calls   atomic.Int64 // whose headers have come since the last Read
	closed  chan struct{}
	close   sync.Once
}

// readBytes is how much is read at a time while the queue is filling up.
const readBytes = 1 << 10

// Read reads into p. While the queue is filling up, it returns what it has read
// when it is this connection's turn. Only a connection with data gets a turn.
func (c *paced) Read(p []byte) (int, error) {
	if c.queue.paces(c.network) != apace {
		p = p[:min(len(p), readBytes)]
	}
	n, err := c.Conn.Read(p)
	if calls := int(c.calls.Swap(0)); n > 0 {
		switch c.queue.paces(c.network) {
		case inTurn:
			c.queue.awaitRead(c.network, 1, c.closed)
		case callByCall:
			c.queue.awaitRead(c.network, max(1, calls), c.closed)
		}
	}
	return n, err
}

// Close closes the connection, and ends a Read.
func (c *paced) Close() error {
	c.close.Do(func() {
		close(c.closed)
		c.queue.readers.leave(c)
	})
	return c.Conn.Close()
}
