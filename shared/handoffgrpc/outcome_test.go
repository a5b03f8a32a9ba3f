package handoffgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// ledger is what a service remembers of handoffs that have had their effect. It is asked by Config.Outcome.
type ledger struct {
	answers map[string]proto.Message // by the handoff's id
	err     error
	asked   int
}

func (l *ledger) outcome(ctx context.Context, spent *handoff.Grant) (proto.Message, error) {
	l.asked++
	if _, ok := handoff.FromContext(ctx); ok {
		return nil, errors.New("a grant in the context")
	}
	return l.answers[spent.ID()], l.err
}

// A token that comes again with the request that it names is given the first answer, where the service knows it. In
// every other case it is refused, as if nobody could be asked.
func TestOutcome(t *testing.T) {
	first := &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{PaymentId: "the first"}}
	memo := with(func(r *server2v1.PayInvoiceRequest) { r.Memo = "a freed field" })
	for _, c := range []struct {
		name   string
		before func(k *kit, l *ledger)
		again  *server2v1.PayInvoiceRequest // nil: payment()
		reason handoff.Reason               // 0: the first answer
		asked  int
	}{
		{name: "the very request", asked: 1},
		{name: "another memo, which is free", again: memo, asked: 1},
		{"another amount", nil, with(func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits++ }), handoff.ReasonFieldMismatch, 0},
		{"a field less", nil, with(func(r *server2v1.PayInvoiceRequest) { r.RequestId = "" }), handoff.ReasonFieldMismatch, 0},
		{"an unknown id", func(_ *kit, l *ledger) { l.answers = nil }, nil, handoff.ReasonTokenReplayed, 1},
		{"the hook fails", func(_ *kit, l *ledger) { l.err = errors.New("the secret cause") }, nil, handoff.ReasonTokenReplayed, 1},
		{"an answer of another method", func(_ *kit, l *ledger) {
			for id := range l.answers {
				l.answers[id] = &server2v1.GetInvoiceResponse{}
			}
		}, nil, handoff.ReasonTokenReplayed, 1},
		{"a nil answer", func(_ *kit, l *ledger) {
			for id := range l.answers {
				l.answers[id] = (*server2v1.PayInvoiceResponse)(nil)
			}
		}, nil, handoff.ReasonTokenReplayed, 1},
		{"taken back", func(k *kit, _ *ledger) { k.keys.revoke(handoff.ErrRevoked) }, nil, handoff.ReasonTokenRevoked, 0},
		{"trust too old", func(k *kit, _ *ledger) { k.keys.revoke(errors.New("stale")) }, nil, handoff.ReasonTrustStale, 0},
		{"the store is down", func(k *kit, _ *ledger) { k.store.fail = errors.New("down") }, nil, handoff.ReasonStoreUnavailable, 0},
		{"the store began later", func(k *kit, _ *ledger) { k.store.fail = handoff.ErrIssuedBeforeStart }, nil, handoff.ReasonIssuedBeforeStart, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &ledger{answers: map[string]proto.Message{}}
			k := newKit(t, handoffgrpc.Config{Outcome: l.outcome})
			client := server2v1.NewInvoiceServiceClient(k.serve(t))
			token := k.pay(t)
			paid, err := client.PayInvoice(bearer(t, token), payment())
			if err != nil || l.asked != 0 {
				t.Fatalf("%v; the hook was asked %d times before there was anything to know", err, l.asked)
			}
			id := paid.GetPayment().GetHandoffId()
			l.answers[id] = first
			if c.before != nil {
				c.before(k, l)
			}
			k.take()
			req := c.again
			if req == nil {
				req = payment()
			}
			again, err := client.PayInvoice(bearer(t, token), req)
			if handoffgrpc.ReasonOf(err) != c.reason || c.reason == 0 && !proto.Equal(again, first) || l.asked != c.asked {
				t.Errorf("%v, %v, want %s; the hook was asked %d times", again, err, c.reason, l.asked)
			}
			if want := handoffgrpc.StatusOf(&handoff.Refusal{Reason: c.reason}); c.reason != 0 && !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
				t.Errorf("the caller is told %v, want %v", err, want)
			}
			if ran := k.handlers(); len(ran) != 1 {
				t.Errorf("ran %v", ran)
			}
			events := k.take()
			if len(events) != 1 || events[0].Grant != nil || events[0].ID != id || events[0].Answered != (c.reason == 0) {
				t.Fatalf("events: %+v", events)
			}
			if l.err != nil && !strings.Contains(events[0].Refusal.Error(), l.err.Error()) {
				t.Errorf("the log is not told why: %v", events[0].Refusal)
			}
		})
	}
}

// Without a hook, once the token has expired, and of methods whose answer is no one message, it is not asked.
func TestOutcomeIsNotAsked(t *testing.T) {
	l := &ledger{}
	k := newKit(t, handoffgrpc.Config{Outcome: l.outcome})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	token := k.pay(t).WithClaim("exp", fmt.Sprint(time.Now().Add(2*time.Second).Unix()))
	if _, err := client.PayInvoice(bearer(t, token), payment()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond)
	if _, err := client.PayInvoice(bearer(t, token), payment()); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenExpired {
		t.Errorf("expired: %v", err)
	}

	rules(t)
	streaming := newKit(t, handoffgrpc.Config{Outcome: l.outcome, Exempt: []string{}})
	s := grpc.NewServer()
	streaming.guard.On(s).RegisterService(&grpc.ServiceDesc{ServiceName: "guardtest.Download", Streams: []grpc.StreamDesc{{
		StreamName: "Call", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&server2v1.PayInvoiceRequest{}); err != nil {
				return err
			}
			return ss.SendMsg(&server2v1.PayInvoiceResponse{})
		},
	}}}, nil)
	if err := streaming.guard.Check(s); err != nil {
		t.Fatal(err)
	}
	conn := plain(t, s)
	ctx := bearer(t, streaming.good(t, "/guardtest.Download/Call", payment()))
	for _, want := range []handoff.Reason{0, handoff.ReasonTokenReplayed} {
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/guardtest.Download/Call")
		if err == nil {
			err = errors.Join(stream.SendMsg(payment()), stream.CloseSend())
		}
		if err == nil {
			err = stream.RecvMsg(&server2v1.PayInvoiceResponse{})
		}
		if handoffgrpc.ReasonOf(err) != want || want == 0 && err != nil {
			t.Errorf("streaming: %v, want %s", err, want)
		}
	}
	if l.asked != 0 {
		t.Errorf("the hook was asked %d times", l.asked)
	}
}

// A hook that panics answers nothing, and what recovers a handler's panic recovers its.
func TestOutcomePanics(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{Outcome: func(context.Context, *handoff.Grant) (proto.Message, error) { panic("the hook") }})
	client := server2v1.NewInvoiceServiceClient(k.serve(t, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer func() {
				if recover() == "the hook" {
					resp, err = nil, status.Error(codes.Internal, "recovered")
				}
			}()
			return next(ctx, req)
		})))
	token := k.pay(t)
	for _, want := range []codes.Code{codes.OK, codes.Internal} {
		if _, err := client.PayInvoice(bearer(t, token), payment()); status.Code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if ran := k.handlers(); len(ran) != 1 {
		t.Errorf("ran %v", ran)
	}
}
