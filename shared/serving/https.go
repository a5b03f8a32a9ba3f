package serving

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/shared/internal/gate"
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
// certificate, the same bounds on connections, and time limits. A quarter as many
// requests as connections can be under way for which no call is made, or 64 if that is
// more; of those one network has a quarter, or a 64th once half are. HTTP/1.1 has one
// request a connection. Close it, or Run it, once.
type HTTPS struct {
	listener net.Listener
	server   *http.Server
	seats    *places
}

// MaxRequests is how many requests one connection can have under way: a browser has
// few, and each that is not read holds an answer.
const MaxRequests = 8

const (
	// maxFields is how many fields a header of HTTP/1.1 can have: their number is not
	// bounded by net/http, and each takes some 130 bytes beside its text.
	maxFields = 256
	// heavyHeaders is how many connections can have a long header under way.
	heavyHeaders = 128
	// leastSeats is how many requests can be under way on however few connections: a
	// browser has several on one.
	leastSeats = 64
)

// HTTPS opens a port for web pages. A port that cannot be opened is a *SettingError.
func (s *Server) HTTPS(config HTTPSConfig) (*HTTPS, error) {
	open := gate.NewHTTP(s.config.MaxConnections, heavyHeaders)
	listener, err := s.gate(config.Setting, config.Address, open)
	if err != nil {
		return nil, err
	}
	config.HeaderBytes = cmp.Or(config.HeaderBytes, MaxHeaderBytes)
	config.Requests = cmp.Or(config.Requests, MaxRequests)
	seats := newPlaces(max(leastSeats, s.config.MaxConnections/4), s.config.Known)
	return &HTTPS{listener: listener, seats: seats, server: &http.Server{
		TLSConfig:         s.TLS("h2", "http/1.1"),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: config.Requests, WriteByteTimeout: HandshakeTimeout}, // or who reads nothing holds all that waits for it
		ReadHeaderTimeout: HandshakeTimeout,                                                                             // and of the TLS handshake
		ReadTimeout:       CallTimeout,
		WriteTimeout:      time.Minute, // of a trust list of 16 MiB
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    config.HeaderBytes,
		ConnState:         open.ConnState,
		// For Server.Conn: a call that is made for a request is its client's.
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return peer.NewContext(ctx, &peer.Peer{Addr: conn.RemoteAddr()})
		},
		ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
	}}, nil
}

// seated bounds how many requests are under way of which nobody knows yet who makes
// them, in all and of one network: each holds its header, while its body does not come,
// and while its answer is not read. One too many is answered by a header only: an
// answer with a body could wait for its reader, and hold as much. Server.Conn gives a
// request's seat back when it makes a call for it, which is bounded as all calls are.
func (h *HTTPS) seated(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(code int) {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Retry-After", "1")
			if r.ProtoMajor < 2 { // net/http would wait for the body before it lets go of the header
				_ = http.NewResponseController(w).SetReadDeadline(time.Now())
			}
			w.WriteHeader(code)
		}
		if r.ProtoMajor < 2 { // the next header could come with this request's body, and would not be bounded
			w.Header().Set("Connection", "close")
		}
		fields := 0
		for _, values := range r.Header {
			fields += len(values)
		}
		if fields > maxFields {
			refuse(http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		release, ok := h.seats.take(addressOf(r.Context()))
		if !ok {
			refuse(http.StatusServiceUnavailable)
			return
		}
		rise := sync.OnceFunc(release)
		defer rise()
		pages.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), seatKey{}, rise)))
	})
}

// seatKey is the key of what gives back the seat of a request.
type seatKey struct{}

// rise gives back the seat of the request for which a call is made, if it has one.
func rise(ctx context.Context) {
	if release, ok := ctx.Value(seatKey{}).(func()); ok {
		release()
	}
}

// Addr is the address that is listened on.
func (h *HTTPS) Addr() net.Addr { return h.listener.Addr() }

// Close closes the port of what has not been run.
func (h *HTTPS) Close() error { return h.listener.Close() }

// Run serves pages until ctx ends, and then lets answers under way finish.
func (h *HTTPS) Run(ctx context.Context, pages http.Handler) error {
	h.server.Handler = h.seated(pages)
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
