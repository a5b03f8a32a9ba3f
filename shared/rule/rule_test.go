package rule_test

import (
	"slices"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

func pay() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42",
		Amount:    &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
		RequestId: "8c7f1c9e-6f0f-4d42-8a55-8a8c3f8b2d11",
		Memo:      "lunch",
	}
}

func TestOperation(t *testing.T) {
	op, err := rule.Operation(server2v1.InvoiceService_PayInvoice_FullMethodName, pay())
	if err != nil {
		t.Fatal(err)
	}
	want := []handoff.Field{
		{Path: "amount", Value: "{}"},
		{Path: "amount.currency_code", Value: "EUR"},
		{Path: "amount.minor_units", Value: "1200"},
		{Path: "invoice_id", Value: "INV-42"},
		{Path: "request_id", Value: "8c7f1c9e-6f0f-4d42-8a55-8a8c3f8b2d11"},
	}
	if !slices.Equal(op.Bound, want) {
		t.Errorf("bound %v, want %v", op.Bound, want)
	}
	if free := []handoff.Field{{Path: "memo", Value: "lunch"}}; !slices.Equal(op.Free, free) {
		t.Errorf("free %v, want %v", op.Free, free)
	}
}

func TestNewResponse(t *testing.T) {
	method := lookup(t, rule.Linked(), server2v1.InvoiceService_PayInvoice_FullMethodName)
	if _, ok := method.NewResponse().(*server2v1.PayInvoiceResponse); !ok {
		t.Errorf("got a %T", method.NewResponse())
	}
	stream := lookup(t, rule.Linked(), server2v1.InvoiceService_ExportPayments_FullMethodName)
	if response := stream.NewResponse(); response != nil {
		t.Errorf("of a stream: got a %T", response)
	}
}

func BenchmarkOperation(b *testing.B) {
	method, err := rule.Linked().Method(server2v1.InvoiceService_PayInvoice_FullMethodName)
	if err != nil {
		b.Fatal(err)
	}
	req := pay()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := method.Operation(req); err != nil {
			b.Fatal(err)
		}
	}
}

// What an issuer pays that does not keep the Method.
func BenchmarkLookup(b *testing.B) {
	req := pay()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rule.Operation(payMethod, req); err != nil {
			b.Fatal(err)
		}
	}
}
