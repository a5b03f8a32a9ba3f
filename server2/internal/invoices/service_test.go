package invoices

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
)

const (
	alice     = "u-alice"
	requestID = "3f2b8c1e-9d4a-4e6f-8a7b-0c1d2e3f4a5b"
	getMethod = server2v1.InvoiceService_GetInvoice_FullMethodName
	payMethod = server2v1.InvoiceService_PayInvoice_FullMethodName
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// setUp returns a service, and a ledger that has alice's INV-42 and bob's INV-43.
func setUp(t *testing.T) (*Service, *ledger.DB) {
	t.Helper()
	db, err := ledger.Open(t.Context(), filepath.Join(t.TempDir(), "server2.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	issuer := handofftest.NewIssuer(t).Name()
	if _, err := db.Add(t.Context(), []ledger.Invoice{
		{ID: "INV-42", Owner: ledger.Owner{Issuer: issuer, Subject: alice}, Amount: ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1200}},
		{ID: "INV-43", Owner: ledger.Owner{Issuer: issuer, Subject: "u-bob"}, Amount: ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1200}},
	}); err != nil {
		t.Fatal(err)
	}
	return New(db, func() time.Time { return noon }), db
}

func payRequest(change func(*server2v1.PayInvoiceRequest)) *server2v1.PayInvoiceRequest {
	req := &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: requestID, Memo: "thanks",
	}
	if change != nil {
		change(req)
	}
	return req
}

func pay(t *testing.T, s *Service, req *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	t.Helper()
	return s.PayInvoice(handofftest.Context(t, alice, payMethod, req), req)
}

// wantReason checks that err is a status of this service.
func wantReason(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	var info *errdetails.ErrorInfo
	for _, detail := range statusOf(err).Details() {
		if found, ok := detail.(*errdetails.ErrorInfo); ok {
			info = found
		}
	}
	if statusOf(err).Code() != code || info.GetReason() != reason || info.GetDomain() != Domain {
		t.Errorf("%s: got %v (%v); want %v %s", what, err, info, code, reason)
	}
}

// statusOf returns what the caller is told.
func statusOf(err error) *status.Status {
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus()
	}
	return status.Convert(err)
}

// I04: what is noted of a handoff that pays nothing is forgotten once its token is over.
func TestI04RepeatedRequestsAreForgotten(t *testing.T) {
	s, db := setUp(t)
	if _, err := pay(t, s, payRequest(nil)); err != nil {
		t.Fatal(err)
	}
	req := payRequest(nil)
	ctx := handofftest.Context(t, alice, payMethod, req)
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		t.Fatal("no grant")
	}
	if again, err := s.PayInvoice(ctx, req); err != nil || !again.GetRepeatedRequest() {
		t.Fatal(again, err)
	}
	for _, c := range []struct {
		at   time.Time
		want int64
	}{{grant.Expires().Add(-time.Millisecond), 0}, {grant.Expires(), 1}} {
		if gone, err := db.Sweep(t.Context(), c.at); err != nil || gone != c.want {
			t.Errorf("at %s: %d go, %v; want %d", c.at, gone, err, c.want)
		}
	}
}

func TestPayInvoice(t *testing.T) {
	s, _ := setUp(t)
	first, err := pay(t, s, payRequest(nil))
	if err != nil {
		t.Fatal(err)
	}
	p := first.GetPayment()
	if p.GetInvoiceId() != "INV-42" || p.GetMemo() != "thanks" || !p.GetPayTime().AsTime().Equal(noon) || p.GetHandoffId() == "" ||
		p.GetPaymentId() == "" || p.GetAmount().GetMinorUnits() != 1200 || first.GetRepeatedRequest() {
		t.Errorf("paid %v", first)
	}
	again, err := pay(t, s, payRequest(func(r *server2v1.PayInvoiceRequest) { r.Memo = "another" }))
	if err != nil || !again.GetRepeatedRequest() {
		t.Fatal(again, err)
	}
	if diff := cmp.Diff(p, again.GetPayment(), protocmp.Transform()); diff != "" {
		t.Error("the same request id has not the first payment:", diff)
	}
	for _, c := range []struct {
		name   string
		change func(*server2v1.PayInvoiceRequest)
		code   codes.Code
		reason string
	}{
		{"other values", func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits++ }, codes.AlreadyExists, requestIDReused},
		{"paid", func(r *server2v1.PayInvoiceRequest) { r.RequestId = other(1) }, codes.FailedPrecondition, invoiceAlreadyPaid},
		{"bob's", func(r *server2v1.PayInvoiceRequest) { r.RequestId, r.InvoiceId = other(2), "INV-43" }, codes.NotFound, invoiceNotFound},
		{"nobody's", func(r *server2v1.PayInvoiceRequest) { r.RequestId, r.InvoiceId = other(3), "INV-44" }, codes.NotFound, invoiceNotFound},
	} {
		_, err := pay(t, s, payRequest(c.change))
		wantReason(t, c.name, err, c.code, c.reason)
	}
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	got, err := s.GetInvoice(handofftest.Context(t, alice, getMethod, req), req)
	if err != nil {
		t.Fatal(err)
	}
	want := &server2v1.Invoice{InvoiceId: "INV-42", Amount: payRequest(nil).GetAmount(), Payment: p}
	if diff := cmp.Diff(want, got.GetInvoice(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func other(n int) string { return fmt.Sprintf("%08d%s", n, requestID[8:]) }

func TestAmountDiffers(t *testing.T) {
	s, _ := setUp(t)
	_, err := pay(t, s, payRequest(func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits = 1 }))
	wantReason(t, "less", err, codes.FailedPrecondition, amountDiffers)
	_, err = pay(t, s, payRequest(func(r *server2v1.PayInvoiceRequest) { r.Amount.CurrencyCode = "USD" }))
	wantReason(t, "another currency", err, codes.FailedPrecondition, amountDiffers)
}

// A handoff pays once, even if the record of redemptions lets it through twice
// for two invoices, as only an issuer that repeats its ids could ask for.
func TestHandoffReused(t *testing.T) {
	s, db := setUp(t)
	req := payRequest(nil)
	ctx := handofftest.Context(t, alice, payMethod, req)
	if _, err := s.PayInvoice(ctx, req); err != nil {
		t.Fatal(err)
	}
	grant, _ := handoff.FromContext(ctx)
	if _, err := db.Add(t.Context(), []ledger.Invoice{{
		ID: "INV-45", Owner: ledger.Owner{Issuer: grant.Issuer(), Subject: alice}, Amount: ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1200},
	}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.PayInvoice(ctx, payRequest(func(r *server2v1.PayInvoiceRequest) { r.InvoiceId, r.RequestId = "INV-45", other(1) }))
	if statusOf(err).Code() != codes.FailedPrecondition || handoffgrpc.ReasonOf(statusOf(err).Err()) != handoff.ReasonTokenReplayed {
		t.Errorf("got %v", err)
	}
}

// Every field that is wrong is named, and the ledger is not asked: it is closed.
func TestBadRequests(t *testing.T) {
	s, db := setUp(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	get := func(id string) func() error {
		return func() error {
			req := &server2v1.GetInvoiceRequest{InvoiceId: id}
			_, err := s.GetInvoice(handofftest.Context(t, alice, getMethod, req), req)
			return err
		}
	}
	payment := func(change func(*server2v1.PayInvoiceRequest)) func() error {
		return func() error {
			_, err := pay(t, s, payRequest(change))
			return err
		}
	}
	request := func(id string) func() error {
		return payment(func(r *server2v1.PayInvoiceRequest) { r.RequestId = id })
	}
	currency := func(code string) func() error {
		return payment(func(r *server2v1.PayInvoiceRequest) { r.Amount.CurrencyCode = code })
	}
	for name, c := range map[string]struct {
		call   func() error
		fields []string
	}{
		"get: no invoice":         {get(""), []string{"invoice_id"}},
		"get: a long invoice":     {get(strings.Repeat("x", 65)), []string{"invoice_id"}},
		"get: a path":             {get("../INV-42"), []string{"invoice_id"}},
		"get: SQL":                {get("INV-42' OR '1'='1"), []string{"invoice_id"}},
		"get: a newline":          {get("INV-42\n"), []string{"invoice_id"}},
		"pay: nothing":            {payment(func(r *server2v1.PayInvoiceRequest) { proto.Reset(r) }), []string{"amount", "invoice_id", "request_id"}},
		"pay: an empty amount":    {payment(func(r *server2v1.PayInvoiceRequest) { r.Amount = &server2v1.Money{} }), []string{"amount.currency_code", "amount.minor_units"}},
		"pay: a negative amount":  {payment(func(r *server2v1.PayInvoiceRequest) { r.Amount.MinorUnits = -1200 }), []string{"amount.minor_units"}},
		"pay: a long memo":        {payment(func(r *server2v1.PayInvoiceRequest) { r.Memo = strings.Repeat("x", 257) }), []string{"memo"}},
		"pay: a NUL in the memo":  {payment(func(r *server2v1.PayInvoiceRequest) { r.Memo = "a\x00b" }), []string{"memo"}},
		"pay: a long memo, runes": {payment(func(r *server2v1.PayInvoiceRequest) { r.Memo = strings.Repeat("é", 129) }), []string{"memo"}},
		"currency: small":         {currency("eur"), []string{"amount.currency_code"}},
		"currency: long":          {currency("EURO"), []string{"amount.currency_code"}},
		"currency: a digit":       {currency("E2R"), []string{"amount.currency_code"}},
		"request id: capitals":    {request(strings.ToUpper(requestID)), []string{"request_id"}},
		"request id: nil":         {request("00000000-0000-0000-0000-000000000000"), []string{"request_id"}},
		"request id: braces":      {request("{" + requestID[1:35] + "}"), []string{"request_id"}},
		"request id: no hyphens":  {request(strings.ReplaceAll(requestID, "-", "0")), []string{"request_id"}},
		"request id: all hyphens": {request(strings.Repeat("-", 36)), []string{"request_id"}},
		"request id: not hex":     {request("g" + requestID[1:]), []string{"request_id"}},
		"request id: short":       {request(requestID[:35]), []string{"request_id"}},
		"export: an invoice": {func() error {
			return s.ExportPayments(&server2v1.ExportPaymentsRequest{InvoiceId: "a b"}, exportStream(t, "a b", nil))
		}, []string{"invoice_id"}},
	} {
		err := c.call()
		wantReason(t, name, err, codes.InvalidArgument, argumentInvalid)
		fields := map[string]bool{}
		for _, detail := range statusOf(err).Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok {
				for _, v := range bad.GetFieldViolations() {
					fields[v.GetField()] = true
				}
			}
		}
		if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, c.fields) {
			t.Errorf("%s: it names %v, want %v", name, got, c.fields)
		}
	}
}

// A database that does not answer is UNAVAILABLE, and its reason stays here.
func TestDatabaseUnavailable(t *testing.T) {
	s, db := setUp(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := pay(t, s, payRequest(nil))
	wantReason(t, "pay", err, codes.Unavailable, databaseUnavailable)
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	_, err = s.GetInvoice(handofftest.Context(t, alice, getMethod, req), req)
	wantReason(t, "get", err, codes.Unavailable, databaseUnavailable)
	err = s.ExportPayments(&server2v1.ExportPaymentsRequest{}, exportStream(t, "", nil))
	wantReason(t, "export", err, codes.Unavailable, databaseUnavailable)
	if text := statusOf(err).Message(); strings.Contains(text, "sql") || err.Error() == text {
		t.Errorf("the caller is told %q, the log %q", text, err)
	}
}

// A user who may have paid is told to ask again, and not that nothing was changed.
func TestUncertain(t *testing.T) {
	err := outcome(t.Context(), fmt.Errorf("committing: %w", ledger.ErrUncertain))
	wantReason(t, "pay", err, codes.Unavailable, outcomeUnknown)
}

// Without a grant nothing is told and nothing is done.
func TestNoGrant(t *testing.T) {
	s, _ := setUp(t)
	_, get := s.GetInvoice(t.Context(), &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
	_, pay := s.PayInvoice(t.Context(), payRequest(nil))
	export := s.ExportPayments(&server2v1.ExportPaymentsRequest{}, &sent{ctx: t.Context()})
	for _, err := range []error{get, pay, export} {
		if handoffgrpc.ReasonOf(statusOf(err).Err()) != handoff.ReasonRuleMissing {
			t.Errorf("got %v", err)
		}
	}
}

// sent is the handler's side of an export.
type sent struct {
	grpc.ServerStream
	ctx      context.Context
	payments []*server2v1.Payment
	err      error
}

func (s *sent) Context() context.Context { return s.ctx }

func (s *sent) Send(r *server2v1.ExportPaymentsResponse) error {
	s.payments = append(s.payments, r.GetPayment())
	return s.err
}

func exportStream(t *testing.T, invoiceID string, err error) *sent {
	t.Helper()
	req := &server2v1.ExportPaymentsRequest{InvoiceId: invoiceID}
	return &sent{ctx: handofftest.Context(t, alice, server2v1.InvoiceService_ExportPayments_FullMethodName, req), err: err}
}

// An export has every payment of the user's once, over any number of pages.
func TestExportPayments(t *testing.T) {
	s, db := setUp(t)
	const n = 2*pageSize + 1
	owner := ledger.Owner{Issuer: handofftest.NewIssuer(t).Name(), Subject: alice}
	amount := ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1}
	var all []ledger.Invoice
	for i := range n {
		all = append(all, ledger.Invoice{ID: fmt.Sprint("X-", i), Owner: owner, Amount: amount})
	}
	if _, err := db.Add(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for i, in := range all {
		if _, _, err := db.Pay(t.Context(), ledger.Order{
			Payer: owner, InvoiceID: in.ID, Amount: amount, RequestID: in.ID, HandoffID: in.ID, Time: noon.Add(time.Duration(i/50) * time.Second),
		}); err != nil {
			t.Fatal(err)
		}
	}
	stream := exportStream(t, "", nil)
	if err := s.ExportPayments(&server2v1.ExportPaymentsRequest{}, stream); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range stream.payments {
		seen[p.GetPaymentId()] = true
	}
	oldestFirst := slices.IsSortedFunc(stream.payments, func(a, b *server2v1.Payment) int {
		return a.GetPayTime().AsTime().Compare(b.GetPayTime().AsTime())
	})
	if len(stream.payments) != n || len(seen) != n || !oldestFirst {
		t.Errorf("%d payments, %d of them different, of %d; oldest first: %v", len(stream.payments), len(seen), n, oldestFirst)
	}
	one := exportStream(t, "X-7", nil)
	if err := s.ExportPayments(&server2v1.ExportPaymentsRequest{InvoiceId: "X-7"}, one); err != nil || len(one.payments) != 1 {
		t.Error("of one invoice:", one.payments, err)
	}
	if err := s.ExportPayments(&server2v1.ExportPaymentsRequest{}, exportStream(t, "", io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Error("a client that has gone:", err)
	}
}

// An export that follows sends each payment once, also one that appears later with an
// earlier time, until the call ends.
func TestExportFollows(t *testing.T) {
	t.Parallel()
	s, db := setUp(t)
	owner := ledger.Owner{Issuer: handofftest.NewIssuer(t).Name(), Subject: alice}
	amount := ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1}
	made := func(id string, at time.Duration) {
		if _, err := db.Add(t.Context(), []ledger.Invoice{{ID: id, Owner: owner, Amount: amount}}); err != nil {
			t.Error(err)
		}
		if _, _, err := db.Pay(t.Context(), ledger.Order{
			Payer: owner, InvoiceID: id, Amount: amount, RequestID: id, HandoffID: id, Time: noon.Add(at),
		}); err != nil {
			t.Error(err)
		}
	}
	ctx, end := context.WithCancel(handofftest.Context(t, alice, server2v1.InvoiceService_ExportPayments_FullMethodName, &server2v1.ExportPaymentsRequest{Follow: true}))
	defer end()
	stream := &following{ctx: ctx, sent: make(chan string, 10)}
	ended := make(chan error, 1)
	go func() { ended <- s.ExportPayments(&server2v1.ExportPaymentsRequest{Follow: true}, stream) }()
	wants := func(id string) {
		t.Helper()
		select {
		case got := <-stream.sent:
			if got != id {
				t.Errorf("got %s, want %s", got, id)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing comes")
		}
	}
	made("X-1", 0)
	wants("X-1")
	made("X-2", time.Minute)
	wants("X-2")
	made("X-3", time.Minute-settled+time.Second)
	wants("X-3")
	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the end: %v", err)
	}
	if len(stream.sent) > 0 {
		t.Errorf("%s came twice", <-stream.sent)
	}
}

// following is the stream of an export, of which it tells the invoices.
type following struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan string
}

func (f *following) Context() context.Context { return f.ctx }

func (f *following) Send(response *server2v1.ExportPaymentsResponse) error {
	f.sent <- response.GetPayment().GetInvoiceId()
	return nil
}

// A list has every invoice of the user's once, over any number of pages, with its payment.
func TestListInvoices(t *testing.T) {
	t.Parallel()
	s, db := setUp(t)
	owner := ledger.Owner{Issuer: handofftest.NewIssuer(t).Name(), Subject: alice}
	for _, id := range []string{"A", "B", "Z"} {
		if _, err := db.Add(t.Context(), []ledger.Invoice{{ID: id, Owner: owner, Amount: ledger.Amount{CurrencyCode: "EUR", MinorUnits: 7}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pay(t, s, payRequest(nil)); err != nil {
		t.Fatal(err)
	}
	list := func(req *server2v1.ListInvoicesRequest) (*server2v1.ListInvoicesResponse, error) {
		return s.ListInvoices(handofftest.Context(t, alice, server2v1.InvoiceService_ListInvoices_FullMethodName, req), req)
	}
	var all []*server2v1.Invoice
	for token := ""; ; {
		page, err := list(&server2v1.ListInvoicesRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetInvoices()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	var ids []string
	for _, in := range all {
		ids = append(ids, in.GetInvoiceId())
	}
	if want := []string{"A", "B", "INV-42", "Z"}; !slices.Equal(ids, want) {
		t.Fatalf("got %q, want %q", ids, want)
	}
	one, err := s.GetInvoice(handofftest.Context(t, alice, getMethod, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}), &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
	if err != nil || one.GetInvoice().GetPayment() == nil {
		t.Fatal(one, err)
	}
	if diff := cmp.Diff(one.GetInvoice(), all[2], protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if whole, err := list(&server2v1.ListInvoicesRequest{}); err != nil || len(whole.GetInvoices()) != 4 || whole.GetNextPageToken() != "" {
		t.Error(whole, err)
	}
	for _, bad := range []*server2v1.ListInvoicesRequest{{PageSize: -1}, {PageToken: "x y"}} {
		_, err := list(bad)
		wantReason(t, fmt.Sprint(bad), err, codes.InvalidArgument, argumentInvalid)
	}
}

func TestParse(t *testing.T) {
	const good = `{"invoice_id":"INV-42","issuer":"https://shop.example","subject":"u-1","currency_code":"EUR","minor_units":1200}`
	all, err := Parse("[" + good + "]")
	want := []ledger.Invoice{{
		ID: "INV-42", Owner: ledger.Owner{Issuer: "https://shop.example", Subject: "u-1"}, Amount: ledger.Amount{CurrencyCode: "EUR", MinorUnits: 1200},
	}}
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for name, text := range map[string]string{
		"nothing":         "",
		"no invoice":      "[]",
		"an object":       good,
		"two documents":   "[" + good + "][]",
		"half":            "[" + good,
		"unknown member":  "[" + strings.Replace(good, "{", `{"paid":true,`, 1) + "]",
		"twice":           "[" + strings.Replace(good, "{", `{"subject":"u-2",`, 1) + "]",
		"NUL in the name": "[" + strings.Replace(good, "u-1", `u\u0000`, 1) + "]",
		"missing subject": "[" + strings.Replace(good, `"subject":"u-1",`, "", 1) + "]",
		"empty issuer":    "[" + strings.Replace(good, "https://shop.example", "", 1) + "]",
		"amount 0":        "[" + strings.Replace(good, "1200", "0", 1) + "]",
		"amount negative": "[" + strings.Replace(good, "1200", "-1200", 1) + "]",
		"amount decimal":  "[" + strings.Replace(good, "1200", "12.00", 1) + "]",
		"amount as text":  "[" + strings.Replace(good, "1200", `"1200"`, 1) + "]",
		"bad id":          "[" + strings.Replace(good, "INV-42", "INV 42", 1) + "]",
		"bad currency":    "[" + strings.Replace(good, "EUR", "euro", 1) + "]",
	} {
		if all, err := Parse(text); err == nil || all != nil {
			t.Errorf("%s: got %v, %v", name, all, err)
		}
	}
}
