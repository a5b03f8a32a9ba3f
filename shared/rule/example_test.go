package rule_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// The operation of a payment names everything but the memo, which the method's
// rule frees.
func ExampleOperation() {
	op, err := rule.Operation(server2v1.InvoiceService_PayInvoice_FullMethodName, &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42",
		Amount:    &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
		RequestId: "7d0a3e9c-6c2f-4c8e-9a51-0a3f6d1f7b11",
		Memo:      "lunch",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(op.Method)
	for _, f := range op.Bound {
		fmt.Println("bound", f.Path, f.Value)
	}
	for _, f := range op.Free {
		fmt.Println("free ", f.Path, f.Value)
	}
	// Output:
	// /handoff.server2.v1.InvoiceService/PayInvoice
	// bound amount {}
	// bound amount.currency_code EUR
	// bound amount.minor_units 1200
	// bound invoice_id INV-42
	// bound request_id 7d0a3e9c-6c2f-4c8e-9a51-0a3f6d1f7b11
	// free  memo lunch
}

// A request that no token can name is refused, and the refusal says where.
func ExampleMethod_Operation() {
	method, err := rule.Linked().Method(server2v1.InvoiceService_PayInvoice_FullMethodName)
	if err != nil {
		log.Fatal(err)
	}
	_, err = method.Operation(&server2v1.PayInvoiceRequest{InvoiceId: "INV-\xff"})
	var refusal *handoff.Refusal
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Reason, refusal.Detail)
	}
	// Output:
	// REQUEST_UNBINDABLE "invoice_id": it is not UTF-8
}
