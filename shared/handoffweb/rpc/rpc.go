package rpc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/quota"
	"github.com/handoff-auth/handoff/shared/rule"
)

// Config says what a Handler calls, and how much of it at once.
type Config struct {
	// Connect makes a connection into the gRPC server that the guard stands in front
	// of. It is called again as more calls are open than one connection takes. Required.
	Connect func() (*grpc.ClientConn, error)
	// Verifier tells whose a visit is, so that nobody's calls count as another's. What
	// the visit may do is for the guard to say. Required.
	Verifier *handoff.Verifier
	// Admit, if set, is asked for a turn before a visit is verified. It is
	// handoffgrpc.Config.Admit, and should be the same.
	Admit func(context.Context) (done func(), err error)
	// Methods are those that can be called: the guard's handoffgrpc.Config.Rules. Nil: what
	// is linked, rule.Linked.
	Methods *rule.Set
	// MaxBytes is how long a message of the app's can be, in bytes. Zero: 64 KiB.
	MaxBytes int
	// MaxOpen is how many calls can be open at once, and MaxOpenOfUser how many of one
	// user of an issuer, by however many visits. Zero: 1,000, and 16.
	MaxOpen, MaxOpenOfUser int
	// Observe, if set, is told of each call that is refused here and so is not in the
	// guard's events.
	Observe func(context.Context, Event)
}

// Event is one refusal. It contains no visit and no cookie.
type Event struct {
	// Method is the full method name; empty if there is no such method.
	Method string
	// Refusal is why. Its Check and Detail are not for the app.
	Refusal *handoff.Refusal
}

// Handler is an http.Handler for the paths "/package.Service/Method". It is safe for
// concurrent use. Close it.
type Handler struct {
	config Config
	same   *http.CrossOriginProtection // trusts nobody
	pool   pool

	serving context.Context // until Drain
	drain   context.CancelFunc

	mu    sync.Mutex
	known map[string]http.Handler // by path
	open  map[string]int          // by user
	all   int

	arriving *quota.Quota // of requests that are being read
}

// New returns a handler. The error is a *handoff.ConfigError.
func New(config Config) (*Handler, error) {
	if config.Connect == nil {
		return nil, &handoff.ConfigError{Field: "rpc.Config.Connect", Problem: "is required: the guard in front of the server decides, and nothing here does"}
	}
	if config.Verifier == nil {
		return nil, &handoff.ConfigError{Field: "rpc.Config.Verifier", Problem: "is required: without it one user could take the places of all"}
	}
	for field, value := range map[string]int{"MaxBytes": config.MaxBytes, "MaxOpen": config.MaxOpen, "MaxOpenOfUser": config.MaxOpenOfUser} {
		if value < 0 {
			return nil, &handoff.ConfigError{Field: "rpc.Config." + field, Problem: "is negative"}
		}
	}
	config.Methods = cmp.Or(config.Methods, rule.Linked())
	config.MaxBytes = cmp.Or(config.MaxBytes, 64<<10)
	config.MaxOpen = cmp.Or(config.MaxOpen, 1000)
	config.MaxOpenOfUser = cmp.Or(config.MaxOpenOfUser, 16)
	h := &Handler{
		config: config, same: http.NewCrossOriginProtection(), pool: pool{connect: config.Connect},
		known: map[string]http.Handler{}, open: map[string]int{}, arriving: quota.New(maxArriving),
	}
	h.serving, h.drain = context.WithCancel(context.Background())
	return h, nil
}

// Drain ends the streams that are open, and those that are asked for later, with
// UNAVAILABLE: an app asks again, and finds another server. Calls with one answer are
// still answered.
func (h *Handler) Drain() { h.drain() }

// Close closes the connections. Calls that are open end.
func (h *Handler) Close() error {
	h.drain()
	return h.pool.close()
}

// ServeHTTP makes one call.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	// An answer that is shown as a page has no origin, and nothing in it.
	head.Set("Content-Security-Policy", "default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox")
	head.Set("Cache-Control", "no-store")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
	head.Set("X-Content-Type-Options", "nosniff")
	raw, err := h.admitted(r)
	if err != nil {
		h.refuse(w, r, "", err)
		return
	}
	call := h.find(r.URL.Path)
	if call == nil {
		h.refuse(w, r, "", refusal(handoff.ReasonRuleMissing, "rpc.method", "no such method, or one without a rule"))
		return
	}
	control := http.NewResponseController(w)
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, asked{raw, control}))
	if r.Body, err = h.receive(w, r, control); err != nil {
		h.refuse(w, r, r.URL.Path, err)
		return
	}
	user, err := h.visitor(quota.WithPeer(r), raw)
	if err != nil {
		h.refuse(w, r, r.URL.Path, err)
		return
	}
	done, err := h.enter(user)
	if err != nil {
		h.refuse(w, r, r.URL.Path, err)
		return
	}
	defer done()
	call.ServeHTTP(w, r)
}

const (
	// maxArriving is how many requests are read at once. One network has a quarter of
	// these places, and once half are taken a 64th.
	maxArriving = 256
	// bodyTime is how long a request may take to arrive.
	bodyTime = 5 * time.Second
	// writeTime is how long an answer, or a message of a stream, may take to be read.
	writeTime = 30 * time.Second
	// prefixLength is the bytes before a message of a stream.
	prefixLength = 5
)

// receive reads a request, before it has a place that others could be short of.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, control *http.ResponseController) (io.ReadCloser, error) {
	release, ok := h.arriving.Take(quota.AddressOf(r))
	if !ok {
		return nil, refusal(handoff.ReasonLimitExceeded, "rpc.arriving", "as many requests are being read as may be at once, or from this network")
	}
	defer release()
	// The server's limits are those of pages. Not every connection has deadlines.
	_ = control.SetReadDeadline(time.Now().Add(bodyTime))
	// A byte more than a call takes, so that it is told of a message that is too long.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.config.MaxBytes)+prefixLength+1))
	if err != nil && !errors.As(err, new(*http.MaxBytesError)) {
		return nil, refusal(handoff.ReasonArgumentInvalid, "rpc.body", "the request did not come in time, or not whole")
	}
	if err == nil {
		// An open stream has no deadline. Over HTTP/1.1 this one would end the call. Where there
		// is more of the body it stays: the server would wait for the rest.
		_ = control.SetReadDeadline(time.Time{})
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// visitor returns under what name the call is counted: the user's. A visit that is genuine
// and does not count any more is counted by itself, under its id, as somebody else may have
// it: the guard says why it does not, and its record has that.
func (h *Handler) visitor(ctx context.Context, raw string) (user string, err error) {
	if h.config.Admit != nil {
		done, err := h.config.Admit(ctx)
		if err != nil {
			return "", &handoff.Refusal{Reason: handoff.ReasonLimitExceeded, Check: "rpc.waiting", Err: err}
		}
		defer done()
	}
	verified, err := h.config.Verifier.VerifyVisit(ctx, raw)
	if err == nil {
		claims := verified.Claims()
		return userOf(&claims), nil
	}
	if refused, ok := errors.AsType[*handoff.Refusal](err); ok && refused.Claims != nil {
		return refused.Claims.ID, nil
	}
	return "", err
}

// userOf is unlike that of every other user, and unlike an id: no part has a space in it.
func userOf(c *handoff.Claims) string { return c.Issuer + " " + c.Subject }

// enter counts a call of a user, until done.
func (h *Handler) enter(user string) (done func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.all >= h.config.MaxOpen:
		return nil, refusal(handoff.ReasonLimitExceeded, "rpc.open", "as many calls are open as may")
	case h.open[user] >= h.config.MaxOpenOfUser:
		return nil, refusal(handoff.ReasonLimitExceeded, "rpc.open", "the user has as many calls open as they may")
	}
	h.all++
	h.open[user]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all--
		if h.open[user]--; h.open[user] == 0 {
			delete(h.open, user)
		}
	}, nil
}

// find returns what makes the calls of a method, or nil for a path that is none.
func (h *Handler) find(path string) http.Handler {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.known[path]; known != nil {
		return known
	}
	method, err := h.config.Methods.Method(path)
	if err != nil || method.Name() != path {
		return nil
	}
	if _, ruled := method.Rule(); !ruled {
		return nil
	}
	name := protoreflect.FullName(strings.Replace(path[1:], "/", ".", 1))
	described, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil
	}
	descriptor, ok := described.(protoreflect.MethodDescriptor)
	if !ok || descriptor.IsStreamingClient() {
		return nil
	}
	h.known[path] = h.handlerOf(path, descriptor, method)
	return h.known[path]
}

// message is a request or an answer of any method.
type message struct{ protoreflect.ProtoMessage }

func (h *Handler) handlerOf(path string, descriptor protoreflect.MethodDescriptor, method *rule.Method) http.Handler {
	options := []connect.HandlerOption{
		connect.WithRequestInitializer(func(_ connect.Spec, m any) error {
			m.(*message).ProtoMessage = method.NewRequest()
			return nil
		}),
		connect.WithReadMaxBytes(h.config.MaxBytes),
		connect.WithCompression("gzip", nil, nil),
		connect.WithCodec(strict{"json"}),
		connect.WithCodec(strict{"json; charset=utf-8"}),
	}
	if !descriptor.IsStreamingServer() {
		return connect.NewUnaryHandler(path, func(ctx context.Context, req *connect.Request[message]) (*connect.Response[message], error) {
			answer := method.NewResponse()
			err := h.pool.use(func(conn *grpc.ClientConn) error {
				return conn.Invoke(withVisit(ctx), path, req.Msg.ProtoMessage, answer)
			})
			_ = controlOf(ctx).SetWriteDeadline(time.Now().Add(writeTime))
			if err != nil {
				return nil, told(err)
			}
			return connect.NewResponse(&message{answer}), nil
		}, options...)
	}
	answers, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.Output().FullName())
	if err != nil {
		return nil
	}
	return connect.NewServerStreamHandler(path, func(ctx context.Context, req *connect.Request[message], to *connect.ServerStream[message]) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.serving, cancel)()
		err := h.pool.use(func(conn *grpc.ClientConn) error {
			return stream(withVisit(ctx), conn, path, req.Msg, answers, to)
		})
		if err != nil && h.serving.Err() != nil {
			return connect.NewError(connect.CodeUnavailable, errors.New("this server is stopping"))
		}
		return told(err)
	}, options...)
}

// stream passes on what the server streams, until the stream or the app's interest
// ends.
func stream(ctx context.Context, conn *grpc.ClientConn, path string, req *message, answers protoreflect.MessageType, to *connect.ServerStream[message]) error {
	ctx, cancel := context.WithCancel(ctx) // ends what is not read to its end
	defer cancel()
	control := controlOf(ctx)
	// An app reads for as long as it likes.
	_ = control.SetWriteDeadline(time.Time{})
	from, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := errors.Join(from.SendMsg(req.ProtoMessage), from.CloseSend()); err != nil {
		return from.RecvMsg(answers.New().Interface()) // which knows why
	}
	for {
		answer := answers.New().Interface()
		if err := from.RecvMsg(answer); err != nil {
			_ = control.SetWriteDeadline(time.Now().Add(writeTime))
			return err
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTime))
		if err := to.Send(&message{answer}); err != nil {
			return err
		}
		_ = control.SetWriteDeadline(time.Time{})
	}
}

type callKey struct{}

// asked is what a call needs to know of its request.
type asked struct {
	raw     string
	control *http.ResponseController
}

func controlOf(ctx context.Context) *http.ResponseController {
	return ctx.Value(callKey{}).(asked).control
}

// withVisit returns the context of the call to the server. The visit is all that it
// has of the app's request, besides its end.
func withVisit(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs("authorization", "Bearer "+ctx.Value(callKey{}).(asked).raw))
}
