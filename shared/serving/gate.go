package serving

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// A gate is a listener that has a bounded number of connections open. One too
// many is closed at once: who waits in a queue holds something too.
type gate struct {
	net.Listener
	open *quota
	log  *slog.Logger

	refused int // since told; as told, of Accept alone
	told    time.Time
}

// tellAgain is how often the log says that connections are refused.
const tellAgain = time.Minute

// Accept waits for a connection that there is room for. It is called by one
// goroutine at a time.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if release, ok := g.open.take(conn.RemoteAddr()); ok {
			return &admitted{Conn: conn, release: sync.OnceFunc(release)}, nil
		}
		_ = conn.Close() // nothing was written that could be lost
		g.tell(conn.RemoteAddr(), time.Now())
	}
}

func (g *gate) tell(last net.Addr, now time.Time) {
	g.refused++
	if now.Sub(g.told) < tellAgain {
		return
	}
	g.log.Warn("refused connections: as many are open as --max-connections allows, in all or from one network",
		"refused", g.refused, "last", last.String())
	g.refused, g.told = 0, now
}

// admitted is a connection that makes room when it is closed.
type admitted struct {
	net.Conn
	release func()
}

func (a *admitted) Close() error {
	err := a.Conn.Close()
	a.release()
	return err
}
