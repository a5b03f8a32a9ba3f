package serving

import (
	"log/slog"
	"net"
	"time"
)

// A gate is a listener that has a bounded number of connections open. One for which
// there is no room, and no idle one to make it, is closed at once: who waits in a
// queue holds something too.
type gate struct {
	net.Listener
	open *connections
	log  *slog.Logger

	refused, displaced int       // since told; as told, used only by Accept
	told               time.Time // zero: never
}

// tellAgain is how often the log says that there is too little room.
const tellAgain = time.Minute

// Accept waits for a connection that there is room for. It is called by one
// goroutine at a time.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		admitted, displaced := g.open.admit(conn)
		switch {
		case admitted == nil:
			_ = conn.Close() // nothing was written that could be lost
			g.refused++
		case displaced != nil:
			_ = displaced.Close() // it has no call that could be lost
			g.displaced++
		default:
			return admitted, nil
		}
		g.tell(conn.RemoteAddr(), time.Now())
		if admitted != nil {
			return admitted, nil
		}
	}
}

func (g *gate) tell(last net.Addr, now time.Time) {
	if now.Sub(g.told) < tellAgain {
		return
	}
	g.log.Warn("as many connections are open as --max-connections allows, in all or from one network: idle ones are closed for new ones, and others refused",
		"idle_closed", g.displaced, "refused", g.refused, "last", last.String())
	g.refused, g.displaced, g.told = 0, 0, now
}
