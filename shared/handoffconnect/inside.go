package handoffconnect

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// around is the answer to what has not come through before: On was not used, or its
// handler was served from another path.
func around() error {
	return handoffgrpc.StatusOf(&handoff.Refusal{Reason: handoff.ReasonRuleMissing}).Err()
}

// inside is the innermost interceptor: it redeems the token for the request.
type inside struct{}

func (inside) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (inside) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		call, err := begunOf(ctx, req.Spec().Procedure)
		if err != nil {
			return nil, errorOf(err)
		}
		message, _ := req.Any().(proto.Message)
		answer, err := call.Unary(ctx, message, func(ctx context.Context) (any, error) { return next(ctx, req) })
		if err != nil {
			return nil, errorOf(err)
		}
		switch answer := answer.(type) {
		case connect.AnyResponse:
			return answer, nil
		case proto.Message: // of Config.Outcome
			return connect.NewResponse(&outcome{answer}), nil
		}
		return nil, connect.NewError(connect.CodeInternal, errors.New("no answer"))
	}
}

// outcome is a message of any type, as a pointer to a type that is known here.
type outcome struct{ proto.Message }

func (inside) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		call, err := begunOf(ctx, conn.Spec().Procedure)
		if err != nil {
			return errorOf(err)
		}
		return errorOf(call.Stream(&stream{conn, ctx}, func(guarded grpc.ServerStream) error {
			return next(following{guarded}, &guardedConn{conn, guarded})
		}))
	}
}

// stream is a connection as gRPC has one.
type stream struct {
	conn connect.StreamingHandlerConn
	ctx  context.Context
}

func (s *stream) Context() context.Context     { return s.ctx }
func (s *stream) RecvMsg(m any) error          { return s.conn.Receive(m) }
func (s *stream) SendMsg(m any) error          { return s.conn.Send(m) }
func (s *stream) SetHeader(metadata.MD) error  { return nil }
func (s *stream) SendHeader(metadata.MD) error { return nil }
func (s *stream) SetTrailer(metadata.MD)       {}

// guardedConn is a connection whose messages pass the guard.
type guardedConn struct {
	connect.StreamingHandlerConn
	guarded grpc.ServerStream
}

func (c *guardedConn) Receive(m any) error { return errorOf(c.guarded.RecvMsg(m)) }
func (c *guardedConn) Send(m any) error    { return errorOf(c.guarded.SendMsg(m)) }

// following is the stream's context as it is at the moment: connect-go hands it on
// before there is a request, and so a grant.
type following struct{ stream grpc.ServerStream }

func (f following) Deadline() (time.Time, bool) { return f.stream.Context().Deadline() }
func (f following) Done() <-chan struct{}       { return f.stream.Context().Done() }
func (f following) Err() error                  { return f.stream.Context().Err() }
func (f following) Value(key any) any           { return f.stream.Context().Value(key) }

// errorOf returns a gRPC status as connect-go's error: with the same code, text and
// details. What is neither is returned as it is: nil, io.EOF, a method's own error.
func errorOf(err error) error {
	if errors.As(err, new(*connect.Error)) {
		return err
	}
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	answer := connect.NewError(connect.Code(s.Code()), errors.New(s.Message()))
	for _, packed := range s.Proto().GetDetails() {
		if detail, err := connect.NewErrorDetail(packed); err == nil {
			answer.AddDetail(detail)
		}
	}
	return answer
}

// ReasonOf returns the reason that an error of a connect-go client carries, as
// handoffgrpc.ReasonOf does of a gRPC client's. It is 0 where there is none.
func ReasonOf(err error) handoff.Reason {
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return handoffgrpc.ReasonOf(err)
	}
	for _, detail := range answer.Details() {
		message, err := detail.Value()
		if info, ok := message.(*errdetails.ErrorInfo); err == nil && ok {
			if told, err := status.New(1, "").WithDetails(info); err == nil {
				if reason := handoffgrpc.ReasonOf(told.Err()); reason != 0 {
					return reason
				}
			}
		}
	}
	return 0
}
