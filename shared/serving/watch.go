package serving

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
)

// boundWatches refuses one watch too many of a method.
func (s *Server) boundWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	watches := s.long[info.FullMethod].watches
	if watches == nil {
		return handler(srv, stream)
	}
	var from net.Addr
	if p, ok := peer.FromContext(stream.Context()); ok {
		from = p.Addr
	}
	release, ok := watches.take(from)
	if !ok {
		return fixed(codes.ResourceExhausted)
	}
	defer release()
	return handler(srv, stream)
}

// untilStop returns a context that also ends when the server begins to drain.
func (s *Server) untilStop(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.watching, cancel)
	context.AfterFunc(ctx, func() { forget() })
	return ctx
}
