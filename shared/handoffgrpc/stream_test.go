package handoffgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const exportMethod = server2v1.InvoiceService_ExportPayments_FullMethodName

func TestStreamRunsWithAGrant(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	stream, err := client.ExportPayments(t.Context(), &server2v1.ExportPaymentsRequest{}, handoffgrpc.Token(k.export(t).Compact()))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetPayment().GetPaymentId() != "1" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	events := k.take()
	if len(events) != 1 || events[0].Grant == nil || events[0].Refusal != nil || events[0].Method != exportMethod || events[0].Subject != alice {
		t.Errorf("events: %+v", events)
	}
	if len(k.handlers()) != 1 || k.before[0] != 1 {
		t.Errorf("Observe was told of %d decisions before the handler ran", k.before[0])
	}
}

// A stream is refused as a unary call is: before the handler, with one event.
func TestStreamRefused(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	token := k.export(t).Compact()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		req    *server2v1.ExportPaymentsRequest
		reason handoff.Reason
	}{
		{"no token", t.Context(), &server2v1.ExportPaymentsRequest{}, handoff.ReasonTokenMissing},
		{"G01", raw(t, "authorization", "Bearer "+token, "authorization", "Bearer "+token), &server2v1.ExportPaymentsRequest{}, handoff.ReasonTokenInvalid},
		{"another method", bearer(t, k.pay(t)), &server2v1.ExportPaymentsRequest{}, handoff.ReasonMethodMismatch},
		{"another value", raw(t, "authorization", "Bearer "+token), &server2v1.ExportPaymentsRequest{InvoiceId: "INV-1"}, handoff.ReasonFieldMismatch},
		{"expired", bearer(t, k.export(t).WithClaim("iat", "1000000000").WithClaim("exp", "1000000060")), &server2v1.ExportPaymentsRequest{}, handoff.ReasonTokenExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream, err := client.ExportPayments(c.ctx, c.req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			want := handoffgrpc.StatusOf(&handoff.Refusal{Reason: c.reason})
			if got := status.Convert(err); !proto.Equal(got.Proto(), want.Proto()) {
				t.Errorf("the caller is told %v, want %v", got, want)
			}
			if events := k.take(); len(events) != 1 || events[0].Refusal.Reason != c.reason || events[0].Grant != nil {
				t.Errorf("events: %+v", events)
			}
			if ran := k.handlers(); len(ran) != 0 {
				t.Errorf("ran %v", ran)
			}
		})
	}
}

// G03, over the wire and by the real clock: a stream that is open when its token expires ends with TOKEN_EXPIRED,
// though the handler returns the error of its context.
func TestStreamEndsAtExpiry(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	var cause error
	k.invoices.export = func(stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error {
		if err := stream.Send(&server2v1.ExportPaymentsResponse{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		cause = context.Cause(stream.Context())
		return stream.Context().Err()
	}
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	expires := time.Now().Truncate(time.Second).Add(3 * time.Second)
	token := k.export(t).WithClaim("exp", fmt.Sprint(expires.Unix()))
	stream, err := client.ExportPayments(t.Context(), &server2v1.ExportPaymentsRequest{}, handoffgrpc.Token(token.Compact()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.Unauthenticated || handoffgrpc.ReasonOf(err) != handoff.ReasonTokenExpired {
		t.Errorf("the stream ended with %v", err)
	}
	if late := time.Since(expires); late < 0 || late > 30*time.Second { // of a busy machine
		t.Errorf("the stream ended %s after its token", late)
	}
	if handoff.ReasonOf(cause) != handoff.ReasonTokenExpired {
		t.Errorf("the context's cause is %v", cause)
	}
	events := k.take()
	if len(events) != 2 || events[0].Refusal != nil || events[1].Grant != events[0].Grant || events[1].Refusal.Reason != handoff.ReasonTokenExpired {
		t.Errorf("events: %+v", events)
	}
}

// G03 on a revoked token, by the real clock and over the wire: the handler does nothing but send, and stops.
func TestStreamEndsAtRevocation(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	k.invoices.export = func(stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error {
		for {
			if err := stream.Send(&server2v1.ExportPaymentsResponse{}); err != nil {
				return err
			}
		}
	}
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	stream, err := client.ExportPayments(t.Context(), &server2v1.ExportPaymentsRequest{}, handoffgrpc.Token(k.export(t).Compact()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	k.keys.revoke(handoff.ErrRevoked)
	for err == nil { // what was sent before arrives
		_, err = stream.Recv()
	}
	if handoffgrpc.ReasonOf(err) != handoff.ReasonTokenRevoked {
		t.Errorf("the stream ended with %v", err)
	}
}

// wire is a grpc.ServerStream without a network: requests come from a slice.
type wire struct {
	ctx      context.Context
	requests []proto.Message

	mu   sync.Mutex
	sent int
}

func (w *wire) Context() context.Context   { return w.ctx }
func (*wire) SetHeader(metadata.MD) error  { return nil }
func (*wire) SendHeader(metadata.MD) error { return nil }
func (*wire) SetTrailer(metadata.MD)       {}
func (w *wire) SendMsg(any) error          { w.mu.Lock(); defer w.mu.Unlock(); w.sent++; return nil }
func (w *wire) count() int                 { w.mu.Lock(); defer w.mu.Unlock(); return w.sent }
func (k *kit) stream(w *wire, h handler) error {
	return k.guard.Stream(w, exportMethod, h)
}

func (w *wire) RecvMsg(m any) error {
	if len(w.requests) == 0 {
		return io.EOF
	}
	if m, ok := m.(*server2v1.ExportPaymentsRequest); ok {
		proto.Merge(m, w.requests[0])
	}
	w.requests = w.requests[1:]
	return nil
}

type handler func(grpc.ServerStream) error

// wired returns a stream with the token and so many requests.
func wired(ctx context.Context, token forge.Token, requests int) *wire {
	w := &wire{ctx: metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token.Compact()))}
	for range requests {
		w.requests = append(w.requests, &server2v1.ExportPaymentsRequest{})
	}
	return w
}

func receive(ss grpc.ServerStream) error { return ss.RecvMsg(&server2v1.ExportPaymentsRequest{}) }
func send(ss grpc.ServerStream) error    { return ss.SendMsg(&server2v1.ExportPaymentsResponse{}) }

// An open stream ends when its grant does: how soon, why, and that nothing leaves afterwards.
func TestOpenStreamEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(k *kit) // at 10 s; the token expires at 60 s
		at     time.Duration
		within time.Duration
		reason handoff.Reason
	}{
		{"expired", func(*kit) {}, 60 * time.Second, 0, handoff.ReasonTokenExpired},
		{"revoked", func(k *kit) { k.keys.revoke(handoff.ErrRevoked) }, 10 * time.Second, 500 * time.Millisecond, handoff.ReasonTokenRevoked},
		{"trust too old", func(k *kit) { k.keys.revoke(errors.New("stale")) }, 10 * time.Second, 500 * time.Millisecond, handoff.ReasonTrustStale},
	} {
		for _, returns := range []struct {
			name string
			err  func(grpc.ServerStream) error
		}{
			{"its context's error", func(ss grpc.ServerStream) error { return ss.Context().Err() }},
			{"SendMsg's error", send},
			{"an error of its own", func(grpc.ServerStream) error { return status.Error(codes.NotFound, "no") }},
			{"nil", func(grpc.ServerStream) error { return nil }},
		} {
			t.Run(c.name+", the handler returns "+returns.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					k := newKit(t, handoffgrpc.Config{})
					k.check(t)
					w := wired(t.Context(), k.export(t), 1)
					start := time.Now()
					time.AfterFunc(10*time.Second, func() { c.end(k) })
					err := k.stream(w, func(ss grpc.ServerStream) error {
						time.Sleep(130 * time.Millisecond) // so that the half seconds do not fall on the expiry
						if err := receive(ss); err != nil {
							return err
						}
						if err := send(ss); err != nil {
							t.Errorf("while the grant stands: %v", err)
						}
						<-ss.Context().Done()
						if late := time.Since(start) - c.at; late < 0 || late > c.within {
							t.Errorf("ended %s after", late)
						}
						if handoff.ReasonOf(context.Cause(ss.Context())) != c.reason {
							t.Errorf("the cause is %v", context.Cause(ss.Context()))
						}
						if err := send(ss); handoffgrpc.ReasonOf(err) != c.reason {
							t.Errorf("a later SendMsg: %v", err)
						}
						return returns.err(ss)
					})
					if handoffgrpc.ReasonOf(err) != c.reason {
						t.Errorf("the client is told %v", err)
					}
					if w.count() != 1 {
						t.Errorf("%d messages left", w.count())
					}
					events := k.take()
					if len(events) != 2 || events[0].Grant == nil || events[0].Refusal != nil ||
						events[1].Grant != events[0].Grant || events[1].Refusal.Reason != c.reason || events[1].Subject != alice {
						t.Errorf("events: %+v", events)
					}
				})
			})
		}
	}
}

// A SendMsg that comes before the next look at the clock asks for itself.
func TestSendAsksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t, handoffgrpc.Config{})
		k.check(t)
		w := wired(t.Context(), k.export(t), 1)
		err := k.stream(w, func(ss grpc.ServerStream) error {
			if err := receive(ss); err != nil {
				return err
			}
			k.keys.revoke(handoff.ErrRevoked)
			if err := send(ss); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenRevoked {
				t.Errorf("SendMsg: %v", err)
			}
			if ss.Context().Err() == nil {
				t.Error("the context goes on")
			}
			k.keys.revoke(nil) // too late: a stream that has ended stays so
			return send(ss)
		})
		if handoffgrpc.ReasonOf(err) != handoff.ReasonTokenRevoked || w.count() != 0 {
			t.Errorf("the client is told %v, after %d messages", err, w.count())
		}
	})
}

// The watch ends with the stream, even if it is at its work: nothing asks afterwards, and the context is released.
func TestClosedStreamIsNotWatched(t *testing.T) {
	for _, asking := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{})
			k.check(t)
			hold := make(chan struct{})
			var ctx context.Context
			err := k.stream(wired(t.Context(), k.export(t), 1), func(ss grpc.ServerStream) error {
				err := receive(ss)
				ctx = ss.Context()
				if asking {
					k.keys.stall(hold)
				}
				time.Sleep(2100 * time.Millisecond)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			asked := k.keys.times()
			close(hold)
			time.Sleep(2 * time.Minute)
			if now := k.keys.times(); now != asked {
				t.Errorf("asked %d times after the stream had closed", now-asked)
			}
			if ctx.Err() == nil || handoff.ReasonOf(context.Cause(ctx)) != 0 {
				t.Errorf("the context's cause is %v", context.Cause(ctx))
			}
			if events := k.take(); len(events) != 1 {
				t.Errorf("events: %+v", events)
			}
		})
	}
}

// The time a caller takes to send its request counts: the token is current when it is redeemed.
func TestRequestComesAfterExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t, handoffgrpc.Config{})
		k.check(t)
		err := k.stream(wired(t.Context(), k.export(t), 1), func(ss grpc.ServerStream) error {
			time.Sleep(time.Minute)
			return receive(ss)
		})
		if handoffgrpc.ReasonOf(err) != handoff.ReasonTokenExpired {
			t.Errorf("got %v", err)
		}
	})
}

// Handlers that generated code does not make: nothing leaves the stream without a grant.
func TestUnusualHandlers(t *testing.T) {
	const misused, refused = handoff.ReasonRequestUnbindable, handoff.ReasonFieldMismatch
	for _, c := range []struct {
		name     string
		requests int
		other    bool // the token is for another request
		handler  handler
		reason   handoff.Reason // 0: the stream succeeds
		sent     int
		granted  bool
	}{
		{"reads to the end", 1, false, func(ss grpc.ServerStream) error {
			if err := receive(ss); err != nil {
				return err
			}
			if err := receive(ss); err != io.EOF {
				return fmt.Errorf("no EOF but %w", err)
			}
			return send(ss)
		}, 0, 1, true},
		{"gets its grant with its request", 1, false, func(ss grpc.ServerStream) error {
			if _, ok := handoff.FromContext(ss.Context()); ok {
				return errors.New("a grant before the request")
			}
			if err := receive(ss); err != nil {
				return err
			}
			if _, ok := handoff.FromContext(ss.Context()); !ok {
				return errNoGrant
			}
			return nil
		}, 0, 0, true},
		{"two requests", 2, false, func(ss grpc.ServerStream) error {
			_ = receive(ss)
			_ = receive(ss)
			return send(ss)
		}, misused, 0, true},
		{"sends before it reads", 1, false, func(ss grpc.ServerStream) error {
			_ = send(ss)
			return receive(ss)
		}, misused, 0, false},
		{"sends before it reads, and forgets", 1, false, func(ss grpc.ServerStream) error {
			_ = send(ss)
			_ = receive(ss)
			_ = send(ss)
			return nil
		}, misused, 0, false},
		{"reads nothing", 1, false, func(grpc.ServerStream) error { return nil }, misused, 0, false},
		{"no request, forgotten", 0, false, func(ss grpc.ServerStream) error { _ = receive(ss); return nil }, misused, 0, false},
		{"not a protobuf message", 1, false, func(ss grpc.ServerStream) error { return ss.RecvMsg(notProto{}) }, misused, 0, false},
		{"another type", 1, false, func(ss grpc.ServerStream) error {
			return ss.RecvMsg(&server2v1.ExportPaymentsResponse{})
		}, misused, 0, false},
		{"forgets the refusal", 1, true, func(ss grpc.ServerStream) error {
			_ = receive(ss)
			_ = send(ss)
			return nil
		}, refused, 0, false},
		{"reads again after the refusal", 2, true, func(ss grpc.ServerStream) error {
			_ = receive(ss)
			_ = receive(ss)
			return send(ss)
		}, refused, 0, false},
		{"returns another error than the refusal", 1, true, func(ss grpc.ServerStream) error {
			_ = receive(ss)
			return status.Error(codes.NotFound, "no")
		}, refused, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{})
			k.check(t)
			token := k.export(t)
			if c.other {
				token = k.good(t, exportMethod, &server2v1.ExportPaymentsRequest{InvoiceId: "INV-1"})
			}
			w := wired(t.Context(), token, c.requests)
			err := k.stream(w, c.handler)
			if handoffgrpc.ReasonOf(err) != c.reason || (c.reason == 0) != (err == nil) {
				t.Errorf("the client is told %v", err)
			}
			if w.count() != c.sent {
				t.Errorf("%d messages left", w.count())
			}
			events := k.take()
			granted := len(events) > 0 && events[0].Grant != nil
			last := events[len(events)-1]
			if granted != c.granted || (c.reason != 0) != (last.Refusal != nil) || last.Refusal != nil && last.Refusal.Reason != c.reason {
				t.Errorf("events: %+v", events)
			}
			if want := map[bool]int{true: 2, false: 1}[c.granted && c.reason != 0]; len(events) != want {
				t.Errorf("%d events: %+v", len(events), events)
			}
		})
	}
}

type notProto struct{}

// A handler that recovers the hook's panic still has no grant.
func TestRecoveredHookGrantsNothing(t *testing.T) {
	told := 0
	k := newKit(t, handoffgrpc.Config{Observe: func(context.Context, handoffgrpc.Event) {
		if told++; told == 1 {
			panic("the hook")
		}
	}})
	k.check(t)
	w := wired(t.Context(), k.export(t), 1)
	err := k.stream(w, func(ss grpc.ServerStream) error {
		func() {
			defer func() { _ = recover() }()
			_ = receive(ss)
		}()
		if _, ok := handoff.FromContext(ss.Context()); ok {
			t.Error("a grant")
		}
		_ = send(ss)
		return nil
	})
	if err == nil || w.count() != 0 {
		t.Errorf("the client is told %v, after %d messages", err, w.count())
	}
}

// Handlers may send from one goroutine while another waits, and the client may leave at any time.
func TestStreamUnderConcurrency(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	k.check(t)
	token := k.export(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_ = k.stream(wired(ctx, token.Fresh(), 1), func(ss grpc.ServerStream) error {
				var both sync.WaitGroup
				defer both.Wait()
				both.Go(func() {
					_ = receive(ss)
					_ = receive(ss)
				})
				both.Go(func() {
					for ss.Context().Err() == nil {
						_ = send(ss)
					}
				})
				switch i % 3 {
				case 0:
					cancel()
				case 1:
					k.keys.revoke(handoff.ErrRevoked)
				}
				<-ss.Context().Done()
				return nil
			})
		})
	}
	wg.Wait()
}
