package serving

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"
)

// What one stranger can make the server hold, and for how long. grpc-go's own
// defaults leave most of these without bound.
const (
	maxStreams     = 100      // calls at once on one connection: RFC 9113, section 6.5.2, advises no less
	MaxHeaderBytes = 16 << 10 // of one call's metadata
	maxMessage     = 64 << 10 // bytes of one request

	HandshakeTimeout = 5 * time.Second // from the connection to the end of the handshake
	CallTimeout      = 10 * time.Second
	streamTimeout    = 5 * time.Minute  // the longest life of a handoff token
	watchTimeout     = 10 * time.Minute // of a stream that is meant to stay open: then its client asks again

	idleTimeout  = 2 * time.Minute  // of a connection without a call
	maxAge       = 30 * time.Minute // of a connection; plus streamTimeout for calls under way
	pingAfter    = 30 * time.Second // of silence, to find the dead
	pingTimeout  = 10 * time.Second
	pingInterval = 10 * time.Second // that a client must keep to

	// readBuffer is kept for each connection; a TLS record that is larger is read in
	// pieces. gRPC's own 32 KiB, and as much to write, are most of what an idle one holds.
	readBuffer = 4 << 10

	streamWindow = 64 << 10 // bytes of requests that wait unread, a call
	connWindow   = 1 << 20
)

// workers is how many goroutines serve one call after the other. A call that finds
// all of them busy gets a new one, whose stack has to grow first: checking a
// signature takes more of it than a goroutine begins with.
const workers = 64

func limits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(workers),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ConnectionTimeout(HandshakeTimeout),
		grpc.ReadBufferSize(readBuffer),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     idleTimeout,
			MaxConnectionAge:      maxAge,
			MaxConnectionAgeGrace: streamTimeout,
			Time:                  pingAfter,
			Timeout:               pingTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval}),
	}
}

// long is a method whose calls may take longer than CallTimeout.
type long struct {
	most    time.Duration
	watches *places // nil: it is not meant to stay open
}

// longMethods lists the streaming methods of s. Of each watch there are at most
// so many at once; each method has places of its own, so that who uses up one keeps
// nobody from another.
func longMethods(s *grpc.Server, watches []string, places func() *places) map[string]long {
	all := map[string]long{}
	for service, info := range s.GetServiceInfo() {
		for _, method := range info.Methods {
			if method.IsServerStream || method.IsClientStream {
				all["/"+service+"/"+method.Name] = long{most: streamTimeout}
			}
		}
	}
	for _, watch := range watches {
		if _, ok := all[watch]; ok {
			all[watch] = long{most: watchTimeout, watches: places()}
		}
	}
	return all
}

// begin asks the program's own Tap, has the connection keep its place, and sets the deadline of a call or keeps the
// client's where that is sooner. It runs when the header has arrived, before a
// byte of the body has, so it ends a call whose body never comes; an interceptor
// would wait for the request.
func (s *Server) begin(ctx context.Context, call *tap.Info) (context.Context, error) {
	from := addressOf(ctx)
	if !s.open.Begin(from) {
		return nil, fixed(codes.Unavailable) // which nobody reads: the connection is being closed
	}
	ctx = forClient(ctx)
	if s.config.Tap != nil {
		asked, err := s.config.Tap(ctx, call)
		if err != nil {
			s.open.End(from)
			return nil, err
		}
		ctx = asked
	}
	context.AfterFunc(ctx, func() { s.open.End(from) })
	most := CallTimeout
	if method, ok := s.long[call.FullMethodName]; ok {
		most = method.most
		if method.watches != nil {
			ctx = s.untilStop(ctx)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	_ = cancel // the call's end cancels the parent, which stops this timer
	return ctx, nil
}
