package rpc

import (
	"errors"
	"sync"

	"google.golang.org/grpc"
)

// perConnection is how many calls are made over one connection. A gRPC server takes no
// more than 100 at once on one, and a client has the others wait, behind streams that
// can stay open for as long as a visit: so there is another connection instead.
const perConnection = 90

// pool is the connections into the server.
type pool struct {
	connect func() (*grpc.ClientConn, error)

	mu     sync.Mutex
	lanes  []*lane
	closed bool
}

// lane is one connection, and how many calls it has.
type lane struct {
	conn  *grpc.ClientConn
	calls int
}

// use makes a call over a connection that has room.
func (p *pool) use(call func(*grpc.ClientConn) error) error {
	l, err := p.take()
	if err != nil {
		return err
	}
	defer p.leave(l)
	return call(l.conn)
}

var errClosed = errors.New("the connections into the server are closed")

// take counts a call on the first connection that has room, so that the last ones are
// idle when there is little to do.
func (p *pool) take() (*lane, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	for _, l := range p.lanes {
		if l.calls < perConnection {
			l.calls++
			return l, nil
		}
	}
	conn, err := p.connect()
	if err != nil {
		return nil, err
	}
	l := &lane{conn, 1}
	p.lanes = append(p.lanes, l)
	return l, nil
}

func (p *pool) leave(l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.calls--
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var failures []error
	for _, l := range p.lanes {
		failures = append(failures, l.conn.Close())
	}
	p.lanes = nil
	return errors.Join(failures...)
}
