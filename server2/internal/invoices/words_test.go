package invoices

import (
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoffweb"
)

func TestDescribe(t *testing.T) {
	pay := &server2v1.PayInvoiceRequest{InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}}
	get := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	invoice := &server2v1.Invoice{InvoiceId: "INV-42", Amount: pay.GetAmount()}
	paid := proto.CloneOf(invoice)
	paid.Payment = &server2v1.Payment{}
	for _, c := range []struct {
		name                    string
		call                    handoffweb.Call
		title, confirm, outcome string
	}{
		{"to pay", handoffweb.Call{Request: pay}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", ""},
		{"paid", handoffweb.Call{Request: pay, Response: &server2v1.PayInvoiceResponse{}}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", "Invoice INV-42 is paid: 12.00 EUR."},
		{"paid before", handoffweb.Call{Request: pay, Response: &server2v1.PayInvoiceResponse{RepeatedRequest: true}}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", "Invoice INV-42 is paid: 12.00 EUR. It was paid by this order before, and not again."},
		{"hers it is not", handoffweb.Call{Request: pay, Err: outcome(t.Context(), ledger.ErrNotFound)}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", "You have no such invoice here."},
		{"paid already", handoffweb.Call{Request: pay, Err: outcome(t.Context(), ledger.ErrPaid)}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", "This invoice is paid already."},
		{"another error", handoffweb.Call{Request: pay, Err: errors.New("x")}, "Pay invoice INV-42: 12.00 EUR", "Pay 12.00 EUR", ""},
		{"to show", handoffweb.Call{Request: get}, "Show invoice INV-42", "Show it", ""},
		{"shown", handoffweb.Call{Request: get, Response: &server2v1.GetInvoiceResponse{Invoice: invoice}}, "Show invoice INV-42", "Show it", "Invoice INV-42: 12.00 EUR. It is not paid."},
		{"shown, paid", handoffweb.Call{Request: get, Response: &server2v1.GetInvoiceResponse{Invoice: paid}}, "Show invoice INV-42", "Show it", "Invoice INV-42: 12.00 EUR. It is paid."},
		{"another method", handoffweb.Call{Request: &server2v1.ExportPaymentsRequest{}}, "", "", ""},
	} {
		if w := Describe(c.call); w.Title != c.title || w.Confirm != c.confirm || w.Outcome != c.outcome {
			t.Errorf("%s: got %q", c.name, w)
		}
	}
	for units, want := range map[int64]string{
		0: "0.00 EUR", 5: "0.05 EUR", -5: "-0.05 EUR", 1205: "12.05 EUR", math.MinInt64: "-92233720368547758.08 EUR",
	} {
		if got := amountOf(&server2v1.Money{CurrencyCode: "EUR", MinorUnits: units}); got != want {
			t.Errorf("%d: got %s, want %s", units, got, want)
		}
	}
}
