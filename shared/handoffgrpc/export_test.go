package handoffgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Unary runs a unary handler as generated code registers it, without a network.
func (g *Guard) Unary(ctx context.Context, req proto.Message, method string, handler grpc.UnaryHandler) (any, error) {
	generated := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := req.ProtoReflect().New().Interface()
		if err := decode(in); err != nil {
			return nil, err
		}
		return handler(ctx, in)
	}
	decode := func(into any) error { proto.Merge(into.(proto.Message), req); return nil }
	return g.unary(method, generated)(nil, ctx, decode, nil)
}

// Stream runs a stream handler, without a network.
func (g *Guard) Stream(ss grpc.ServerStream, method string, handler func(grpc.ServerStream) error) error {
	return g.stream(method, func(_ any, ss grpc.ServerStream) error { return handler(ss) })(nil, ss)
}
