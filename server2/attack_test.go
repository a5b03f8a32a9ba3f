package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
)

const (
	payMethod    = server2v1.InvoiceService_PayInvoice_FullMethodName
	getMethod    = server2v1.InvoiceService_GetInvoice_FullMethodName
	exportMethod = server2v1.InvoiceService_ExportPayments_FullMethodName
)

func payment(invoice string, minorUnits int64, request int) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: invoice, Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: minorUnits},
		RequestId: fmt.Sprintf("3f2b8c1e-9d4a-4e6f-8a7b-%012d", request),
	}
}

func wantReason(t *testing.T, what string, err error, want handoff.Reason) {
	t.Helper()
	if got := handoffgrpc.ReasonOf(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// The whole life of handoffs at SERVER2, through TLS, guard, handler and ledger.
func TestHandoffs(t *testing.T) {
	t.Parallel()
	testHandoffs(t, startWith(t, nil))
}

func testHandoffs(t *testing.T, r *running) {
	ctx := t.Context()
	pay := func(req *server2v1.PayInvoiceRequest, raw string) (*server2v1.PayInvoiceResponse, error) {
		return r.client.PayInvoice(ctx, req, handoffgrpc.Token(raw))
	}
	req := payment("INV-42", 1200, 1)
	raw := token(t, r.issuer, payMethod, req, nil)
	req.Memo = "free"
	first, err := pay(req, raw)
	if err != nil {
		t.Fatal(err, r.log)
	}
	if again, err := pay(req, raw); err != nil || !proto.Equal(again, first) {
		t.Error("the same token again is not given the first answer:", again, err)
	}
	again, err := pay(req, token(t, r.issuer, payMethod, req, nil))
	if err != nil || !again.GetRepeatedRequest() || again.GetPayment().GetPaymentId() != first.GetPayment().GetPaymentId() {
		t.Error("the same request by another handoff:", again, err)
	}

	_, err = pay(payment("INV-42", 1, 1), token(t, r.issuer, payMethod, req, nil))
	wantReason(t, "another amount", err, handoff.ReasonFieldMismatch)
	get := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	_, err = r.client.GetInvoice(ctx, get, handoffgrpc.Token(token(t, r.issuer, payMethod, req, nil)))
	wantReason(t, "another method", err, handoff.ReasonMethodMismatch)
	_, err = pay(req, token(t, r.issuer, payMethod, req, func(p *handoff.IssueParams) { p.Audience = "https://other.test" }))
	wantReason(t, "another audience", err, handoff.ReasonAudienceMismatch)
	_, err = r.client.PayInvoice(ctx, req)
	wantReason(t, "no token", err, handoff.ReasonTokenMissing)

	bobs := payment("INV-43", 1200, 2)
	if _, err = pay(bobs, token(t, r.issuer, payMethod, bobs, nil)); status.Code(err) != codes.NotFound {
		t.Error("bob's invoice:", err)
	}
	reusable := token(t, r.issuer, getMethod, get, nil)
	for range 2 {
		if got, err := r.client.GetInvoice(ctx, get, handoffgrpc.Token(reusable)); err != nil || got.GetInvoice().GetPayment().GetMemo() != "free" {
			t.Error("a reusable token:", got, err)
		}
	}
	everything := &server2v1.ExportPaymentsRequest{}
	stream, err := r.client.ExportPayments(ctx, everything, handoffgrpc.Token(token(t, r.issuer, exportMethod, everything, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if exported, err := stream.Recv(); err != nil || exported.GetPayment().GetPaymentId() != first.GetPayment().GetPaymentId() {
		t.Error("the export:", exported, err)
	}
}

// Every hostile token and header that handofftest knows, on the whole program.
func TestAttack(t *testing.T) {
	t.Parallel()
	issuer := handofftest.NewIssuer(t)
	req := payment("INV-42", 1200, 1)
	s, _ := goodSettings(t)
	s["issuer"] = issuer.Name()
	write(t, s["keys"], keysOf(t, issuer, issuer.Token(t, testAudience, alice, payMethod, req)))
	r := start(t, s.args())
	r.connect(t, s["tls-cert"])
	handofftest.Attack(t, r.conn, handofftest.Target{
		Issuer: issuer, Audience: testAudience, Subject: alice, Method: payMethod, Request: req,
	})
}

// keysOf returns the JWK Set with the key that signed raw.
func keysOf(t *testing.T, issuer *handofftest.Issuer, raw string) []byte {
	t.Helper()
	encoded, _, _ := strings.Cut(raw, ".")
	header, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	var named struct{ Kid string }
	if err := json.Unmarshal(header, &named); err != nil {
		t.Fatal(err)
	}
	key, err := issuer.Keys().Key(t.Context(), named.Kid)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyset.New(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Tokens of a stranger's key, of yesterday and of the future are refused.
func TestForeignTokens(t *testing.T) {
	t.Parallel()
	s, key := goodSettings(t)
	r := start(t, s.args())
	r.connect(t, s["tls-cert"])
	req := payment("INV-42", 1200, 1)
	stranger, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	at := func(shift time.Duration) func() time.Time {
		return func() time.Time { return time.Now().Add(shift) }
	}
	for name, c := range map[string]struct {
		issuer *handoff.Issuer
		want   handoff.Reason
	}{
		"a stranger's key": {newIssuer(t, stranger, nil), handoff.ReasonTokenInvalid},
		"expired":          {newIssuer(t, key, at(-2*time.Minute)), handoff.ReasonTokenExpired},
		"of the future":    {newIssuer(t, key, at(time.Minute)), handoff.ReasonTokenNotYetValid},
		"from before":      {newIssuer(t, key, at(-30*time.Second)), handoff.ReasonIssuedBeforeStart},
	} {
		_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, c.issuer, payMethod, req, nil)))
		wantReason(t, name, err, c.want)
	}
}

// A lost answer: the token that has paid is given its payment again, as long as it is good, and no other is.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	r := startWith(t, nil)
	pay := func(req *server2v1.PayInvoiceRequest, raw string) (*server2v1.PayInvoiceResponse, error) {
		return r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	}
	req := payment("INV-42", 1200, 1)
	raw := token(t, r.issuer, payMethod, req, nil)
	req.Memo = "rent"
	first, err := pay(req, raw)
	if err != nil {
		t.Fatal(err, r.log)
	}
	for _, memo := range []string{"rent", "another"} { // which is free
		req.Memo = memo
		if again, err := pay(req, raw); err != nil || !proto.Equal(again, first) {
			t.Error("the same token again:", again, err)
		}
	}
	if log := r.log.String(); strings.Count(log, `"outcome":"answered"`) != 2 || strings.Count(log, `"outcome":"redeemed"`) != 1 {
		t.Error("the log:", log)
	}
	_, err = pay(payment("INV-42", 1200, 2), raw)
	wantReason(t, "with another request", err, handoff.ReasonFieldMismatch)

	repeated := token(t, r.issuer, payMethod, req, nil) // whose answer is the payment by another handoff
	for range 2 {                                       // a double click on what was paid before
		if again, err := pay(req, repeated); err != nil || !again.GetRepeatedRequest() || !proto.Equal(again.GetPayment(), first.GetPayment()) {
			t.Error("the same request by another handoff:", again, err)
		}
	}
	missing := payment("INV-404", 1, 9)
	unpaid := token(t, r.issuer, payMethod, missing, nil)
	if _, err := pay(missing, unpaid); status.Code(err) != codes.NotFound {
		t.Error("an invoice that is not there:", err)
	}
	_, err = pay(missing, unpaid)
	wantReason(t, "of a handoff that has paid nothing", err, handoff.ReasonTokenReplayed)
}

// TestE01: of many uses of one token at once, one pays. The others are told what it was, or that the token is spent.
func TestE01(t *testing.T) {
	t.Parallel()
	r := startWith(t, nil)
	req := payment("INV-42", 1200, 1)
	raw := token(t, r.issuer, payMethod, req, nil)
	var wg sync.WaitGroup
	var payments sync.Map // by id
	for range 64 {
		wg.Go(func() {
			resp, err := r.client.PayInvoice(context.Background(), req, handoffgrpc.Token(raw))
			if err == nil {
				payments.Store(resp.GetPayment().GetPaymentId(), true)
			} else if handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	made := 0
	payments.Range(func(any, any) bool { made++; return true })
	if redeemed := strings.Count(r.log.String(), `"outcome":"redeemed"`); made != 1 || redeemed != 1 {
		t.Errorf("64 uses have made %d payments, by %d redemptions", made, redeemed)
	}
}

// TestG03: an export that is open when its token expires ends then, with the
// reason, even if much is left of it; and one whose request comes late never begins.
func TestG03(t *testing.T) {
	t.Parallel()
	const payments, lifetime = 500, 3 * time.Second
	r := startWith(t, func(s settings) { fill(t, s["database"], payments) })
	req := &server2v1.ExportPaymentsRequest{}
	short := func(p *handoff.IssueParams) { p.Lifetime = lifetime }

	open, err := r.client.ExportPayments(t.Context(), req, handoffgrpc.Token(token(t, r.issuer, exportMethod, req, short)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Recv(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lifetime + 100*time.Millisecond) // the rest does not fit into the client's window

	received := 1
	for err == nil {
		_, err = open.Recv()
		received++
	}
	wantReason(t, fmt.Sprintf("after %d of %d payments", received, payments), err, handoff.ReasonTokenExpired)

	late, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, exportMethod,
		handoffgrpc.Token(token(t, r.issuer, exportMethod, req, func(p *handoff.IssueParams) { p.Lifetime = time.Second })))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // less than a body has to come
	if err := late.SendMsg(req); err != nil {
		t.Fatal(err)
	}
	if err := late.CloseSend(); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "a late request", late.RecvMsg(&server2v1.ExportPaymentsResponse{}), handoff.ReasonTokenExpired)
	r.logged(t, `"outcome":"ended"`)
}

// fill makes a database with n of alice's payments.
func fill(t *testing.T, path string, n int) {
	t.Helper()
	db, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	owner, amount := ledger.Owner{Issuer: testIssuer, Subject: alice}, ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1}
	var all []ledger.Invoice
	for i := range n {
		all = append(all, ledger.Invoice{ID: fmt.Sprint("X-", i), Owner: owner, Amount: amount})
	}
	for some := range slices.Chunk(all, 50) { // each in the time that a change has, on a busy machine too
		if _, err := db.Add(t.Context(), some); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range all {
		if _, _, err := db.Pay(t.Context(), ledger.Order{
			Payer: owner, InvoiceID: in.ID, Amount: amount, RequestID: in.ID, HandoffID: in.ID, Memo: strings.Repeat("m", 256), Time: time.Now(),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestG06: a request over the limit is refused before its token is looked at.
func TestG06(t *testing.T) {
	t.Parallel()
	r := startWith(t, nil)
	req := payment("INV-42", 1200, 1)
	req.Memo = strings.Repeat("m", 5<<20)
	raw := token(t, r.issuer, payMethod, req, nil)
	if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	req.Memo = ""
	if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); err != nil {
		t.Error("the token was spent:", err)
	}
}

// TestG11: SERVER2's port offers its service, health, and reflection if asked.
func TestG11(t *testing.T) {
	t.Parallel()
	for _, reflection := range []string{"false", "true"} {
		r := startWith(t, func(s settings) { s["reflection"] = reflection })
		for method, want := range map[string]codes.Code{
			"/grpc.health.v1.Health/Check":                              codes.OK,
			"/grpc.channelz.v1.Channelz/GetServers":                     codes.Unimplemented,
			"/handoff.server1.v1.SessionService/SignIn":                 codes.Unimplemented,
			"/handoff.v1.HandoffService/IssueHandoff":                   codes.Unimplemented,
			"/handoff.server2.v1.InvoiceService/Invented":               codes.Unimplemented,
			"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": map[string]codes.Code{"false": codes.Unimplemented, "true": codes.OK}[reflection],
			// What grpcurl of Debian asks.
			"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": map[string]codes.Code{"false": codes.Unimplemented, "true": codes.OK}[reflection],
		} {
			err := r.conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
			if got := status.Code(err); want == codes.OK && got == codes.Unimplemented || want != codes.OK && got != want {
				t.Errorf("reflection %s: %s: %v", reflection, method, err)
			}
		}
	}
}

// TestG14: what goes wrong inside is told only by its reason; TestH08 and
// TestH12 read the log of the same calls.
func TestG14(t *testing.T) {
	t.Parallel()
	r := startWith(t, nil)
	bad := payment("INV-42\n{\"level\":\"INFO\"}", -1, 1)
	raw := token(t, r.issuer, payMethod, bad, nil)
	_, err := r.client.PayInvoice(t.Context(), bad, handoffgrpc.Token(raw))
	if status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "level") {
		t.Error(err)
	}
	fields := map[string]bool{}
	for _, detail := range status.Convert(err).Details() {
		if request, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range request.GetFieldViolations() {
				fields[v.GetField()] = true
			}
		}
	}
	if len(fields) != 2 || !fields["invoice_id"] || !fields["amount.minor_units"] {
		t.Errorf("it names %v", fields)
	}
	_, err = r.client.PayInvoice(t.Context(), bad, handoffgrpc.Token("eyJ.forged\u2028.x"))
	if err == nil {
		t.Error("a forged token")
	}
	_, err = r.client.PayInvoice(t.Context(), bad, handoffgrpc.Token(raw[:len(raw)-4]+"AAAA"))
	wantReason(t, "a forged signature", err, handoff.ReasonTokenInvalid)

	log := r.log.String()
	for what, text := range map[string]string{
		"H12 a redemption": `"outcome":"redeemed","method":"` + payMethod + `","issuer":"` + testIssuer + `","subject":"` + alice + `","handoff_id":"`,
		"H12 a refusal":    `"outcome":"refused","method":"` + payMethod + `","reason":"TOKEN_INVALID"`,
	} {
		if !strings.Contains(log, text) {
			t.Errorf("%s has no line:\n%s", what, log)
		}
	}
	if !regexp.MustCompile(`"msg":"finished call".*"handoff_id":".*"grpc.code":"InvalidArgument"`).MatchString(log) {
		t.Errorf("H12: no line says how the handoff ended:\n%s", log)
	}
	for what, text := range map[string]string{
		"H08 a line of the caller's": "\n{\"level\":\"INFO\"}",
		"H08 an escaped one":         `INV-42\n`,
		"G15 a token":                raw[:40],
	} {
		if strings.Contains(log, text) {
			t.Errorf("%s is in the log:\n%s", what, log)
		}
	}
}

// TestH09: nothing that a caller sends makes a series of its own.
func TestH09(t *testing.T) {
	t.Parallel()
	r := startWith(t, func(s settings) { s["metrics"] = "127.0.0.1:0" })
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	for i := range 5 {
		raw := token(t, r.issuer, getMethod, req, func(p *handoff.IssueParams) { p.Subject = fmt.Sprint("u-", i) })
		_, _ = r.client.GetInvoice(t.Context(), req, handoffgrpc.Token(raw))
		_ = r.conn.Invoke(t.Context(), fmt.Sprint(getMethod, i), req, req, handoffgrpc.Token(raw))
	}
	text := servingtest.Scrape(t, r.log)
	series := regexp.MustCompile(`(?m)^handoff_decisions_total.* [1-9].*$`).FindAllString(text, -1)
	want := `handoff_decisions_total{method="` + getMethod + `",outcome="redeemed",reason=""} 5`
	if len(series) != 1 || series[0] != want {
		t.Errorf("got %q, want %q alone", series, want)
	}
	if strings.Contains(text, "u-1") || strings.Contains(text, "GetInvoice1") {
		t.Error("the metrics have what the caller sent")
	}
}

// The audit cannot be turned down with the log.
func TestAuditAtAnyLevel(t *testing.T) {
	t.Parallel()
	r := startWith(t, func(s settings) { s["log-level"] = "error" })
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	if _, err := r.client.GetInvoice(t.Context(), req, handoffgrpc.Token(token(t, r.issuer, getMethod, req, nil))); err != nil {
		t.Fatal(err)
	}
	if log := r.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, `"outcome":"redeemed"`) {
		t.Errorf("the log:\n%s", log)
	}
}

// TestG16: SERVER2 speaks only TLS 1.3.
func TestG16(t *testing.T) {
	t.Parallel()
	var certificate string
	r := startWith(t, func(s settings) { certificate = s["tls-cert"] })
	pool := poolOf(t, certificate)
	for version, want := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: pool, MaxVersion: version, NextProtos: []string{"h2"}})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}
