package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// Invoice is something to be paid by its owner.
type Invoice struct {
	ID      string
	Owner   Owner
	Amount  Amount
	Payment *Payment // nil: not paid
}

// Add adds invoices, all or none, and returns how many were new. One that is
// there already with the same values counts as added; with others it is an
// error. Payments are not added.
func (db *DB) Add(ctx context.Context, invoices []Invoice) (added int, err error) {
	// In one order, so that two who add the same ones do not wait for each other.
	invoices = slices.SortedFunc(slices.Values(invoices), func(a, b Invoice) int { return cmp.Compare(a.ID, b.ID) })
	err = db.change(ctx, first, func(ctx context.Context, tx *sql.Tx) error {
		added = 0
		for _, in := range invoices {
			have, err := anyInvoice(ctx, tx, in.ID)
			switch {
			case errors.Is(err, sql.ErrNoRows):
			case err != nil:
				return failed("reading an invoice", err)
			case have.Owner == in.Owner && have.Amount == in.Amount:
				continue
			default:
				return fmt.Errorf("invoice %q is there with another owner or amount", in.ID)
			}
			const insert = `INSERT INTO invoices (invoice_id, issuer, subject, currency_code, minor_units) VALUES ($1, $2, $3, $4, $5)`
			if _, err := tx.ExecContext(ctx, insert, in.ID, in.Owner.Issuer, in.Owner.Subject,
				in.Amount.CurrencyCode, in.Amount.MinorUnits); err != nil {
				return failed("adding an invoice", err)
			}
			added++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// Invoice returns an invoice of the owner's with its payment, or ErrNotFound.
func (db *DB) Invoice(ctx context.Context, owner Owner, id string) (Invoice, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return invoiceOf(ctx, db.read, owner, id)
}

func invoiceOf(ctx context.Context, q querier, owner Owner, id string) (Invoice, error) {
	in, err := anyInvoice(ctx, q, id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && in.Owner != owner {
		return Invoice{}, ErrNotFound
	}
	if err != nil {
		return Invoice{}, failed("reading an invoice", err)
	}
	payment, err := scanPayment(q.QueryRowContext(ctx, selectPayment+`WHERE invoice_id = $1`, id))
	switch {
	case err == nil:
		in.Payment = &payment
	case !errors.Is(err, sql.ErrNoRows):
		return Invoice{}, failed("reading a payment", err)
	}
	return in, nil
}

// Invoices returns up to limit invoices of the owner's whose ids come after the given
// one, in their order, with their payments.
func (db *DB) Invoices(ctx context.Context, owner Owner, after string, limit int) ([]Invoice, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const query = `SELECT i.invoice_id, i.currency_code, i.minor_units, p.payment_id, p.currency_code, p.minor_units, p.paid_at, p.memo, p.handoff_id
		FROM invoices i LEFT JOIN payments p ON p.invoice_id = i.invoice_id
		WHERE i.issuer = $1 AND i.subject = $2 AND i.invoice_id > $3 ORDER BY i.invoice_id LIMIT $4`
	rows, err := db.read.QueryContext(ctx, query, owner.Issuer, owner.Subject, after, limit)
	page, err := serving.Rows(rows, err, func() (in Invoice, err error) {
		in.Owner = owner
		var id, currency, memo, handoff sql.NullString
		var units, paidAt sql.NullInt64
		if err := rows.Scan(&in.ID, &in.Amount.CurrencyCode, &in.Amount.MinorUnits, &id, &currency, &units, &paidAt, &memo, &handoff); err != nil {
			return in, err
		}
		if id.Valid {
			in.Payment = &Payment{
				ID: id.String, InvoiceID: in.ID, Amount: Amount{CurrencyCode: currency.String, MinorUnits: units.Int64},
				Time: time.UnixMilli(paidAt.Int64).UTC(), Memo: memo.String, HandoffID: handoff.String,
			}
		}
		return in, nil
	})
	return page, failed("reading invoices", err)
}

// anyInvoice returns an invoice of any payer, without its payment.
func anyInvoice(ctx context.Context, q querier, id string) (Invoice, error) {
	in := Invoice{ID: id}
	const query = `SELECT issuer, subject, currency_code, minor_units FROM invoices WHERE invoice_id = $1`
	err := q.QueryRowContext(ctx, query, id).
		Scan(&in.Owner.Issuer, &in.Owner.Subject, &in.Amount.CurrencyCode, &in.Amount.MinorUnits)
	return in, err
}
