package handoffconnect_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffconnect"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const (
	audience = "https://billing.example"
	alice    = "u-1"

	get    = server2v1.InvoiceService_GetInvoice_FullMethodName
	list   = server2v1.InvoiceService_ListInvoices_FullMethodName
	pay    = server2v1.InvoiceService_PayInvoice_FullMethodName
	export = server2v1.InvoiceService_ExportPayments_FullMethodName
)

// newInvoiceServiceHandler is what protoc-gen-connect-go generates for a service.
func newInvoiceServiceHandler(svc *service, options ...connect.HandlerOption) (string, http.Handler) {
	handlers := map[string]http.Handler{
		get: connect.NewUnaryHandler(get, svc.get, options...), list: connect.NewUnaryHandler(list, svc.list, options...),
		pay: connect.NewUnaryHandler(pay, svc.pay, options...), export: connect.NewServerStreamHandler(export, svc.export, options...),
	}
	return "/handoff.server2.v1.InvoiceService/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := handlers[r.URL.Path]; ok {
			h.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
}

// service is a billing service on connect-go.
type service struct {
	issuer *handofftest.Issuer
	calls  atomic.Int32
	pays   func(context.Context) error // if set

	mu      sync.Mutex
	revoked error
	spent   map[string]bool
	events  []handoffgrpc.Event
}

func (s *service) granted(ctx context.Context) error {
	s.calls.Add(1)
	if grant, ok := handoff.FromContext(ctx); !ok || grant.Subject() != alice {
		return connect.NewError(connect.CodeInternal, errors.New("no grant"))
	}
	return nil
}

func (s *service) get(ctx context.Context, req *connect.Request[server2v1.GetInvoiceRequest]) (*connect.Response[server2v1.GetInvoiceResponse], error) {
	if err := s.granted(ctx); err != nil {
		return nil, err
	}
	if req.Msg.GetInvoiceId() == "missing" {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such invoice"))
	}
	return connect.NewResponse(&server2v1.GetInvoiceResponse{Invoice: &server2v1.Invoice{InvoiceId: req.Msg.GetInvoiceId()}}), nil
}

func (s *service) list(ctx context.Context, _ *connect.Request[server2v1.ListInvoicesRequest]) (*connect.Response[server2v1.ListInvoicesResponse], error) {
	return connect.NewResponse(&server2v1.ListInvoicesResponse{}), s.granted(ctx)
}

func (s *service) pay(ctx context.Context, req *connect.Request[server2v1.PayInvoiceRequest]) (*connect.Response[server2v1.PayInvoiceResponse], error) {
	if s.pays != nil {
		s.calls.Add(1)
		if err := s.pays(ctx); err != nil {
			return nil, err
		}
	} else if err := s.granted(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(paid(req.Msg.GetInvoiceId())), nil
}

func paid(invoice string) *server2v1.PayInvoiceResponse {
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{PaymentId: "P-" + invoice}}
}

func (s *service) export(ctx context.Context, req *connect.Request[server2v1.ExportPaymentsRequest], to *connect.ServerStream[server2v1.ExportPaymentsResponse]) error {
	if err := s.granted(ctx); err != nil {
		return err
	}
	for _, id := range []string{"P-1", "P-2"} {
		if err := to.Send(&server2v1.ExportPaymentsResponse{Payment: &server2v1.Payment{PaymentId: id}}); err != nil {
			return err
		}
	}
	if !req.Msg.GetFollow() {
		return nil
	}
	<-ctx.Done() // the guard ends it
	return context.Cause(ctx)
}

// Key, Revoked and Redeem make it the trust list and the store.
func (s *service) Key(ctx context.Context, kid string) (handoff.Key, error) {
	key, err := s.issuer.Keys().Key(ctx, kid)
	if err != nil {
		return key, err
	}
	return key.WithRevocations(s), nil
}

func (s *service) Revoked(context.Context, *handoff.Claims) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked
}

func (s *service) Redeem(_ context.Context, r handoff.Redemption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spent[r.ID] {
		return handoff.ErrReplayed
	}
	s.spent[r.ID] = true
	return nil
}

func (s *service) observe(_ context.Context, e handoffgrpc.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *service) last() (e handoffgrpc.Event, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n = len(s.events); n > 0 {
		e = s.events[n-1]
	}
	return e, n
}

// kit is the service behind a guard, on a server over TLS.
type kit struct {
	*service
	guard *handoffconnect.Guard
	mux   *http.ServeMux
	web   *httptest.Server
}

func newKit(t *testing.T, change func(*handoffgrpc.Config), options ...connect.HandlerOption) *kit {
	t.Helper()
	k := &kit{service: &service{issuer: handofftest.NewIssuer(t), spent: map[string]bool{}}, mux: http.NewServeMux()}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{k.issuer.Name(): k.service}, Store: k.service,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := handoffgrpc.Config{Verifier: verifier, Observe: k.observe}
	if change != nil {
		change(&config)
	}
	if k.guard, err = handoffconnect.NewGuard(config); err != nil {
		t.Fatal(err)
	}
	k.mux.Handle(handoffconnect.On(k.guard, newInvoiceServiceHandler, k.service, options...))
	k.web = httptest.NewUnstartedServer(k.mux)
	k.web.EnableHTTP2 = true
	k.web.StartTLS()
	t.Cleanup(k.web.Close)
	return k
}

// open is newKit with a guard that is checked.
func open(t *testing.T, change func(*handoffgrpc.Config), options ...connect.HandlerOption) *kit {
	t.Helper()
	k := newKit(t, change, options...)
	if err := k.guard.Check(k.mux); err != nil {
		t.Fatal(err)
	}
	return k
}

func payment(invoice string) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		RequestId: "00000000-0000-4000-8000-000000000001", InvoiceId: invoice, Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
	}
}

func (k *kit) token(t *testing.T, method string, req proto.Message) string {
	t.Helper()
	return k.issuer.Token(t, audience, alice, method, req)
}

// call makes a unary call with a token, by one of the protocols.
func call[Req, Res any](k *kit, method, raw string, req *Req, protocol ...connect.ClientOption) (*Res, error) {
	client := connect.NewClient[Req, Res](k.web.Client(), k.web.URL+method, protocol...)
	r := connect.NewRequest(req)
	if raw != "" {
		r.Header().Set("Authorization", "Bearer "+raw)
	}
	answer, err := client.CallUnary(context.Background(), r)
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// protocols are the ways in which a handler can be called.
var protocols = map[string][]connect.ClientOption{
	"Connect": nil, "Connect with JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	"Connect with GET": {connect.WithHTTPGet()},
}

// One handoff by each protocol: it runs once, another value is refused, and the
// method's own error comes back as it is.
func TestHandoff(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			k := open(t, nil)
			raw := k.token(t, pay, payment("INV-1"))
			if _, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-2"), protocol...); handoffconnect.ReasonOf(err) != handoff.ReasonFieldMismatch {
				t.Errorf("another invoice: %v", err)
			}
			answer, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1"), protocol...)
			if err != nil || answer.GetPayment().GetPaymentId() != "P-INV-1" {
				t.Errorf("got %v, %v", answer, err)
			}
			_, err = call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1"), protocol...)
			if handoffconnect.ReasonOf(err) != handoff.ReasonTokenReplayed || connect.CodeOf(err) != connect.CodeFailedPrecondition {
				t.Errorf("again: %v", err)
			}
			if _, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, "", payment("INV-1"), protocol...); handoffconnect.ReasonOf(err) != handoff.ReasonTokenMissing {
				t.Errorf("without a token: %v", err)
			}
			missing := &server2v1.GetInvoiceRequest{InvoiceId: "missing"}
			_, err = call[server2v1.GetInvoiceRequest, server2v1.GetInvoiceResponse](k, get, k.token(t, get, missing), missing, protocol...)
			if connect.CodeOf(err) != connect.CodeNotFound || handoffconnect.ReasonOf(err) != 0 {
				t.Errorf("the method's own error: %v", err)
			}
			if n := k.calls.Load(); n != 2 {
				t.Errorf("methods ran %d times, want 2", n)
			}
		})
	}
}

// The kit of attacks, over gRPC and over the Connect protocol.
func TestAttack(t *testing.T) {
	k := open(t, nil)
	roots := x509.NewCertPool()
	roots.AddCert(k.web.Certificate())
	conn, err := grpc.NewClient(k.web.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "example.com"})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for name, conn := range map[string]grpc.ClientConnInterface{"gRPC": conn, "Connect": &connectConn{k}} {
		for _, target := range []handofftest.Target{
			{Method: pay, Request: payment("INV-1")}, {Method: export, Request: &server2v1.ExportPaymentsRequest{}},
		} {
			if name == "Connect" && target.Method == export {
				continue // its streams are tried below
			}
			t.Run(name+target.Method, func(t *testing.T) {
				target.Issuer, target.Audience = k.issuer, audience
				handofftest.Attack(t, conn, target)
			})
		}
	}
}

// connectConn makes a gRPC client's unary calls by the Connect protocol.
type connectConn struct{ k *kit }

func (c *connectConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	client := connect.NewClient[raw, raw](c.k.web.Client(), c.k.web.URL+method, connect.WithCodec(rawCodec{}))
	body, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return err
	}
	r := connect.NewRequest(&raw{body})
	sent, _ := metadata.FromOutgoingContext(ctx)
	for key, values := range sent {
		for _, value := range values {
			r.Header().Add(key, value)
		}
	}
	answer, err := client.CallUnary(ctx, r)
	if err != nil {
		return asStatus(err)
	}
	return proto.Unmarshal(answer.Msg.bytes, reply.(proto.Message))
}

func (c *connectConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("unary only")
}

// raw is a message that is packed already.
type raw struct{ bytes []byte }

type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(m any) ([]byte, error) { return m.(*raw).bytes, nil }
func (rawCodec) Unmarshal(b []byte, m any) error {
	m.(*raw).bytes = slices.Clone(b)
	return nil
}

// A call whose token does not verify is not decoded and meets no interceptor; one
// whose token does passes them all before the guard looks at its request.
func TestOrder(t *testing.T) {
	var decoded, passed atomic.Int32
	change := func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			passed.Add(1)
			if p, ok := req.Any().(*server2v1.PayInvoiceRequest); ok && p.GetMemo() == "change" {
				p.InvoiceId = "INV-666"
			}
			return next(ctx, req)
		}
	}
	k := open(t, nil, connect.WithInterceptors(connect.UnaryInterceptorFunc(change)),
		connect.WithRequestInitializer(func(connect.Spec, any) error { decoded.Add(1); return nil }))
	for _, raw := range []string{"", "x", strings.Repeat("x", 5000)} {
		_, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1"))
		if handoffconnect.ReasonOf(err) == 0 {
			t.Errorf("got %v", err)
		}
	}
	if decoded.Load() != 0 || passed.Load() != 0 {
		t.Errorf("%d requests decoded and %d passed on, of refused calls", decoded.Load(), passed.Load())
	}
	if e, n := k.last(); n != 3 || e.Refusal == nil || e.Method != pay {
		t.Errorf("observed %d, last %+v", n, e)
	}
	changed := payment("INV-1")
	changed.Memo = "change"
	_, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, k.token(t, pay, payment("INV-1")), changed)
	if handoffconnect.ReasonOf(err) != handoff.ReasonFieldMismatch || k.calls.Load() != 0 {
		t.Errorf("a request that an interceptor has changed: %v", err)
	}
}

// follow opens a stream that stays open.
func (k *kit) follow(t *testing.T, protocol ...connect.ClientOption) *connect.ServerStreamForClient[server2v1.ExportPaymentsResponse] {
	t.Helper()
	req := &server2v1.ExportPaymentsRequest{Follow: true}
	client := connect.NewClient[server2v1.ExportPaymentsRequest, server2v1.ExportPaymentsResponse](k.web.Client(), k.web.URL+export, protocol...)
	r := connect.NewRequest(req)
	r.Header().Set("Authorization", "Bearer "+k.token(t, export, req))
	stream, err := client.CallServerStream(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// A stream has its grant, and ends when that is taken back.
func TestStream(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			k := open(t, nil)
			stream := k.follow(t, protocol...)
			for range 2 {
				if !stream.Receive() {
					t.Fatal(stream.Err())
				}
			}
			k.mu.Lock()
			k.revoked = handoff.ErrRevoked
			k.mu.Unlock()
			if stream.Receive() {
				t.Error("a message after the end")
			}
			if reason := handoffconnect.ReasonOf(stream.Err()); reason != handoff.ReasonTokenRevoked {
				t.Errorf("ended with %v", stream.Err())
			}
			if e, n := k.last(); n != 2 || e.Grant == nil || e.Refusal == nil {
				t.Errorf("observed %d, last %+v", n, e)
			}
			// Another value, and no token.
			other := connect.NewClient[server2v1.ExportPaymentsRequest, server2v1.ExportPaymentsResponse](k.web.Client(), k.web.URL+export, protocol...)
			refused, err := other.CallServerStream(t.Context(), connect.NewRequest(&server2v1.ExportPaymentsRequest{}))
			if err == nil {
				refused.Receive()
				err = refused.Err()
			}
			if handoffconnect.ReasonOf(err) != handoff.ReasonTokenMissing {
				t.Errorf("without a token: %v", err)
			}
		})
	}
}

// A spent token that comes again with its request is answered by the hook.
func TestOutcome(t *testing.T) {
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			k := open(t, func(c *handoffgrpc.Config) {
				c.Outcome = func(context.Context, *handoff.Grant) (proto.Message, error) { return paid("first"), nil }
			})
			raw := k.token(t, pay, payment("INV-1"))
			for _, want := range []string{"P-INV-1", "P-first", "P-first"} {
				answer, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1"), protocol...)
				if err != nil || answer.GetPayment().GetPaymentId() != want {
					t.Errorf("got %v, %v, want %s", answer, err, want)
				}
			}
			if n := k.calls.Load(); n != 1 {
				t.Errorf("it ran %d times", n)
			}
		})
	}
}

// What a handler of a deferred method has not redeemed is no answer, here either.
func TestDeferred(t *testing.T) {
	k := open(t, func(c *handoffgrpc.Config) { c.Deferred = []string{pay} })
	k.pays = func(ctx context.Context) error { return nil }
	raw := k.token(t, pay, payment("INV-1"))
	if _, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1")); connect.CodeOf(err) != connect.CodeInternal {
		t.Errorf("a handler that has redeemed nothing: %v", err)
	}
	k.pays = func(ctx context.Context) error {
		if _, ok := handoff.FromContext(ctx); ok {
			t.Error("a grant before the redemption")
		}
		deferred, ok := handoff.DeferredFrom(ctx)
		if !ok {
			t.Fatal("nothing is deferred")
		}
		_, err := deferred.Redeem(ctx, k.Redeem)
		deferred.Settle(err == nil)
		return err
	}
	for _, want := range []handoff.Reason{0, handoff.ReasonTokenReplayed} {
		if _, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, raw, payment("INV-1")); handoffconnect.ReasonOf(err) != want || want == 0 && err != nil {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// Until Check has succeeded nothing runs; and it does not succeed while anything is
// mounted that is neither guarded nor exempt.
func TestCheck(t *testing.T) {
	unchecked := newKit(t, nil)
	_, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](unchecked, pay, unchecked.token(t, pay, payment("INV-1")), payment("INV-1"))
	if handoffconnect.ReasonOf(err) != handoff.ReasonRuleMissing || !strings.Contains(err.Error(), "Check") {
		t.Errorf("before Check: %v", err)
	}
	health := "/" + grpc_health_v1.Health_ServiceDesc.ServiceName + "/"
	for name, c := range map[string]struct {
		mount  func(*kit)
		change func(*handoffgrpc.Config)
		want   string // of the error; empty: none
	}{
		"nothing more":        {func(*kit) {}, nil, ""},
		"a page for the rest": {func(k *kit) { k.mux.Handle("/", http.NotFoundHandler()) }, nil, ""},
		"around, by service":  {func(k *kit) { k.mux = muxOf(newInvoiceServiceHandler(k.service)) }, nil, "around the guard"},
		"around, by method":   {func(k *kit) { k.mux = muxOf("POST "+pay, http.NotFoundHandler()) }, nil, "around the guard"},
		"around, for a host": {func(k *kit) {
			k.mux = muxOf("POST /handoff.server2.v1.InvoiceService/{method}", http.NotFoundHandler())
		}, nil, "around the guard"},
		"no rule":              {func(k *kit) { k.mux.Handle(health, http.NotFoundHandler()) }, nil, "neither a rule nor an entry in Config.Exempt"},
		"exempt":               {func(k *kit) { k.mux.Handle(health, http.NotFoundHandler()) }, func(c *handoffgrpc.Config) { c.Exempt = []string{health} }, ""},
		"exempt, and not here": {func(*kit) {}, func(c *handoffgrpc.Config) { c.Exempt = []string{health} }, "does not have"},
		"no descriptor": {func(k *kit) {
			handoffconnect.On(k.guard, func(*service, ...connect.HandlerOption) (string, http.Handler) {
				return "/nobody.v1.Nobody/", http.NotFoundHandler()
			}, k.service)
		}, nil, "no descriptor"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t, c.change)
			if strings.HasPrefix(name, "around") { // of a guard that has not seen the service
				var err error
				if k.guard, err = handoffconnect.NewGuard(handoffgrpc.Config{Verifier: verifierOf(t, k)}); err != nil {
					t.Fatal(err)
				}
			}
			c.mount(k)
			if err := k.guard.Check(k.mux); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	var wrong *handoff.ConfigError
	if _, err := handoffconnect.NewGuard(handoffgrpc.Config{}); !errors.As(err, &wrong) {
		t.Errorf("without a verifier: %v", err)
	}
}

func muxOf(pattern string, handler http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle(pattern, handler)
	return mux
}

func verifierOf(t *testing.T, k *kit) *handoff.Verifier {
	t.Helper()
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{k.issuer.Name(): k.service}, Store: k.service,
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// A handler that a guard was put in, but that something else has served, runs nothing.
func TestServedAround(t *testing.T) {
	k := open(t, nil)
	var inner http.Handler
	handoffconnect.On(k.guard, func(s *service, options ...connect.HandlerOption) (string, http.Handler) {
		pattern, handler := newInvoiceServiceHandler(s, options...)
		inner = handler
		return pattern, handler
	}, k.service)
	k.web.Config.Handler = inner
	_, err := call[server2v1.PayInvoiceRequest, server2v1.PayInvoiceResponse](k, pay, k.token(t, pay, payment("INV-1")), payment("INV-1"))
	if handoffconnect.ReasonOf(err) != handoff.ReasonRuleMissing {
		t.Errorf("got %v", err)
	}
	client := connect.NewClient[server2v1.ExportPaymentsRequest, server2v1.ExportPaymentsResponse](k.web.Client(), k.web.URL+export)
	stream, err := client.CallServerStream(t.Context(), connect.NewRequest(&server2v1.ExportPaymentsRequest{}))
	if err == nil {
		stream.Receive()
		err = stream.Err()
	}
	if handoffconnect.ReasonOf(err) != handoff.ReasonRuleMissing || k.calls.Load() != 0 {
		t.Errorf("a stream: %v", err)
	}
}

// The header is one, and of one spelling, as gRPC's guard wants it.
func TestHeaders(t *testing.T) {
	k := open(t, nil)
	good := k.token(t, get, &server2v1.GetInvoiceRequest{InvoiceId: "INV-1"})
	for name, c := range map[string]struct {
		header http.Header
		want   handoff.Reason
	}{
		"good":                    {http.Header{"Authorization": {"Bearer " + good}}, 0},
		"two":                     {http.Header{"Authorization": {"Bearer " + good, "Bearer " + good}}, handoff.ReasonTokenInvalid},
		"another scheme":          {http.Header{"Authorization": {"bearer " + good}}, handoff.ReasonTokenInvalid},
		"another header":          {http.Header{"Handoff-Token": {good}}, handoff.ReasonTokenMissing},
		"both headers":            {http.Header{"Authorization": {"Bearer " + good}, "Handoff-Token": {good}}, handoff.ReasonTokenInvalid},
		"authorization in binary": {http.Header{"Authorization": {"Bearer " + good}, "Authorization-Bin": {"AAAA"}}, handoff.ReasonTokenInvalid},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k.web.URL+get, strings.NewReader(`{"invoiceId": "INV-1"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = c.header
		r.Header.Set("Content-Type", "application/json")
		response, err := k.web.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if e, _ := k.last(); (response.StatusCode == http.StatusOK) != (c.want == 0) || e.Refusal != nil && e.Refusal.Reason != c.want {
			t.Errorf("%s: %d, %+v", name, response.StatusCode, e)
		}
	}
}

// asStatus is a Connect error as gRPC's clients have one.
func asStatus(err error) error {
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return err
	}
	told := &spb.Status{Code: int32(answer.Code()), Message: answer.Message()}
	for _, detail := range answer.Details() {
		told.Details = append(told.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + detail.Type(), Value: detail.Bytes()})
	}
	return status.FromProto(told).Err()
}
