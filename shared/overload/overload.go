package overload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/handoff-auth/handoff/shared/internal/gate"
	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// Config says how much a server takes on. Its zero value is a good choice.
type Config struct {
	// MaxInFlight is how many calls are checked at once. The others wait for their
	// turn until their call ends: networks one after the other, and of one network (an
	// IPv4 address, an IPv6 /48) first come, first served. A check keeps a processor
	// busy, so more at once are no faster. Zero: 16 for each of GOMAXPROCS.
	MaxInFlight int
	// MaxWaiting is how many calls may wait for their turn. With them count the
	// goroutines that wait for a processor, those of handlers among them: it should
	// be well above MaxInFlight. With much room calls get old while they wait; with
	// little, calls are refused that could be checked a moment later. A network that
	// has less than a 64th of them open may have twice as many wait, and takes the room
	// of the network that has the most. Zero: 256 for each of GOMAXPROCS, which is
	// some 5 ms of signature checks.
	MaxWaiting int
	// MaxOpen is how many calls may be open at once, from their header to their end,
	// waiting for anything: a body, a turn, a database. One network has a quarter of
	// them, and once half are taken a 64th, or
	// what it takes from a network that keeps more places than it by calls whose
	// requests have not arrived: the oldest of those ends. An open call takes some
	// 12 KiB of memory. Zero: 8192.
	MaxOpen int
	// MaxConnections is how many connections the listeners of Shedder.Listener may have
	// open, all of them together. One network has a quarter of them, and once half are
	// open a 64th; clients behind a proxy are one network. A new one beyond that takes
	// the place of the one that has had no call for the longest time, of the network
	// that has the most open, or is closed where all have calls. Of the files that the
	// process may open (RLIMIT_NOFILE), 256 are kept for other uses, and these
	// connections never take more than half of the rest. Zero: 4096.
	MaxConnections int
	// BodyTimeout is how long a request may take to arrive after its header. Zero:
	// 2 s.
	BodyTimeout time.Duration
	// Spare names what is served while calls wait: a full method name, or all of a
	// service, "/grpc.health.v1.Health/". Nil: the health service.
	Spare []string
	// Shed, if set, is told of each call that Tap refuses, in the goroutine that
	// reads the connection: it must be quick, and nothing recovers its panic.
	Shed func(context.Context)
	// Crowded, if set, is told at most once a minute, by each listener, that
	// MaxConnections are too few: how many connections without a call were closed for
	// new ones since it was told last, how many new ones were closed at once, and the
	// address of the last that came. Accept calls it: it must be quick.
	Crowded func(idleClosed, refused int, last net.Addr)
}

// ErrShed is Admit's error for a call that must not wait, as too many do.
var ErrShed = errors.New("too many calls wait to be checked")

// Shedder keeps one *grpc.Server at work when more comes than it can check. It is
// safe for concurrent use.
type Shedder struct {
	queue *queue
	open  *calls
	body  time.Duration
	spare []string
	told  func(context.Context)

	connections *gate.Connections
	crowded     func(idleClosed, refused int, last net.Addr)
}

// New returns a shedder, or an error that names the field of config that it
// refuses. It is an error, too, if the process may open fewer than 288 files.
func New(config Config) (*Shedder, error) {
	for field, value := range map[string]int64{
		"MaxInFlight": int64(config.MaxInFlight), "MaxWaiting": int64(config.MaxWaiting),
		"MaxOpen": int64(config.MaxOpen), "MaxConnections": int64(config.MaxConnections), "BodyTimeout": int64(config.BodyTimeout),
	} {
		if value < 0 {
			return nil, fmt.Errorf("overload: Config.%s is negative", field)
		}
	}
	connections, err := gate.Fit(cmp.Or(config.MaxConnections, 4096), gate.OpenFiles())
	if err != nil {
		return nil, fmt.Errorf("overload: Config.MaxConnections %w", err)
	}
	processors := runtime.GOMAXPROCS(0)
	open := newCalls(cmp.Or(config.MaxOpen, 8192))
	s := &Shedder{
		queue: newQueue(cmp.Or(config.MaxInFlight, 16*processors), cmp.Or(config.MaxWaiting, 256*processors), open),
		open:  open,
		body:  cmp.Or(config.BodyTimeout, 2*time.Second),
		spare: slices.Clone(config.Spare),
		told:  config.Shed,

		connections: gate.New(connections),
		crowded:     config.Crowded,
	}
	if config.Spare == nil {
		s.spare = []string{"/grpc.health.v1.Health/"}
	}
	return s, nil
}

// Admit waits for a call's turn to be checked. done ends the turn. The error is
// ErrShed, or the cause of the end of ctx. It is handoffgrpc.Config.Admit.
func (s *Shedder) Admit(ctx context.Context) (done func(), err error) {
	if err := s.queue.enter(ctx); err != nil {
		return nil, err
	}
	return s.queue.leave, nil
}

// maxFields is how many values a call's metadata can have. A short one takes some 100
// bytes more than it has, of which a header of 16 KiB can have 480: four times what an
// open call takes otherwise.
const maxFields = 96

// Tap is a tap.ServerInHandle. It refuses a call on its header, before a goroutine
// is started for it or a byte of its body is kept:
//
//   - if its metadata has more than 96 values;
//   - while as many calls wait for a turn or a processor as may, unless it is spared
//     or its network has few calls open;
//   - while as many are open as may, in all or from the caller's network, and no
//     call whose request has not arrived can make room for it.
//
// A call whose deadline is far is refused by Unary and Stream in its place. Tap ends a
// call whose request does not arrive in time; Unary and Stream tell it that it has. So
// all three belong together: Options has them.
func (s *Shedder) Tap(ctx context.Context, call *tap.Info) (context.Context, error) {
	address := addressOf(ctx)
	s.queue.readers.came(address)
	if fieldsOf(call.Header) > maxFields || s.queue.full(s.open.number(quota.NetworkOf(address))) && !s.isSpared(call.FullMethodName) {
		return s.refuse(ctx)
	}
	if !s.connections.Begin(address) { // the connection is being closed, for another
		return s.refuse(ctx)
	}
	canceled, cancel := context.WithCancelCause(ctx)
	begun := s.open.begin(address, cancel)
	if begun == nil {
		cancel(nil)
		s.connections.End(address)
		return s.refuse(ctx)
	}
	begun.late = time.AfterFunc(s.body, func() { cancel(errLate) })
	context.AfterFunc(ctx, func() { begun.end(); s.connections.End(address) })
	return context.WithValue(canceled, callKey{}, begun), nil
}

// What grpc-go (1.85, http2Server.operateHeaders) makes of a call that a tap refuses stays
// until the call's deadline, with 300 bytes and more, as nobody ends its context. A caller
// may choose a deadline in a hundred years.
const (
	farDeadline = 10 * time.Second
	soon        = 250 * time.Millisecond
)

// refuse refuses a call. One whose deadline is far goes on for a moment, to be refused by
// Unary or Stream: then gRPC ends its context. Where the processors need longer to get to
// that, its caller hears DEADLINE_EXCEEDED.
func (s *Shedder) refuse(ctx context.Context) (context.Context, error) {
	err := s.shed(ctx)
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) <= farDeadline {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, refusedKey{}, err), soon)
	_ = cancel // the call's end cancels the parent, which stops this timer
	return ctx, nil
}

// refusedKey is the key of the error of a call that is refused.
type refusedKey struct{}

func refused(ctx context.Context) error {
	err, _ := ctx.Value(refusedKey{}).(error)
	return err
}

func fieldsOf(header metadata.MD) (n int) {
	for _, values := range header {
		n += len(values)
	}
	return n
}

// callKey is the key of the call that waits for its request.
type callKey struct{}

// Unary is a grpc.UnaryServerInterceptor: the request has arrived.
func (s *Shedder) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := refused(ctx); err != nil {
		return nil, err
	}
	arrived(ctx)
	return handler(ctx, req)
}

// Stream is a grpc.StreamServerInterceptor, which sees the first request arrive.
func (s *Shedder) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := refused(stream.Context()); err != nil {
		return err
	}
	return handler(srv, receiver{stream})
}

type receiver struct{ grpc.ServerStream }

func (r receiver) RecvMsg(m any) error {
	err := r.ServerStream.RecvMsg(m)
	if err == nil {
		arrived(r.Context())
	}
	return err
}

func arrived(ctx context.Context) {
	if begun, ok := ctx.Value(callKey{}).(*call); ok {
		begun.arrived()
	}
}

func addressOf(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return nil
}

func (s *Shedder) isSpared(method string) bool {
	return slices.Contains(s.spare, method) || slices.Contains(s.spare, method[:strings.LastIndexByte(method, '/')+1])
}

// shed reports that a call is refused, and returns the caller's status: that of
// package handoffgrpc for LIMIT_EXCEEDED.
func (s *Shedder) shed(ctx context.Context) error {
	if s.told != nil {
		s.told(ctx)
	}
	refusal := status.New(codes.ResourceExhausted, "a limit of this server is reached")
	if detailed, err := refusal.WithDetails(&errdetails.ErrorInfo{Domain: "handoff.v1", Reason: "LIMIT_EXCEEDED"}); err == nil {
		refusal = detailed
	}
	return refusal.Err()
}
