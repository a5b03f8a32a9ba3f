package serving

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc/peer"
)

// HTTPSConfig says what Server.HTTPS opens.
type HTTPSConfig struct {
	// Setting and Address are the operator's: "http", and HOST:PORT.
	Setting, Address string
	// HeaderBytes is how large a request's header can be. Zero: MaxHeaderBytes.
	HeaderBytes int
	// Requests is how many requests one connection can have under way. Zero:
	// MaxRequests.
	Requests int
}

// HTTPS is a listener for web pages beside the gRPC server, with the same
// certificate, the same bounds on connections, and time limits. Close it, or Run
// it, once.
type HTTPS struct {
	listener net.Listener
	server   *http.Server
}

// MaxRequests is how many requests one connection can have under way: a browser has
// few, and each that is not read holds an answer.
const MaxRequests = 8

// HTTPS opens a port for web pages. A port that cannot be opened is a *SettingError.
func (s *Server) HTTPS(config HTTPSConfig) (*HTTPS, error) {
	open := newConnections(s.config.MaxConnections)
	listener, err := s.gate(config.Setting, config.Address, open)
	if err != nil {
		return nil, err
	}
	if config.HeaderBytes == 0 {
		config.HeaderBytes = MaxHeaderBytes
	}
	if config.Requests == 0 {
		config.Requests = MaxRequests
	}
	return &HTTPS{listener: listener, server: &http.Server{
		TLSConfig:         s.TLS("h2", "http/1.1"),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: config.Requests},
		ReadHeaderTimeout: HandshakeTimeout, // and of the TLS handshake
		ReadTimeout:       CallTimeout,
		WriteTimeout:      time.Minute, // of a trust list of 16 MiB
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    config.HeaderBytes,
		ConnState:         open.follow,
		// For Server.Conn: a call that is made for a request is its client's.
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return peer.NewContext(ctx, &peer.Peer{Addr: conn.RemoteAddr()})
		},
		ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}}, nil
}

// follow notes requests, as the state of a connection tells of them: it is active
// from a request's header to the end of the answers under way, and only then.
func (c *connections) follow(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		if !c.begin(conn.RemoteAddr()) {
			_ = conn.Close() // as the one that took its place is doing
		}
	case http.StateIdle:
		c.end(conn.RemoteAddr())
	}
}

// Addr is the address that is listened on.
func (h *HTTPS) Addr() net.Addr { return h.listener.Addr() }

// Close closes the port of what has not been run.
func (h *HTTPS) Close() error { return h.listener.Close() }

// Run serves pages until ctx ends, and then lets answers under way finish.
func (h *HTTPS) Run(ctx context.Context, pages http.Handler) error {
	h.server.Handler = pages
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), HandshakeTimeout)
		defer cancel()
		stopped <- errors.Join(h.server.Shutdown(grace), h.server.Close())
	})
	err := h.server.ServeTLS(h.listener, "", "")
	if stop() { // it failed before
		return err
	}
	return <-stopped
}
