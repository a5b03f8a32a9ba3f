package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health/grpc_health_v1" // whose methods carry no rules
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handoffweb/rpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer   = "https://shop.example"
	audience = "https://billing.example"
	alice    = "user-1"

	get    = server2v1.InvoiceService_GetInvoice_FullMethodName
	list   = server2v1.InvoiceService_ListInvoices_FullMethodName
	export = server2v1.InvoiceService_ExportPayments_FullMethodName
	pay    = server2v1.InvoiceService_PayInvoice_FullMethodName
)

// kit is a guarded server, and the calls into it over HTTPS.
type kit struct {
	server2v1.UnimplementedInvoiceServiceServer

	key     *forge.Key
	handler *rpc.Handler
	web     *httptest.Server
	taps    atomic.Int32 // calls that the server's tap has seen
	calls   atomic.Int32 // calls that a handler has seen
	dialled atomic.Int32
	refused atomic.Pointer[rpc.Event]
	hold    chan struct{} // ends the streams

	mu      sync.Mutex
	revoked error
	seen    metadata.MD // of the last call
}

func (k *kit) Key(_ context.Context, kid string) (handoff.Key, error) {
	if kid != k.key.Public.ID() {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return k.key.Public.WithRevocations(k), nil
}

func (k *kit) Revoked(context.Context, *handoff.Claims) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.revoked
}

func (*kit) Redeem(context.Context, handoff.Redemption) error { return nil }

func (k *kit) GetInvoice(ctx context.Context, req *server2v1.GetInvoiceRequest) (*server2v1.GetInvoiceResponse, error) {
	k.calls.Add(1)
	k.mu.Lock()
	k.seen, _ = metadata.FromIncomingContext(ctx)
	k.mu.Unlock()
	switch req.GetInvoiceId() {
	case "missing":
		return nil, status.Error(codes.NotFound, "the user has no such invoice")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &server2v1.GetInvoiceResponse{Invoice: &server2v1.Invoice{InvoiceId: req.GetInvoiceId(), Amount: &server2v1.Money{MinorUnits: 1 << 60}}}, nil
}

func (k *kit) PayInvoice(context.Context, *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	k.calls.Add(1)
	return &server2v1.PayInvoiceResponse{}, nil
}

func (k *kit) ExportPayments(req *server2v1.ExportPaymentsRequest, stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error {
	k.calls.Add(1)
	for _, id := range []string{"P-1", "P-2"} {
		if err := stream.Send(&server2v1.ExportPaymentsResponse{Payment: &server2v1.Payment{PaymentId: id}}); err != nil {
			return err
		}
	}
	if !req.GetFollow() {
		return nil
	}
	select {
	case <-k.hold:
		return nil
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func newKit(t *testing.T, change ...func(*rpc.Config)) *kit {
	t.Helper()
	k := &kit{key: forge.NewKey(handoff.EdDSA), hold: make(chan struct{})}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{Audience: audience, Issuers: map[string]handoff.KeySource{issuer: k}, Store: k})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.MaxConcurrentStreams(100), grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		k.taps.Add(1)
		return ctx, nil
	}))
	server2v1.RegisterInvoiceServiceServer(guard.On(server), k)
	if err := guard.Check(server); err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	config := rpc.Config{
		Connect: func() (*grpc.ClientConn, error) {
			k.dialled.Add(1)
			return grpc.NewClient("passthrough:///memory",
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
				grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		Verifier: verifier,
		Observe:  func(_ context.Context, e rpc.Event) { k.refused.Store(&e) },
	}
	for _, change := range change {
		change(&config)
	}
	calls, err := rpc.New(config)
	if err != nil {
		t.Fatal(err)
	}
	k.handler = calls
	k.web = httptest.NewUnstartedServer(http.StripPrefix("/rpc", calls))
	k.web.EnableHTTP2 = true
	k.web.StartTLS()
	t.Cleanup(func() {
		if err := calls.Close(); err != nil {
			t.Error(err)
		}
		k.web.CloseClientConnections()
		k.web.Close()
		server.Stop()
	})
	return k
}

// visit is one that names these methods.
func (k *kit) visit(methods ...string) string { return k.visitOf(alice, methods...) }

func (k *kit) visitOf(subject string, methods ...string) string {
	return forge.GoodVisit(forge.Params{
		Key: k.key, Issuer: issuer, Audience: audience, Subject: subject, Session: handoff.NewID(), IssuedAt: time.Now(), Lifetime: 15 * time.Minute,
	}, methods...).Compact()
}

// own is the headers of the app's own call.
func own(raw string, more ...string) []string {
	return append([]string{
		"Cookie", "__Host-visit=" + raw, "Content-Type", "application/json",
		"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty",
	}, more...)
}

type answer struct {
	*http.Response
	body string
}

// open sends a call with exactly these headers.
func (k *kit) open(t *testing.T, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, k.web.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := k.web.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func (k *kit) call(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	response := k.open(t, method, path, body, headers...)
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response, string(text)}
}

// refusal is what the Connect protocol says of an error.
type refusal struct {
	Code    string
	Details []struct {
		Type  string
		Debug struct{ Reason, Domain string }
	}
}

func (a answer) wants(t *testing.T, what string, httpStatus int, code string, reason handoff.Reason) {
	t.Helper()
	var r refusal
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		t.Fatalf("%s: %d %q: %v", what, a.StatusCode, a.body, err)
	}
	got := ""
	for _, d := range r.Details {
		if d.Type == "google.rpc.ErrorInfo" && d.Debug.Domain == "handoff.v1" {
			got = d.Debug.Reason
		}
	}
	want := ""
	if reason != 0 {
		want = reason.String()
	}
	if a.StatusCode != httpStatus || r.Code != code || got != want {
		t.Errorf("%s: %d %s, want %d %s with %q", what, a.StatusCode, a.body, httpStatus, code, want)
	}
	for name := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s: the answer has %s", what, name)
		}
	}
	if strings.Contains(a.body, "eyJ") {
		t.Errorf("%s: the answer has a token", what)
	}
}

// J08: a call passes all that others' do, and nothing but its message and its visit does.
func TestJ08Calls(t *testing.T) {
	k := newKit(t)
	raw := k.visit(get)
	a := k.call(t, "POST", "/rpc"+get, `{"invoiceId":"INV-42"}`, own(raw, "X-Other", "x", "Cookie", "other=1")...)
	if a.StatusCode != 200 || !strings.Contains(a.body, `"INV-42"`) || !strings.Contains(a.body, `"1152921504606846976"`) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for name := range k.seen {
		if !strings.HasPrefix(name, ":") && name != "authorization" && name != "content-type" && name != "user-agent" && name != "grpc-accept-encoding" {
			t.Errorf("the handler sees %s", name)
		}
	}
	if k.taps.Load() != 1 || k.calls.Load() != 1 {
		t.Errorf("%d calls passed the tap, %d came to a handler", k.taps.Load(), k.calls.Load())
	}
	binary := k.call(t, "POST", "/rpc"+get, "\n\x06INV-42", with(own(raw), "Content-Type", "application/proto")...)
	var response server2v1.GetInvoiceResponse
	if err := proto.Unmarshal([]byte(binary.body), &response); err != nil || response.GetInvoice().GetInvoiceId() != "INV-42" {
		t.Errorf("in binary: %d %q", binary.StatusCode, binary.body)
	}
	k.call(t, "POST", "/rpc"+get, `{"invoiceId":"missing"}`, own(raw)...).wants(t, "the handler's own error", 404, "not_found", 0)
	k.call(t, "POST", "/rpc"+get, `{"invoiceId":"slow"}`, own(raw, "Connect-Timeout-Ms", "50")...).wants(t, "a deadline", 504, "deadline_exceeded", 0)
	if k.refused.Load() != nil {
		t.Errorf("told of %+v", k.refused.Load())
	}
}

// The methods are those for which the guard has rules, with those of an overlay.
func TestMethods(t *testing.T) {
	const unruled = "/grpc.health.v1.Health/Check"
	set, err := rule.Linked().Overlay([]byte(`{"rules": {"` + unruled + `": {"reusable": true, "visit": true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, methods := range []*rule.Set{nil, set} {
		k := newKit(t, func(c *rpc.Config) { c.Methods = methods })
		a := k.call(t, "POST", "/rpc"+unruled, "{}", own(k.visit(get))...)
		refused := k.refused.Load()
		if known := refused == nil || refused.Method == unruled; known != (methods != nil) {
			t.Errorf("with an overlay %t: %d %s", methods != nil, a.StatusCode, a.body)
		}
	}
}

func with(headers []string, name, value string) []string {
	headers = append([]string{}, headers...)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == name {
			headers[i+1] = value
			return headers
		}
	}
	return append(headers, name, value)
}

func without(headers []string, name string) (rest []string) {
	for i := 0; i < len(headers); i += 2 {
		if headers[i] != name {
			rest = append(rest, headers[i], headers[i+1])
		}
	}
	return rest
}

// J07: what is not the app's own fetch, or carries more than its cookie, reaches no
// server.
func TestJ07OnlyTheApp(t *testing.T) {
	k := newKit(t)
	raw := k.visit(get)
	const missing, invalid, bad = handoff.ReasonTokenMissing, handoff.ReasonTokenInvalid, handoff.ReasonArgumentInvalid
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		status  int
		code    string
		reason  handoff.Reason
	}{
		{"cookie and Authorization", "POST", own(raw, "Authorization", "Bearer "+raw), 401, "unauthenticated", invalid},
		{"Authorization alone", "POST", without(own(raw, "Authorization", "Bearer "+raw), "Cookie"), 401, "unauthenticated", invalid},
		{"an empty Authorization", "POST", own(raw, "Authorization", ""), 401, "unauthenticated", invalid},
		{"no cookie", "POST", without(own(raw), "Cookie"), 401, "unauthenticated", missing},
		{"a cookie under another name", "POST", with(own(raw), "Cookie", "visit="+raw), 401, "unauthenticated", missing},
		{"two cookies", "POST", with(own(raw), "Cookie", "__Host-visit="+raw+"; __Host-visit="+raw), 401, "unauthenticated", invalid},
		{"an empty cookie", "POST", with(own(raw), "Cookie", "__Host-visit="), 401, "unauthenticated", invalid},
		{"garbage in the cookie", "POST", with(own(raw), "Cookie", "__Host-visit=x"), 401, "unauthenticated", invalid},
		{"another origin's fetch", "POST", with(with(own(raw), "Sec-Fetch-Site", "cross-site"), "Origin", "https://evil.example"), 400, "invalid_argument", bad},
		{"a sibling's fetch", "POST", with(own(raw), "Sec-Fetch-Site", "same-site"), 400, "invalid_argument", bad},
		{"no page's", "POST", with(own(raw), "Sec-Fetch-Site", "none"), 400, "invalid_argument", bad},
		{"a browser that does not say whose", "POST", without(own(raw), "Sec-Fetch-Site"), 400, "invalid_argument", bad},
		{"said twice", "POST", own(raw, "Sec-Fetch-Site", "same-origin"), 400, "invalid_argument", bad},
		{"a form", "POST", with(with(own(raw), "Sec-Fetch-Mode", "navigate"), "Sec-Fetch-Dest", "document"), 400, "invalid_argument", bad},
		{"a frame", "POST", with(own(raw), "Sec-Fetch-Dest", "iframe"), 400, "invalid_argument", bad},
		{"without CORS", "POST", with(own(raw), "Sec-Fetch-Mode", "no-cors"), 400, "invalid_argument", bad},
		{"a websocket", "GET", with(with(own(raw, "Connection", "Upgrade", "Upgrade", "websocket"), "Sec-Fetch-Mode", "websocket"), "Sec-Fetch-Dest", "websocket"), 400, "invalid_argument", bad},
		{"a GET", "GET", own(raw), 400, "invalid_argument", bad},
		{"a preflight", "OPTIONS", with(own(raw, "Access-Control-Request-Method", "POST"), "Origin", "https://evil.example"), 400, "invalid_argument", bad},
		{"a PUT", "PUT", own(raw), 400, "invalid_argument", bad},
		{"text", "POST", with(own(raw), "Content-Type", "text/plain"), 400, "invalid_argument", bad},
		{"urlencoded", "POST", with(own(raw), "Content-Type", "application/x-www-form-urlencoded"), 400, "invalid_argument", bad},
		{"multipart", "POST", with(own(raw), "Content-Type", "multipart/form-data; boundary=x"), 400, "invalid_argument", bad},
		{"gRPC", "POST", with(own(raw), "Content-Type", "application/grpc"), 400, "invalid_argument", bad},
		{"gRPC-Web", "POST", with(own(raw), "Content-Type", "application/grpc-web+proto"), 400, "invalid_argument", bad},
		{"no type", "POST", without(own(raw), "Content-Type"), 400, "invalid_argument", bad},
		{"two types", "POST", own(raw, "Content-Type", "application/proto"), 400, "invalid_argument", bad},
	} {
		k.refused.Store(nil)
		var a answer
		if headers := c.headers; strings.HasPrefix(c.name, "a websocket") {
			a = k.call(t, c.method, "/rpc"+get, "", without(without(headers, "Connection"), "Upgrade")...)
		} else {
			a = k.call(t, c.method, "/rpc"+get, `{"invoiceId":"INV-42"}`, headers...)
		}
		a.wants(t, c.name, c.status, c.code, c.reason)
		if e := k.refused.Load(); e == nil || e.Refusal.Reason != c.reason || strings.Contains(fmt.Sprintf("%+v %v", e, e.Refusal), "eyJ") {
			t.Errorf("%s: told of %+v", c.name, e)
		}
	}
	for _, path := range []string{"/rpc/", "/rpc", "/rpc/a.B/C", "/rpc" + get + "/", "/rpc/" + get, "/rpc" + strings.ToLower(get), "/rpc/handoff.v1.HandoffService/IssueHandoff", "/rpc/grpc.health.v1.Health/Check"} {
		k.call(t, "POST", path, `{}`, own(raw)...).wants(t, path, 403, "permission_denied", handoff.ReasonRuleMissing)
	}
	if k.taps.Load() != 0 || k.dialled.Load() != 0 {
		t.Errorf("%d calls reached the server", k.taps.Load())
	}
}

// J10, J06: a visit does what it names and its rule allows, and a handoff is none.
func TestJ10J06Visits(t *testing.T) {
	k := newKit(t)
	op := handoff.Operation{Method: get, Bound: []handoff.Field{{Path: "invoice_id", Value: "INV-42"}}}
	plain := forge.Good(forge.Params{
		Key: k.key, Issuer: issuer, Audience: audience, Subject: alice, Operation: op, IssuedAt: time.Now(), Lifetime: time.Minute,
	}).Compact()
	k.call(t, "POST", "/rpc"+get, `{"invoiceId":"INV-42"}`, own(plain)...).wants(t, "a handoff as a visit", 401, "unauthenticated", handoff.ReasonTokenInvalid)
	k.call(t, "POST", "/rpc"+list, `{}`, own(k.visit(get))...).wants(t, "a method that it does not name", 403, "permission_denied", handoff.ReasonMethodMismatch)
	k.call(t, "POST", "/rpc"+pay, `{"invoiceId":"INV-42"}`, own(k.visit(get, pay))...).wants(t, "a method that takes no visit", 403, "permission_denied", handoff.ReasonMethodMismatch)
	foreign := forge.GoodVisit(forge.Params{
		Key: forge.NewKey(handoff.EdDSA), Issuer: issuer, Audience: audience, Subject: alice, Session: handoff.NewID(), IssuedAt: time.Now(), Lifetime: time.Minute,
	}, get).Compact()
	k.call(t, "POST", "/rpc"+get, `{}`, own(foreign)...).wants(t, "signed by nobody known", 401, "unauthenticated", handoff.ReasonTokenInvalid)
	k.mu.Lock()
	k.revoked = handoff.ErrRevoked
	k.mu.Unlock()
	k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...).wants(t, "taken back", 401, "unauthenticated", handoff.ReasonTokenRevoked)
	k.mu.Lock()
	k.revoked = errors.New("old")
	k.mu.Unlock()
	k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...).wants(t, "stale", 503, "unavailable", handoff.ReasonTrustStale)
	if k.calls.Load() != 0 {
		t.Errorf("%d calls reached a handler", k.calls.Load())
	}
}

// J09: messages are bounded, not compressed, and have no member too many.
func TestJ09Messages(t *testing.T) {
	k := newKit(t, func(c *rpc.Config) { c.MaxBytes = 1 << 10 })
	raw := k.visit(get)
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		"too long":               {`{"invoiceId":"` + strings.Repeat("x", 1<<10) + `"}`, own(raw), 429, "resource_exhausted"},
		"an unknown member":      {`{"invoiceId":"INV-42","admin":true}`, own(raw), 400, "invalid_argument"},
		"a member twice":         {`{"invoiceId":"INV-42","invoiceId":"INV-43"}`, own(raw), 400, "invalid_argument"},
		"a member in two names":  {`{"invoiceId":"INV-42","invoice_id":"INV-43"}`, own(raw), 400, "invalid_argument"},
		"two documents":          {`{"invoiceId":"INV-42"}{}`, own(raw), 400, "invalid_argument"},
		"no JSON":                {`INV-42`, own(raw), 400, "invalid_argument"},
		"nothing":                {``, own(raw), 400, "invalid_argument"},
		"compressed":             {"\x1f\x8b", own(raw, "Content-Encoding", "gzip"), 501, "unimplemented"},
		"no such protocol":       {`{}`, own(raw, "Connect-Protocol-Version", "2"), 400, "invalid_argument"},
		"an unending deadline":   {`{}`, own(raw, "Connect-Timeout-Ms", "99999999999999"), 400, "invalid_argument"},
		"a message of a stream":  {"\x00\x00\x00\x00\x02{}", with(own(raw), "Content-Type", "application/connect+json"), 415, ""},
		"in JSON with a charset": {`{"invoiceId":"INV-42","admin":true}`, with(own(raw), "Content-Type", "application/json; charset=utf-8"), 400, "invalid_argument"},
	} {
		a := k.call(t, "POST", "/rpc"+get, c.body, c.headers...)
		if c.code == "" {
			if a.StatusCode != c.status {
				t.Errorf("%s: %d", name, a.StatusCode)
			}
			continue
		}
		a.wants(t, name, c.status, c.code, 0)
	}
	if k.calls.Load() != 0 {
		t.Errorf("%d calls reached a handler", k.calls.Load())
	}
}

// frames reads the messages of a stream, and its end.
type frames struct{ from io.Reader }

func (f frames) next(t *testing.T) (flags byte, text string) {
	t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(f.from, head[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(f.from, body); err != nil {
		t.Fatal(err)
	}
	return head[0], string(body)
}

func (k *kit) stream(t *testing.T, raw, message string) frames {
	t.Helper()
	var body bytes.Buffer
	body.Write(append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...))
	body.WriteString(message)
	r := k.open(t, "POST", "/rpc"+export, body.String(), with(own(raw), "Content-Type", "application/connect+json")...)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/connect+json" {
		text, _ := io.ReadAll(r.Body)
		t.Fatalf("%d %s", r.StatusCode, text)
	}
	return frames{r.Body}
}

// A stream comes as it is sent, and ends as the server ends it: also when the visit is
// taken back.
func TestStreams(t *testing.T) {
	k := newKit(t)
	raw := k.visit(export)
	whole := k.stream(t, raw, `{}`)
	for _, want := range []string{"P-1", "P-2"} {
		if flags, text := whole.next(t); flags != 0 || !strings.Contains(text, want) {
			t.Errorf("%d %s, want %s", flags, text, want)
		}
	}
	if flags, text := whole.next(t); flags != 2 || strings.Contains(text, "error") {
		t.Errorf("the end: %d %s", flags, text)
	}
	open := k.stream(t, raw, `{"follow":true}`)
	open.next(t) // while the stream is open
	open.next(t)
	k.mu.Lock()
	k.revoked = handoff.ErrRevoked
	k.mu.Unlock()
	refused := k.stream(t, raw, `{}`)
	if flags, text := refused.next(t); flags != 2 || !strings.Contains(text, "TOKEN_REVOKED") || !strings.Contains(text, `"unauthenticated"`) {
		t.Errorf("refused: %d %s", flags, text)
	}
}

// J08: streams that stay open do not hold up other calls: a connection takes a hundred, and
// then there is another. A user has their share of them, by however many visits, and all
// have a bound.
func TestJ08StreamsHoldNothingUp(t *testing.T) {
	k := newKit(t, func(c *rpc.Config) { c.MaxOpen = 130 })
	follow := func(raw string) {
		s := k.stream(t, raw, `{"follow":true}`)
		s.next(t)
	}
	one := k.visit(export, get)
	for range 8 {
		follow(one)
		follow(k.visit(export, get))
	}
	for what, raw := range map[string]string{"a 17th call of a visit": one, "a call of another visit of the same user": k.visit(get)} {
		k.call(t, "POST", "/rpc"+get, `{}`, own(raw)...).wants(t, what, 429, "resource_exhausted", handoff.ReasonLimitExceeded)
	}
	for i := range 7 {
		raw := k.visitOf(fmt.Sprintf("user-%d", i+2), export)
		for range 16 {
			follow(raw)
		}
	}
	a := k.call(t, "POST", "/rpc"+get, `{"invoiceId":"INV-42"}`, own(k.visitOf("user-9", get))...)
	if a.StatusCode != 200 {
		t.Errorf("beside 128 streams: %d %s", a.StatusCode, a.body)
	}
	if k.dialled.Load() != 2 {
		t.Errorf("%d connections for 129 calls", k.dialled.Load())
	}
	last := k.visitOf("user-10", export, get)
	follow(last)
	follow(last)
	k.call(t, "POST", "/rpc"+get, `{}`, own(k.visitOf("user-11", get))...).wants(t, "a 131st call", 429, "resource_exhausted", handoff.ReasonLimitExceeded)
	close(k.hold)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if k.call(t, "POST", "/rpc"+get, `{}`, own(one)...).StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("calls that have ended still count")
		}
	}
}

// I01: a request that does not come holds no call's place, and few networks keep no
// other's out. What is signed by nobody known holds nothing in anybody's name.
func TestI01Arriving(t *testing.T) {
	k := newKit(t, func(c *rpc.Config) { c.MaxOpen, c.MaxOpenOfUser = 2, 1 })
	raw := k.visit(get)
	begin := func() (end func()) {
		body, more := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), "POST", k.web.URL+"/rpc"+get, body)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := 0, own(raw); i < len(h); i += 2 {
			r.Header.Add(h[i], h[i+1])
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			if response, err := k.web.Client().Do(r); err == nil {
				_ = response.Body.Close()
			}
		}()
		_, _ = more.Write([]byte("{"))
		return func() { _ = more.CloseWithError(io.ErrUnexpectedEOF); <-answered }
	}
	var ends []func()
	for range 8 { // more than there are places
		ends = append(ends, begin())
	}
	if a := k.call(t, "POST", "/rpc"+get, `{"invoiceId":"INV-42"}`, own(raw)...); a.StatusCode != 200 {
		t.Errorf("beside requests that do not come: %d %s", a.StatusCode, a.body)
	}
	for _, end := range ends {
		end()
	}

	forged := forge.GoodVisit(forge.Params{
		Key: forge.NewKey(handoff.EdDSA), Issuer: issuer, Audience: audience, Subject: alice, Session: handoff.NewID(), IssuedAt: time.Now(), Lifetime: time.Minute,
	}, get).Compact()
	taps := k.taps.Load()
	for range 20 {
		k.call(t, "POST", "/rpc"+get, `{}`, own(forged)...).wants(t, "forged", 401, "unauthenticated", handoff.ReasonTokenInvalid)
	}
	if k.taps.Load() != taps {
		t.Error("a forged visit reached the server")
	}
}

// I01: a body that is longer than a call takes, and does not come whole, holds no
// connection: net/http waits for the rest, and not for ever.
func TestI01TooLongAndNotWhole(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(c *rpc.Config) { c.MaxBytes = 1 << 10 })
	trusted := x509.NewCertPool()
	trusted.AddCert(k.web.Certificate())
	conn, err := tls.Dial("tcp", k.web.Listener.Addr().String(), &tls.Config{RootCAs: trusted, ServerName: "example.com", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head := "POST /rpc" + get + " HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4096\r\n"
	for i, h := 0, own(k.visit(get)); i < len(h); i += 2 {
		head += h[i] + ": " + h[i+1] + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"+strings.Repeat(" ", 2000)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil {
		t.Errorf("after %q: %v", answer, err)
	}
}

// I01: a visit that does not count any more, which somebody else may have, takes none of
// its user's places.
func TestI01DeadVisitsTakeNoPlaces(t *testing.T) {
	k := newKit(t, func(c *rpc.Config) { c.MaxOpenOfUser = 1 })
	dead := forge.GoodVisit(forge.Params{
		Key: k.key, Issuer: issuer, Audience: audience, Subject: alice, Session: handoff.NewID(), IssuedAt: time.Now().Add(-2 * time.Hour), Lifetime: time.Hour,
	}, get).Compact()
	k.stream(t, k.visit(export), `{"follow":true}`).next(t) // it is open
	k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...).wants(t, "a second call of the user", 429, "resource_exhausted", handoff.ReasonLimitExceeded)
	k.call(t, "POST", "/rpc"+get, `{}`, own(dead)...).wants(t, "by a visit that has expired", 401, "unauthenticated", handoff.ReasonTokenExpired)
	close(k.hold)
}

// I01: one network has a share of the requests that are being read.
func TestI01OneNetworksRequests(t *testing.T) {
	k := newKit(t)
	began := make(chan struct{})
	stuck := func() io.ReadCloser { return io.NopCloser(silent{began, t.Context()}) }
	ask := func(address string, body io.ReadCloser) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "https://billing.example"+get, body)
		r.RemoteAddr = address
		for i, h := 0, own(k.visit(get)); i < len(h); i += 2 {
			r.Header.Add(h[i], h[i+1])
		}
		w := httptest.NewRecorder()
		k.handler.ServeHTTP(w, r)
		return w
	}
	for range 64 { // a quarter of all
		go ask("192.0.2.1:1", stuck())
		<-began
	}
	if w := ask("192.0.2.1:2", io.NopCloser(strings.NewReader("{}"))); w.Code != 429 || !strings.Contains(w.Body.String(), "LIMIT_EXCEEDED") {
		t.Errorf("a 65th of a network: %d %s", w.Code, w.Body)
	}
	if w := ask("192.0.2.2:1", io.NopCloser(strings.NewReader("{}"))); w.Code != 200 {
		t.Errorf("of another network: %d %s", w.Code, w.Body)
	}
}

// silent says that it is read, and has nothing until the test ends.
type silent struct {
	began chan<- struct{}
	until context.Context
}

func (s silent) Read([]byte) (int, error) {
	s.began <- struct{}{}
	<-s.until.Done()
	return 0, io.ErrUnexpectedEOF
}

// J08: a visit is verified when its turn comes.
func TestJ08Turns(t *testing.T) {
	asked, ended := 0, 0
	var full error
	k := newKit(t, func(c *rpc.Config) {
		c.Admit = func(ctx context.Context) (func(), error) {
			if p, ok := peer.FromContext(ctx); !ok || !strings.HasPrefix(p.Addr.String(), "127.0.0.1:") {
				t.Error("a turn is asked for nobody's network")
			}
			asked++
			return func() { ended++ }, full
		}
	})
	if a := k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...); a.StatusCode != 200 || asked != 1 || ended != 1 {
		t.Errorf("%d, %d turns asked for, %d ended", a.StatusCode, asked, ended)
	}
	full = errors.New("too many wait")
	k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...).wants(t, "no turn", 429, "resource_exhausted", handoff.ReasonLimitExceeded)
	if k.taps.Load() != 1 {
		t.Error("a call without a turn reached the server")
	}
}

// A server that stops ends what is open, and still answers.
func TestDrain(t *testing.T) {
	k := newKit(t)
	s := k.stream(t, k.visit(export), `{"follow":true}`)
	s.next(t)
	s.next(t)
	k.handler.Drain()
	if flags, text := s.next(t); flags != 2 || !strings.Contains(text, `"unavailable"`) {
		t.Errorf("%d %s", flags, text)
	}
	s = k.stream(t, k.visit(export), `{"follow":true}`)
	flags, text := s.next(t)
	for flags == 0 { // what was on its way
		flags, text = s.next(t)
	}
	if flags != 2 || !strings.Contains(text, `"unavailable"`) {
		t.Errorf("a new one: %d %s", flags, text)
	}
	if a := k.call(t, "POST", "/rpc"+get, `{}`, own(k.visit(get))...); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestConfig(t *testing.T) {
	connect := func() (*grpc.ClientConn, error) { return nil, nil }
	for field, config := range map[string]rpc.Config{
		"rpc.Config.Connect":       {},
		"rpc.Config.Verifier":      {Connect: connect},
		"rpc.Config.MaxBytes":      {Connect: connect, Verifier: &handoff.Verifier{}, MaxBytes: -1},
		"rpc.Config.MaxOpen":       {Connect: connect, Verifier: &handoff.Verifier{}, MaxOpen: -1},
		"rpc.Config.MaxOpenOfUser": {Connect: connect, Verifier: &handoff.Verifier{}, MaxOpenOfUser: -1},
	} {
		_, err := rpc.New(config)
		var refused *handoff.ConfigError
		if !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
