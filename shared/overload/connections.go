package overload

import (
	"net"
	"net/http"

	"github.com/handoff-auth/handoff/shared/internal/gate"
)

// bounded returns a listener of which no more connections are open than may be, unless
// something has bounded them already.
func (s *Shedder) bounded(l net.Listener) net.Listener {
	switch l.(type) {
	case listener, *gate.Listener:
		return l
	}
	return s.connections.Listener(l, s.crowded)
}

// ConnState is http.Server.ConnState, for a server of yours that takes its connections
// from Listener: one with a request under way keeps its place. Without it each of them
// counts as one without a call, and can be closed for a new one.
//
//	s := &http.Server{
//		Handler: pages, ConnState: shedder.ConnState,
//		HTTP2: &http.HTTP2Config{WriteByteTimeout: 5 * time.Second}, // WriteTimeout does not end a connection that nobody reads
//	}
//	err := s.ServeTLS(shedder.Listener(listener), "server.pem", "server.key")
func (s *Shedder) ConnState(conn net.Conn, state http.ConnState) {
	s.connections.ConnState(conn, state)
}
