package pair

import (
	"context"
	"net"
	"strings"
	"sync"
)

// Link is a wire between a client and a server: a relay of TCP connections that
// passes their bytes on, TLS or not, until it is told to stall or is cut. It
// stands for a network that fails while both ends are well. It is safe for
// concurrent use.
type Link struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup
	release  func() bool // the context's hold

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed when state changes
	open    map[*wire]struct{}
}

type linkState int

const (
	passing linkState = iota
	stalled
	cut
	closed
)

// NewLink returns a link to the server at an address, host:port or the path of a
// Unix socket. It listens on a free loopback port and passes; it is closed when
// ctx ends, if not before.
func NewLink(ctx context.Context, target string) (*Link, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{target: target, listener: listener, changed: make(chan struct{}), open: map[*wire]struct{}{}}
	l.running.Go(l.accept)
	l.release = context.AfterFunc(ctx, l.end)
	return l, nil
}

// Address is where the link listens: host:port.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Pass has bytes flow again: those that were held, and those of new connections.
func (l *Link) Pass() { l.turn(passing) }

// Stall holds all bytes, of new connections too, and loses none: nobody is told
// that anything is wrong.
func (l *Link) Stall() { l.turn(stalled) }

// Cut resets all connections, and each new one at once.
func (l *Link) Cut() { l.turn(cut) }

// Close resets all connections and stops listening. It returns when all has
// ended. A second call does nothing.
func (l *Link) Close() {
	l.release()
	l.end()
	l.running.Wait()
}

func (l *Link) end() {
	l.turn(closed)
	_ = l.listener.Close()
}

// turn changes the state, unless the link is closed.
func (l *Link) turn(to linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == closed {
		return
	}
	l.state = to
	close(l.changed)
	l.changed = make(chan struct{})
	if to == cut || to == closed {
		for w := range l.open {
			w.reset()
		}
		clear(l.open)
	}
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // it is closed
		}
		w := &wire{client: client, over: make(chan struct{})}
		if !l.add(w) {
			w.reset()
			continue
		}
		l.running.Go(func() {
			l.relay(w)
			l.drop(w)
		})
	}
}

// add has a cut reset the wire, unless there has been one.
func (l *Link) add(w *wire) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == cut || l.state == closed {
		return false
	}
	l.open[w] = struct{}{}
	return true
}

func (l *Link) drop(w *wire) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.open[w]; ok {
		delete(l.open, w)
		w.reset()
	}
}

// relay passes bytes both ways until both ends have said all, or the wire is cut.
func (l *Link) relay(w *wire) {
	if !l.clear(w) {
		return
	}
	network := "tcp"
	if strings.HasPrefix(l.target, "/") {
		network = "unix"
	}
	server, err := net.Dial(network, l.target)
	if err != nil || !w.connect(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.pump(w, w.client, server) })
	both.Go(func() { l.pump(w, server, w.client) })
	both.Wait()
}

// pump passes bytes one way.
func (l *Link) pump(w *wire, from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !l.clear(w) {
			return
		}
		if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
			if half, ok := to.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
			return
		}
	}
}

// clear waits until bytes may pass. It is false once the wire is cut.
func (l *Link) clear(w *wire) bool {
	for {
		l.mu.Lock()
		state, changed := l.state, l.changed
		l.mu.Unlock()
		select {
		case <-w.over:
			return false
		default:
		}
		if state == passing {
			return true
		}
		select {
		case <-w.over:
			return false
		case <-changed:
		}
	}
}

// wire is one connection through a link.
type wire struct {
	client net.Conn
	over   chan struct{} // closed by reset

	mu     sync.Mutex
	server net.Conn
}

// connect gives the wire its far end, unless it was reset meanwhile.
func (w *wire) connect(server net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.over:
		_ = server.Close()
		return false
	default:
	}
	w.server = server
	return true
}

// reset ends the wire as a broken network does, and is called once.
func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.over)
	for _, end := range []net.Conn{w.client, w.server} {
		if tcp, ok := end.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		if end != nil {
			_ = end.Close()
		}
	}
}
