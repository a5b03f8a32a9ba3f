package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is the domain of google.rpc.ErrorInfo in the errors that this
// package makes. Their reason is the name of the code: INTERNAL,
// DEADLINE_EXCEEDED, CANCELLED, UNIMPLEMENTED, RESOURCE_EXHAUSTED, UNAVAILABLE.
const errorDomain = "handoff.serving"

// maxCause is how much of a cause is logged, in bytes.
const maxCause = 1 << 10

// fixedTexts are all that a caller learns of an error that no handler has put
// into words for them.
var fixedTexts = map[codes.Code]struct{ reason, text string }{
	codes.Internal:          {"INTERNAL", "the server failed; its log has the cause"},
	codes.DeadlineExceeded:  {"DEADLINE_EXCEEDED", "the call took longer than it may"},
	codes.Canceled:          {"CANCELLED", "the call was cancelled"},
	codes.Unimplemented:     {"UNIMPLEMENTED", "this server does not implement the method"},
	codes.ResourceExhausted: {"RESOURCE_EXHAUSTED", "as many of these calls stay open as may"},
	codes.Unavailable:       {"UNAVAILABLE", "the connection was idle and is being closed"},
}

func fixed(code codes.Code) error {
	words, ok := fixedTexts[code]
	if !ok {
		code, words = codes.Internal, fixedTexts[codes.Internal]
	}
	st := status.New(code, words.text)
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Domain: errorDomain, Reason: words.reason}); err == nil {
		st = detailed
	}
	return st.Err()
}

// public returns what the caller may know of a handler's error: the handler's
// own status if it carries google.rpc.ErrorInfo, for then it was written for the
// caller, and otherwise a fixed text. What that leaves out goes to the call's
// line in the log.
func public(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var told error
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) && hasErrorInfo(carrier.GRPCStatus()) {
		told = carrier.GRPCStatus().Err()
	}
	switch {
	case told != nil: // nil also for a status that says OK: an error is never a yes
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		told = fixed(codes.DeadlineExceeded)
	case errors.Is(err, context.Canceled), ctx.Err() != nil:
		told = fixed(codes.Canceled)
	case status.Code(err) == codes.Unimplemented:
		told = fixed(codes.Unimplemented)
	default:
		told = fixed(codes.Internal)
	}
	if cause := err.Error(); cause != told.Error() {
		logging.AddFields(ctx, logging.Fields{"cause", short(cause)})
	}
	return told
}

func hasErrorInfo(st *status.Status) bool {
	for _, detail := range st.Proto().GetDetails() {
		if detail.MessageIs((*errdetails.ErrorInfo)(nil)) {
			return true
		}
	}
	return false
}

func short(text string) string {
	if len(text) > maxCause {
		text = text[:maxCause] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// libraryOwn reports whether a method is of one of the services that this package
// registers. Their errors are part of their protocols, their texts gRPC's own.
func libraryOwn(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.") || strings.HasPrefix(method, "/grpc.reflection.v1")
}

func publicUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil && !libraryOwn(info.FullMethod) {
		return nil, public(ctx, err)
	}
	return resp, err
}

func publicStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if libraryOwn(info.FullMethod) {
		return handler(srv, stream)
	}
	incoming := &incomingStream{ServerStream: stream}
	err := handler(srv, incoming)
	if failed := incoming.failed.Load(); failed != nil && errors.Is(err, *failed) {
		return err
	}
	return public(stream.Context(), err)
}

// incomingStream remembers why a request could not be read. gRPC answers that
// itself, at once, and log and metrics are to show the same.
type incomingStream struct {
	grpc.ServerStream
	failed atomic.Pointer[error]
}

func (s *incomingStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed.CompareAndSwap(nil, &err)
	}
	return err
}

// recovered turns a panic into an error: counted, logged with its stack, and
// told to the caller as INTERNAL.
func (s *Server) recovered(ctx context.Context, panicked any) error {
	s.panics.Inc()
	fields := append([]any{"panic", short(fmt.Sprint(panicked)), "stack", string(debug.Stack())}, logging.ExtractFields(ctx)...)
	s.config.Log.ErrorContext(ctx, "recovered from a panic", fields...)
	return fixed(codes.Internal)
}
