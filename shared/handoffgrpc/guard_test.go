package handoffgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/overload"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// raw puts metadata on a call as an attacker would, past the client's credentials.
func raw(t testing.TB, pairs ...string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), pairs...)
}

func bearer(t testing.TB, token forge.Token) context.Context {
	t.Helper()
	return raw(t, "authorization", "Bearer "+token.Compact())
}

func TestUnaryRunsWithAGrant(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	token := k.pay(t)

	req := payment()
	req.Memo = "a freed field may differ"
	resp, err := client.PayInvoice(t.Context(), req, handoffgrpc.Token(token.Compact()))
	if err != nil {
		t.Fatal(err)
	}
	id := resp.GetPayment().GetHandoffId()
	if forge.Quote(id) != token.Payload.Get("jti") {
		t.Errorf("the handler's grant has the id %s", id)
	}
	events := k.take()
	if len(events) != 1 {
		t.Fatalf("events: %+v", events)
	}
	e := events[0]
	if e.Refusal != nil || e.Grant.ID() != id || e.ID != id || e.Issuer != issuer || e.Subject != alice ||
		e.Method != server2v1.InvoiceService_PayInvoice_FullMethodName {
		t.Errorf("event: %+v", e)
	}
	if k.before[0] != 1 { // H12
		t.Error("the handler ran before Observe was told")
	}

	_, err = client.PayInvoice(t.Context(), req, handoffgrpc.Token(token.Compact()))
	if handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("again: %v", err)
	}
	if e := k.take()[0]; e.Grant != nil || e.Refusal.Reason != handoff.ReasonTokenReplayed || e.ID != id || e.Subject != alice {
		t.Errorf("event: %+v", e)
	}
	if ran := k.handlers(); len(ran) != 1 || k.store.len() != 1 {
		t.Errorf("ran %v, redeemed %v", ran, k.store.told)
	}
}

func TestReusableIsNotSpent(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	token := handoffgrpc.Token(k.good(t, server2v1.InvoiceService_GetInvoice_FullMethodName, req).Compact())
	for range 3 {
		if _, err := client.GetInvoice(t.Context(), req, token); err != nil {
			t.Fatal(err)
		}
	}
	if k.store.len() != 0 {
		t.Error("a reusable token was spent")
	}
}

// Each refused call differs from one that is accepted in the one thing that its name says. No handler runs, and
// nothing is redeemed (E09).
func TestRefused(t *testing.T) {
	const missing, invalid = handoff.ReasonTokenMissing, handoff.ReasonTokenInvalid
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	another := *k
	another.keys = &keys{key: *forge.NewKey(handoff.EdDSA)}
	text := k.pay(t).Compact()

	for _, c := range []struct {
		name   string
		ctx    context.Context
		req    *server2v1.PayInvoiceRequest // nil: payment()
		reason handoff.Reason
		check  handoff.Check
		known  bool // the issuer vouches for the token, so that the event names it
	}{
		{"no authorization", t.Context(), nil, missing, "metadata.missing", false},
		{"G01 the token twice", raw(t, "authorization", "Bearer "+text, "authorization", "Bearer "+text), nil, invalid, "metadata.count", false},
		{"G01 two tokens", raw(t, "authorization", "Bearer "+text, "authorization", "Bearer "+k.pay(t).Compact()), nil, invalid, "metadata.count", false},
		{"G01 a token and nothing", raw(t, "authorization", "Bearer "+text, "authorization", ""), nil, invalid, "metadata.count", false},
		{"G02 authorization-bin", raw(t, "authorization-bin", "Bearer "+text), nil, invalid, "metadata.binary", false},
		{"G02 authorization-bin as well", raw(t, "authorization", "Bearer "+text, "authorization-bin", ""), nil, invalid, "metadata.binary", false},
		{"G02 bearer", raw(t, "authorization", "bearer "+text), nil, invalid, "metadata.scheme", false},
		{"G02 BEARER", raw(t, "authorization", "BEARER "+text), nil, invalid, "metadata.scheme", false},
		{"G02 a colon", raw(t, "authorization", "Bearer: "+text), nil, invalid, "metadata.scheme", false},
		{"G02 no scheme", raw(t, "authorization", text), nil, invalid, "metadata.scheme", false},
		{"G02 another scheme", raw(t, "authorization", "Basic dXNlcjpwYXNz"), nil, invalid, "metadata.scheme", false},
		{"G02 Bearer alone", raw(t, "authorization", "Bearer"), nil, invalid, "metadata.scheme", false},
		{"G02 empty", raw(t, "authorization", ""), nil, invalid, "metadata.scheme", false},
		{"G02 two spaces", raw(t, "authorization", "Bearer  "+text), nil, invalid, "token.base64url", false},
		{"G02 two tokens in one value", raw(t, "authorization", "Bearer "+text+", Bearer "+text), nil, invalid, "token.parts", false},
		{"G02 Bearer twice", raw(t, "authorization", "Bearer Bearer "+text), nil, invalid, "token.base64url", false},

		{"E09 a key that nobody lists", bearer(t, another.pay(t)), nil, invalid, "key.unknown", false},
		{"E09 another's signature", raw(t, "authorization", "Bearer "+text[:strings.LastIndexByte(text, '.')]+k.pay(t).Compact()[strings.LastIndexByte(text, '.'):]), nil, invalid, "signature", false},
		{"E09 another audience", bearer(t, k.pay(t).WithClaim("aud", `"https://other.example"`)), nil, handoff.ReasonAudienceMismatch, "verify.aud", true},
		{"E09 another issuer", bearer(t, k.pay(t).WithClaim("iss", `"https://other.example"`)), nil, handoff.ReasonIssuerMismatch, "verify.iss", false},
		{"E09 expired", bearer(t, k.pay(t).WithClaim("iat", "1000000000").WithClaim("exp", "1000000060")), nil, handoff.ReasonTokenExpired, "verify.exp", true},
		{"E09 a claim too many", bearer(t, k.pay(t).WithClaim("admin", "true")), nil, handoff.ReasonClaimsInvalid, "payload.members", false},
		{"E09 another method", bearer(t, k.export(t)), nil, handoff.ReasonMethodMismatch, "operation.method", true},
		{"E09 another amount", bearer(t, k.pay(t)), with(func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits = 1201 }), handoff.ReasonFieldMismatch, "operation.value", true},
		{"E09 a field less", bearer(t, k.pay(t)), with(func(r *server2v1.PayInvoiceRequest) { r.RequestId = "" }), handoff.ReasonFieldMismatch, "operation.value", true},
		{"E09 a field that no token can name", bearer(t, k.pay(t)), with(func(r *server2v1.PayInvoiceRequest) {
			r.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 0x01}) // field 31, a varint
		}), handoff.ReasonRequestUnbindable, "operation.bind", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := c.req
			if req == nil {
				req = payment()
			}
			_, err := client.PayInvoice(c.ctx, req)
			want := handoffgrpc.StatusOf(&handoff.Refusal{Reason: c.reason})
			if got := status.Convert(err); !proto.Equal(got.Proto(), want.Proto()) {
				t.Errorf("the caller is told %v, want %v", got, want)
			}
			events := k.take()
			if len(events) != 1 || events[0].Refusal == nil {
				t.Fatalf("events: %+v", events)
			}
			e := events[0]
			if e.Refusal.Reason != c.reason || e.Refusal.Check != c.check {
				t.Errorf("refused by %s (%s), want %s (%s)", e.Refusal.Check, e.Refusal.Reason, c.check, c.reason)
			}
			if e.Grant != nil || e.Method != server2v1.InvoiceService_PayInvoice_FullMethodName ||
				(e.ID != "") != c.known || (e.Subject == alice) != c.known || (e.Issuer == issuer) != c.known {
				t.Errorf("event: %+v", e)
			}
			if ran := k.handlers(); len(ran) != 0 || k.store.len() != 0 {
				t.Errorf("ran %v, redeemed %v", ran, k.store.told)
			}
		})
	}
	if _, err := client.PayInvoice(raw(t, "authorization", "Bearer "+text), payment()); err != nil {
		t.Errorf("the control: %v", err)
	}
}

func with(change func(*server2v1.PayInvoiceRequest)) *server2v1.PayInvoiceRequest {
	req := payment()
	change(req)
	return req
}

// H06: over the wire, everything that is wrong before the signature has one answer: one code, one text, one length.
func TestUniformRefusal(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	answer := func(ctx context.Context) string {
		t.Helper()
		var header, trailer metadata.MD
		_, err := client.PayInvoice(ctx, payment(), grpc.Header(&header), grpc.Trailer(&trailer))
		if err == nil {
			t.Fatal("accepted")
		}
		details, err := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%q %v %v", details, header, trailer)
	}
	want := answer(raw(t, "authorization", "Bearer x"))
	tried := 0
	for _, attack := range forge.Attacks() {
		if attack.Reason != handoff.ReasonTokenInvalid || attack.Algorithm != "" && attack.Algorithm != handoff.EdDSA {
			continue
		}
		text := attack.Forge(k.pay(t))
		if len(text) > 64<<10 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			continue // gRPC itself does not carry it
		}
		tried++
		if got := answer(raw(t, "authorization", "Bearer "+text)); got != want {
			t.Errorf("%s %s: %s, want %s", attack.ID, attack.Name, got, want)
		}
	}
	if tried < 50 {
		t.Errorf("only %d attacks were tried", tried)
	}
	for _, value := range []string{"", "x", "Basic x", "Bearer", "bearer " + k.pay(t).Compact(), "Bearer " + strings.Repeat("A", 8000)} {
		if got := answer(raw(t, "authorization", value)); got != want {
			t.Errorf("%.20q: %s, want %s", value, got, want)
		}
	}
	if got := answer(raw(t, "authorization", "Bearer x", "authorization", "Bearer x")); got != want {
		t.Errorf("twice: %s, want %s", got, want)
	}
	if len(k.handlers()) != 0 || k.store.len() != 0 {
		t.Error("something ran")
	}
}

// G14: what failed inside stays inside.
func TestCauseStaysInside(t *testing.T) {
	const secret = "open /etc/secret/key.pem"
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	for _, c := range []struct {
		name   string
		fail   func()
		reason handoff.Reason
		code   codes.Code
	}{
		{"the store", func() { k.store.fail = errors.New(secret) }, handoff.ReasonStoreUnavailable, codes.Unavailable},
		{"a full store", func() { k.store.fail = handoff.ErrStoreFull }, handoff.ReasonLimitExceeded, codes.ResourceExhausted},
		{"a young store", func() { k.store.fail = handoff.ErrIssuedBeforeStart }, handoff.ReasonIssuedBeforeStart, codes.FailedPrecondition},
		{"trust", func() { k.keys.revoke(errors.New(secret)) }, handoff.ReasonTrustStale, codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.fail()
			_, err := client.PayInvoice(bearer(t, k.pay(t)), payment())
			if status.Code(err) != c.code || handoffgrpc.ReasonOf(err) != c.reason {
				t.Errorf("got %v, want %s", err, c.reason)
			}
			if strings.Contains(fmt.Sprintf("%+v", status.Convert(err).Proto()), "secret") {
				t.Errorf("the caller learns %v", err)
			}
			if e := k.take()[0]; e.Refusal.Reason != c.reason || e.Refusal.Err == nil {
				t.Errorf("the log learns %v", e.Refusal)
			}
			if ran := k.handlers(); len(ran) != 0 {
				t.Errorf("ran %v", ran)
			}
		})
	}
}

// E01: of any number of calls at once with one token, one runs.
func TestOneRedemptionAtOnce(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	token := handoffgrpc.Token(k.pay(t).Compact())
	const calls = 32
	reasons := make(chan handoff.Reason, calls)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			_, err := client.PayInvoice(t.Context(), payment(), token)
			if err == nil {
				reasons <- 0
			} else {
				reasons <- handoffgrpc.ReasonOf(err)
			}
		})
	}
	wg.Wait()
	close(reasons)
	won := 0
	for reason := range reasons {
		if reason == 0 {
			won++
		} else if reason != handoff.ReasonTokenReplayed {
			t.Errorf("lost with %s", reason)
		}
	}
	if ran := k.handlers(); won != 1 || len(ran) != 1 {
		t.Errorf("%d calls won, %d handlers ran", won, len(ran))
	}
}

func TestExemptNeedsNoToken(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := healthv1.NewHealthClient(k.serve(t))
	if _, err := client.Check(raw(t, "authorization", "Bearer nonsense"), &healthv1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	watch, err := client.Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Error(err)
	}
	if events := k.take(); len(events) != 0 {
		t.Errorf("Observe was told of %+v", events)
	}
}

// While as many tokens are in verification as may be, one call waits for its turn, and those above that are refused
// before any of their token is looked at.
func TestInFlightLimit(t *testing.T) {
	k, shedder := newSheddingKit(t, overload.Config{MaxInFlight: 2, MaxWaiting: 1})
	hold := make(chan struct{})
	k.keys.stall(hold)
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	answers := make(chan error)
	pay := func(n int) {
		for range n {
			ctx := bearer(t, k.pay(t))
			go func() {
				_, err := client.PayInvoice(ctx, payment())
				answers <- err
			}()
		}
	}
	pay(2)
	for deadline := time.Now().Add(10 * time.Second); k.keys.times() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("two calls did not get as far as the key")
		}
	}
	pay(4)
	for range 3 {
		err := <-answers
		if status.Code(err) != codes.ResourceExhausted || handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded {
			t.Errorf("above the limit: %v", err)
		}
	}
	for _, e := range k.take() {
		if e.Refusal.Check != "guard.waiting" {
			t.Errorf("refused by %s", e.Refusal.Check)
		}
	}
	if asked := k.keys.times(); asked != 2 {
		t.Errorf("%d keys were looked for, want 2", asked)
	}
	tapped := func() error {
		_, err := shedder.Tap(t.Context(), &tap.Info{FullMethodName: payName})
		return err
	}
	if err := tapped(); err != nil {
		t.Errorf("Tap of the first call of a network, while one call waits: %v", err)
	}
	if err := tapped(); handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded {
		t.Errorf("Tap of the second, while one call waits and no processor is busy: %v", err)
	}
	k.keys.stall(nil)
	close(hold)
	for range 3 {
		if err := <-answers; err != nil {
			t.Errorf("in its turn: %v", err)
		}
	}
	pay(1)
	if err := <-answers; err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// After any outcome, a token's place is free again: there is one, and nobody may wait for it.
func TestPlacesAreGivenBack(t *testing.T) {
	k, _ := newSheddingKit(t, overload.Config{MaxInFlight: 1, MaxWaiting: 1})
	call := func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // a busy machine may need some of it
		defer cancel()
		defer func() {
			if recover() != nil {
				err = errors.New("panic")
			}
		}()
		_, err = k.guard.Unary(ctx, payment(), payName, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	incoming := func(value string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", value))
	}
	k.serve(t) // Check has seen the methods
	for range 3 {
		if err := call(t.Context()); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenMissing {
			t.Fatalf("without a token: %v", err)
		}
		if err := call(incoming("Bearer nonsense")); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenInvalid {
			t.Fatalf("with nonsense: %v", err)
		}
		k.keys.shatter(true)
		if err := call(incoming("Bearer " + k.pay(t).Compact())); err == nil || err.Error() != "panic" {
			t.Fatalf("with keys that panic: %v", err)
		}
		k.keys.shatter(false)
		if err := call(incoming("Bearer " + k.pay(t).Compact())); err != nil {
			t.Fatalf("with a token: %v", err)
		}
	}
}

// A hook that panics lets nothing through, and its panic is recovered by what recovers a handler's.
func TestObservePanics(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{Observe: func(context.Context, handoffgrpc.Event) { panic("the hook") }})
	recovered := status.Error(codes.Internal, "recovered")
	client := server2v1.NewInvoiceServiceClient(k.serve(t,
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer func() {
				if recover() == "the hook" {
					resp, err = nil, recovered
				}
			}()
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer func() {
				if recover() == "the hook" {
					err = recovered
				}
			}()
			return next(srv, ss)
		})))
	for _, ctx := range []context.Context{bearer(t, k.pay(t)), t.Context()} {
		if _, err := client.PayInvoice(ctx, payment()); status.Code(err) != codes.Internal {
			t.Errorf("unary: %v", err)
		}
	}
	for _, ctx := range []context.Context{bearer(t, k.export(t)), t.Context()} {
		stream, err := client.ExportPayments(ctx, &server2v1.ExportPaymentsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Internal {
			t.Errorf("stream: %v", err)
		}
	}
	if ran := k.handlers(); len(ran) != 0 {
		t.Errorf("ran %v", ran)
	}
}

func TestNewGuardRefuses(t *testing.T) {
	verifier := newKit(t, handoffgrpc.Config{}).verifier
	for _, c := range []struct {
		field  string
		config handoffgrpc.Config
	}{
		{"Config.Verifier", handoffgrpc.Config{}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{""}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"/"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"//"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"//Check"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"*"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"grpc.health.v1.Health/"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"grpc.health.v1.Health/Check"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"//grpc.health.v1.Health/"}}},
		{"Config.Exempt", handoffgrpc.Config{Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health/Check/"}}},
	} {
		var refused *handoff.ConfigError
		if guard, err := handoffgrpc.NewGuard(c.config); guard != nil || !errors.As(err, &refused) || refused.Field != "handoffgrpc."+c.field {
			t.Errorf("%+v: %v, %v", c.config, guard, err)
		}
	}
}

// A token for another method is refused before the request is named: naming a
// large request is work, and the token is not spent.
func TestAnotherMethodIsRefusedBeforeTheRequestIsNamed(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client := server2v1.NewInvoiceServiceClient(k.serve(t))
	unbindable := with(func(r *server2v1.PayInvoiceRequest) { r.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 0x01}) })
	_, err := client.PayInvoice(bearer(t, k.export(t)), unbindable)
	if handoffgrpc.ReasonOf(err) != handoff.ReasonMethodMismatch {
		t.Errorf("%v, want METHOD_MISMATCH", err)
	}
}
