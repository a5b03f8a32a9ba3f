package gate

import (
	"net"
	"time"
)

// Listener is a listener that opens no more connections than there is room for. One for
// which there is none, and no idle one to make it, is closed at once: who waits in a
// queue holds something too.
type Listener struct {
	net.Listener
	open *Connections
	tell func(idleClosed, refused int, last net.Addr)

	refused, idleClosed int       // since told; as told, used only by Accept
	told                time.Time // zero: never
}

// Listener returns a listener for which there is this room. tell, if not nil, is told at
// most once a minute that there is too little: how many idle connections were closed for
// new ones since it was told last, and how many new ones at once, with the address of the
// last that came. It is called by Accept, and must be quick.
func (c *Connections) Listener(l net.Listener, tell func(idleClosed, refused int, last net.Addr)) *Listener {
	return &Listener{Listener: l, open: c, tell: tell}
}

// tellAgain is how often it is told that there is too little room.
const tellAgain = time.Minute

// Accept waits for a connection that there is room for. It is called by one
// goroutine at a time.
func (g *Listener) Accept() (net.Conn, error) {
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
			g.idleClosed++
		default:
			return admitted, nil
		}
		g.note(conn.RemoteAddr(), time.Now())
		if admitted != nil {
			return admitted, nil
		}
	}
}

func (g *Listener) note(last net.Addr, now time.Time) {
	if g.tell == nil || now.Sub(g.told) < tellAgain {
		return
	}
	g.tell(g.idleClosed, g.refused, last)
	g.refused, g.idleClosed, g.told = 0, 0, now
}
