package overload

import (
	"net"
	"sync"
)

// Listener returns a listener whose connections are read no faster than calls are
// checked, which Tap by itself cannot see to:
//
//	err := s.Serve(shedder.Listener(listener))
//
// A refusal by Tap costs a tenth of a call that is checked, most of it for reading
// the header, and a refused caller may retry at once: were all calls read, those
// that are refused would take the processors from those that are checked. So while
// more than half of Config.MaxWaiting wait, each call that has had its turn lets
// one connection be read, the one that has waited longest, and of that 1 KiB:
// about a call, or some of a client whose headers repeat. What comes above that
// waits with its caller, as it does wherever the other end of a connection is slow.
//
// No connection waits longer than a second for such a piece, and with 1,000 of
// them that call all the time most wait a tenth of it; a new connection takes
// several pieces until its first call. So what asks for health should keep a
// connection of its own open, or be given some seconds.
func (s *Shedder) Listener(l net.Listener) net.Listener { return listener{l, s.queue} }

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
	return &paced{Conn: conn, queue: l.queue, closed: make(chan struct{})}, nil
}

// paced is a connection that is read as the queue allows. It waits here, beneath
// TLS and gRPC, because neither holds a lock then that an answer or a stop needs.
type paced struct {
	net.Conn
	queue  *queue
	closed chan struct{}
	close  sync.Once
}

// readBytes is how much is read at a time while the queue is filling up.
const readBytes = 1 << 10

// Read reads into p. While the queue is filling up, it returns what it has read
// when it is this connection's turn: only a connection with data gets a turn.
func (c *paced) Read(p []byte) (int, error) {
	if c.queue.filling() {
		p = p[:min(len(p), readBytes)]
	}
	n, err := c.Conn.Read(p)
	if n > 0 && c.queue.filling() {
		c.queue.awaitRead(c.closed)
	}
	return n, err
}

// Close closes the connection, and ends a Read.
func (c *paced) Close() error {
	c.close.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
