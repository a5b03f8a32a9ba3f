package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// Order is what Pay is asked to do.
type Order struct {
	Payer     Owner
	InvoiceID string
	Amount    Amount
	RequestID string    // the payer's own; unique for the payer
	Memo      string    // not part of what the request id stands for
	HandoffID string    // the jti of the handoff that this runs by; unique for the issuer
	Expires   time.Time // of the handoff: from then on its token is refused
	Time      time.Time
}

// Payment is a payment of one invoice in full.
type Payment struct {
	ID        string
	InvoiceID string
	Amount    Amount
	Time      time.Time // whole milliseconds
	Memo      string
	HandoffID string
}

// Pay pays an invoice of the payer's. Where the payer's request id has paid the
// same invoice with the same amount before, it returns that payment, and
// repeated is true. Its errors are those of this package, and those of a
// database that does not answer.
func (db *DB) Pay(ctx context.Context, o Order) (p Payment, repeated bool, err error) {
	id := rand.Text()
	err = db.change(ctx, ordinary, func(ctx context.Context, tx *sql.Tx) (err error) {
		p, err = pay(ctx, tx, o, id)
		return err
	})
	if err != nil {
		return Payment{}, false, err
	}
	return p, p.ID != id, nil
}

// PaymentBy returns the payment that a handoff of the payer's was answered with, or
// ErrNotFound: the payment that it made, or, until it is swept, the earlier one of its
// request id.
func (db *DB) PaymentBy(ctx context.Context, payer Owner, handoffID string) (Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const query = selectPayment + `WHERE issuer = $1 AND subject = $2 AND (handoff_id = $3
		OR payment_id = (SELECT payment_id FROM handoffs WHERE issuer = $1 AND handoff_id = $3))`
	p, err := scanPayment(db.read.QueryRowContext(ctx, query, payer.Issuer, payer.Subject, handoffID))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Payment{}, ErrNotFound
	case err != nil:
		return Payment{}, failed("reading a payment", err)
	}
	return p, nil
}

// pay returns the payment that the order's request id stands for, and makes it,
// with the given id, if there is none.
func pay(ctx context.Context, tx *sql.Tx, o Order, id string) (p Payment, err error) {
	const first = selectPayment + `WHERE issuer = $1 AND subject = $2 AND request_id = $3`
	p, err = scanPayment(tx.QueryRowContext(ctx, first, o.Payer.Issuer, o.Payer.Subject, o.RequestID))
	switch {
	case err == nil && p.InvoiceID == o.InvoiceID && p.Amount == o.Amount:
		return p, noteHandoff(ctx, tx, o, p)
	case err == nil:
		return Payment{}, ErrRequestReused
	case !errors.Is(err, sql.ErrNoRows):
		return Payment{}, failed("reading a payment", err)
	}
	invoice, err := invoiceOf(ctx, tx, o.Payer, o.InvoiceID)
	switch {
	case err != nil:
		return Payment{}, err
	case invoice.Payment != nil:
		return Payment{}, ErrPaid
	case invoice.Amount != o.Amount:
		return Payment{}, ErrAmount
	}
	p = Payment{
		ID: id, InvoiceID: o.InvoiceID, Amount: o.Amount,
		Time: o.Time.UTC().Truncate(time.Millisecond), Memo: o.Memo, HandoffID: o.HandoffID,
	}
	return p, insertPayment(ctx, tx, o, p)
}

// noteHandoff records that a handoff is answered with an earlier one's payment.
func noteHandoff(ctx context.Context, tx *sql.Tx, o Order, p Payment) error {
	if p.HandoffID == o.HandoffID {
		return nil
	}
	const insert = `INSERT INTO handoffs (issuer, handoff_id, payment_id, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	_, err := tx.ExecContext(ctx, insert, o.Payer.Issuer, o.HandoffID, p.ID, o.Expires.UnixMilli())
	return failed("recording a handoff", err)
}

// insertPayment records p, unless its handoff has paid before.
func insertPayment(ctx context.Context, tx *sql.Tx, o Order, p Payment) error {
	var reused bool
	const used = `SELECT EXISTS (SELECT 1 FROM payments WHERE issuer = $1 AND handoff_id = $2)`
	switch err := tx.QueryRowContext(ctx, used, o.Payer.Issuer, o.HandoffID).Scan(&reused); {
	case err != nil:
		return failed("reading a payment", err)
	case reused:
		return ErrHandoffReused
	}
	const insert = `INSERT INTO payments
		(payment_id, invoice_id, currency_code, minor_units, paid_at, memo, handoff_id, issuer, subject, request_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	_, err := tx.ExecContext(ctx, insert, p.ID, p.InvoiceID, p.Amount.CurrencyCode, p.Amount.MinorUnits,
		p.Time.UnixMilli(), p.Memo, p.HandoffID, o.Payer.Issuer, o.Payer.Subject, o.RequestID)
	return failed("recording a payment", err)
}

// Payments returns up to limit payments of the payer's that come after the
// payment after, oldest first. The zero after is before all. invoiceID, if not
// empty, picks the payment of one invoice.
func (db *DB) Payments(ctx context.Context, payer Owner, invoiceID string, after Payment, limit int) ([]Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	since := int64(-1)
	if after.ID != "" {
		since = after.Time.UnixMilli()
	}
	const query = selectPayment + `WHERE issuer = $1 AND subject = $2 AND ($3 = '' OR invoice_id = $3)
		AND (paid_at > $4 OR paid_at = $4 AND payment_id > $5) ORDER BY paid_at, payment_id LIMIT $6`
	rows, err := db.read.QueryContext(ctx, query, payer.Issuer, payer.Subject, invoiceID, since, after.ID, limit)
	page, err := serving.Rows(rows, err, func() (Payment, error) { return scanPayment(rows) })
	return page, failed("reading payments", err)
}

// selectPayment begins a query whose rows scanPayment reads.
const selectPayment = `SELECT payment_id, invoice_id, currency_code, minor_units, paid_at, memo, handoff_id FROM payments `

func scanPayment(row interface{ Scan(...any) error }) (p Payment, err error) {
	var paidAt int64
	err = row.Scan(&p.ID, &p.InvoiceID, &p.Amount.CurrencyCode, &p.Amount.MinorUnits, &paidAt, &p.Memo, &p.HandoffID)
	p.Time = time.UnixMilli(paidAt).UTC()
	return p, err
}
