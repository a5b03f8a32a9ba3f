package invoices

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoffweb"
)

// Describe says a call of this service in words, to the person who is asked to
// confirm it.
func Describe(c handoffweb.Call) (w handoffweb.Words) {
	switch req := c.Request.(type) {
	case *server2v1.PayInvoiceRequest:
		amount := amountOf(req.GetAmount())
		w = handoffweb.Words{
			Title:   fmt.Sprintf("Pay invoice %s: %s", req.GetInvoiceId(), amount),
			Confirm: "Pay " + amount,
			Rows:    []handoffweb.Row{{Name: "Invoice", Value: req.GetInvoiceId()}, {Name: "To pay", Value: amount}},
		}
		if response, ok := c.Response.(*server2v1.PayInvoiceResponse); ok {
			w.Outcome = fmt.Sprintf("Invoice %s is paid: %s.", req.GetInvoiceId(), amount)
			if response.GetRepeatedRequest() {
				w.Outcome += " It was paid by this order before, and not again."
			}
		}
	case *server2v1.GetInvoiceRequest:
		w = handoffweb.Words{
			Title: "Show invoice " + req.GetInvoiceId(), Confirm: "Show it",
			Rows: []handoffweb.Row{{Name: "Invoice", Value: req.GetInvoiceId()}},
		}
		if response, ok := c.Response.(*server2v1.GetInvoiceResponse); ok {
			state := "It is not paid."
			if response.GetInvoice().GetPayment() != nil {
				state = "It is paid."
			}
			w.Outcome = fmt.Sprintf("Invoice %s: %s. %s", req.GetInvoiceId(), amountOf(response.GetInvoice().GetAmount()), state)
		}
	}
	if c.Err != nil {
		w.Outcome = declined(c.Err)
	}
	return w
}

// declined says why a handler declined a call.
func declined(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			switch info.GetReason() {
			case invoiceNotFound:
				return "You have no such invoice here."
			case invoiceAlreadyPaid:
				return "This invoice is paid already."
			case amountDiffers:
				return "The invoice is for another amount."
			case requestIDReused:
				return "This order has paid something else before."
			case argumentInvalid:
				return "A value is missing or is not as it must be. A note can have 256 bytes."
			}
		}
	}
	return ""
}

// amountOf writes an amount of money. The currencies of the demo have two decimals.
func amountOf(m *server2v1.Money) string {
	sign, units := "", m.GetMinorUnits()
	whole, rest := units/100, units%100
	if units < 0 {
		sign, whole, rest = "-", -whole, -rest
	}
	return fmt.Sprintf("%s%d.%02d %s", sign, whole, rest, m.GetCurrencyCode())
}
