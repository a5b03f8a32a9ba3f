package handoffgrpc

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/tap"
)

// Tap is a tap.ServerInHandle that keeps a server at work when more calls come
// than it can check:
//
//	s := grpc.NewServer(grpc.InTapHandle(guard.Tap), grpc.MaxConcurrentStreams(100), …)
//
// A signature check takes a processor and gives it to nobody until it is done, so
// calls that come faster than that wait, each as a goroutine. While as many as
// Config.MaxWaiting do, for verification or for a processor, Tap refuses calls
// with LIMIT_EXCEEDED on their headers alone: no goroutine is started, no body is
// kept, and the token is not looked at. What is exempt passes, health checks
// first of all.
//
// A unary call whose body does not come waits for the network, not for a
// processor. It is not counted, so that nobody can take others' places by saying
// nothing; what bounds such calls is grpc.MaxConcurrentStreams and a deadline.
//
// Config.Observe is told of each call that is refused here, in the goroutine that
// reads the connection: it must be quick, and nothing recovers its panic.
func (g *Guard) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !g.queue.full() {
		return ctx, nil
	}
	c := call{guard: g, method: g.plan.Load().method(info.FullMethodName)}
	if c.method != nil && c.method.exempt {
		return ctx, nil
	}
	return nil, c.refuse(ctx, shed("too many calls wait for a processor", nil))
}

// Listener returns a listener whose connections are read no faster than the
// guard keeps up, which Tap alone cannot see to:
//
//	err := s.Serve(guard.Listener(listener))
//
// A refusal by Tap costs a tenth of a check, most of it for reading the call's
// header, and who is refused may call again at once: were all calls read, those
// that are refused would take the processors from those that are checked. So while
// more than half of Config.MaxWaiting wait, each token that has had its turn lets
// one connection be read, the one that has waited longest, and of that 1 KiB:
// about a call, or some of a client whose headers repeat. What comes above that
// waits with its caller, as it does wherever the other end of a connection is slow.
//
// No connection waits longer than a second for such a piece, and with 1,000 of
// them that call all the time most wait a tenth of it; a new connection takes
// several pieces until its first call. So what asks for health should keep a
// connection of its own open, or be given some seconds.
func (g *Guard) Listener(l net.Listener) net.Listener { return listener{l, g.queue} }

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
// when it is this connection's turn: only what has something to say has one.
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
