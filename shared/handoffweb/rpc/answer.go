package rpc

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

func refusal(reason handoff.Reason, check handoff.Check, detail string) error {
	return &handoff.Refusal{Reason: reason, Check: check, Detail: detail}
}

// refuse answers a call that does not reach the server as the guard would.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, method string, err error) {
	var refused *handoff.Refusal
	if !errors.As(err, &refused) {
		refused = &handoff.Refusal{Err: err}
	}
	if h.config.Observe != nil {
		h.config.Observe(r.Context(), Event{Method: method, Refusal: refused})
	}
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") { // which has errors of its own form
		r = r.Clone(r.Context())
		r.Header.Set("Content-Type", "application/json")
	}
	_ = connect.NewErrorWriter().Write(w, r, told(handoffgrpc.StatusOf(refused).Err()))
}

// told returns a gRPC status as the app is told of it: with the same code, text and
// details. Nil, and the end of a stream, are no error.
func told(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if known := (*connect.Error)(nil); errors.As(err, &known) {
		return known
	}
	s, ok := status.FromError(err)
	if !ok { // of this package's own: no status of a server's
		s = status.New(codes.Unavailable, "the server cannot be reached")
	}
	answer := connect.NewError(connect.Code(s.Code()), errors.New(s.Message()))
	for _, packed := range s.Proto().GetDetails() {
		if detail, err := connect.NewErrorDetail(packed); err == nil {
			answer.AddDetail(detail)
		}
	}
	return answer
}

// strict is JSON in which a member that the message lacks is an error: a misspelt field
// would otherwise be one that was left out.
type strict struct{ name string }

func (s strict) Name() string { return s.name }

func (strict) Marshal(m any) ([]byte, error) {
	typed, ok := m.(proto.Message)
	if !ok {
		return nil, errors.New("not a message")
	}
	return protojson.MarshalOptions{}.Marshal(typed)
}

func (strict) Unmarshal(text []byte, m any) error {
	typed, ok := m.(proto.Message)
	if !ok {
		return errors.New("not a message")
	}
	if len(text) == 0 {
		return errors.New("no JSON")
	}
	return protojson.UnmarshalOptions{RecursionLimit: 100}.Unmarshal(text, typed)
}

var _ protoadapt.MessageV2 = &message{}
