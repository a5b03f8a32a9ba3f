package overload

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"
)

// What one connection can have a server hold, and for how long. grpc-go's own
// defaults leave most of these without bound.
const (
	maxStreams     = 100      // calls at once on one connection: RFC 9113 section 6.5.2 advises no less
	maxHeaderBytes = 16 << 10 // of one call's metadata
	window         = 64 << 10 // bytes of a request that wait unread
	connWindow     = 1 << 20
	readBuffer     = 4 << 10 // bytes kept for each connection: 32 KiB, gRPC's own, and as much to write, are most of what an idle one holds

	handshakeTimeout = 5 * time.Second
	unaryTimeout     = 10 * time.Second
	callTimeout      = 5 * time.Minute // the longest life of a handoff token
	idleTimeout      = 2 * time.Minute // of a connection without a call
	pingAfter        = 30 * time.Second
	pingTimeout      = 10 * time.Second
)

// Options returns what a server of your own needs: Tap and the interceptors, the
// bounds of a connection (100 calls at once, 16 KiB of metadata, a window of 64 KiB
// a call), and the times that a handshake (5 s), a unary call (10 s), any call
// (5 min) and an idle connection (2 min) may last. Options that come after these
// win, except the tap, which can be set only once.
func (s *Shedder) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
			ctx, err := s.Tap(ctx, call)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			_ = cancel // the call's end cancels the parent, which stops this timer
			return ctx, nil
		}),
		grpc.ChainUnaryInterceptor(s.Unary, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
			defer cancel()
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(s.Stream),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.ReadBufferSize(readBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
	}
}
