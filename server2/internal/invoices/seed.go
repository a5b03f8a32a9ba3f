package invoices

import (
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// maxName is the longest iss or sub, in bytes.
const maxName = 255

const mustBeName = "must be 1 to 255 bytes, without U+0000"

// Parse reads invoices from their file, strict JSON:
//
//	[{"invoice_id": "INV-42", "issuer": "https://shop.example", "subject": "u-1",
//	  "currency_code": "EUR", "minor_units": 1200}]
//
// All members are required. The error says which element and member is wrong.
func Parse(text string) ([]ledger.Invoice, error) {
	var all []ledger.Invoice
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Array(func(index int) error {
			in, err := readInvoice(r)
			if err != nil {
				return fmt.Errorf("[%d]%w", index, err)
			}
			all = append(all, in)
			return nil
		})
	})
	if err == nil && len(all) == 0 {
		err = errors.New("it lists no invoice")
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

func readInvoice(r *strictjson.Reader) (in ledger.Invoice, err error) {
	err = r.Object(func(name string) (err error) {
		switch name {
		case "invoice_id":
			in.ID, err = r.String()
		case "issuer":
			in.Owner.Issuer, err = r.String()
		case "subject":
			in.Owner.Subject, err = r.String()
		case "currency_code":
			in.Amount.CurrencyCode, err = r.String()
		case "minor_units":
			in.Amount.MinorUnits, err = r.Integer()
		default:
			err = errors.New("not a member of an invoice")
		}
		if err != nil {
			return fmt.Errorf(".%q: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return in, err
	}
	for _, member := range []struct {
		name, must string
		valid      bool
	}{
		{"invoice_id", mustBeInvoiceID, isInvoiceID(in.ID)},
		{"issuer", mustBeName, in.Owner.Issuer != "" && isText(in.Owner.Issuer, maxName)},
		{"subject", mustBeName, in.Owner.Subject != "" && isText(in.Owner.Subject, maxName)},
		{"currency_code", "must be three capital letters", isCurrency(in.Amount.CurrencyCode)},
		{"minor_units", "must be more than 0", in.Amount.MinorUnits > 0},
	} {
		if !member.valid {
			return in, fmt.Errorf(".%q: %s", member.name, member.must)
		}
	}
	return in, nil
}
