package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	alice = Owner{"https://shop.example", "u-alice"}
	bob   = Owner{"https://shop.example", "u-bob"}
	eur12 = Amount{"EUR", 1200}
	noon  = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
)

// late is by how much a busy machine may be late.
const late = 20 * time.Second

// every is what a ledger does, whichever its engine.
var every = map[string]func(*testing.T, *DB){
	"pay":          testPay,
	"concurrently": testPayConcurrently,
	"invoice":      testInvoice,
	"payments":     testPayments,
	"add":          testAdd,
	"cancelled":    testCancelled,
	"sweep":        testSweep,
}

// open returns a ledger with three invoices.
func open(t *testing.T, database string) *DB {
	t.Helper()
	db, err := Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := db.Add(t.Context(), []Invoice{
		{ID: "INV-1", Owner: alice, Amount: eur12},
		{ID: "INV-2", Owner: alice, Amount: eur12},
		{ID: "INV-3", Owner: bob, Amount: eur12},
	}); err != nil {
		t.Fatal(err)
	}
	return db
}

// reopen has what was paid still paid after a restart.
func reopen(t *testing.T, database string) {
	t.Helper()
	for round := range 3 {
		db, err := Open(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if _, err := db.Add(t.Context(), []Invoice{{ID: "INV-1", Owner: alice, Amount: eur12}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, repeated, err := db.Pay(t.Context(), order("r1", fmt.Sprint("h", round))); err != nil || repeated != (round > 0) {
			t.Errorf("round %d: %v, %v", round, repeated, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func order(request, handoff string) Order {
	return Order{Payer: alice, InvoiceID: "INV-1", Amount: eur12, RequestID: request, HandoffID: handoff, Memo: "m", Time: noon}
}

func count(t *testing.T, db *DB) (n int) {
	t.Helper()
	if err := db.read.QueryRow(`SELECT COUNT(*) FROM payments`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func testPay(t *testing.T, db *DB) {
	first, repeated, err := db.Pay(t.Context(), order("r1", "h1"))
	if err != nil || repeated {
		t.Fatal(repeated, err)
	}
	want := Payment{ID: first.ID, InvoiceID: "INV-1", Amount: eur12, Time: noon, Memo: "m", HandoffID: "h1"}
	if diff := cmp.Diff(want, first); diff != "" || len(first.ID) < 26 {
		t.Error(diff, first.ID)
	}
	other := func(change func(*Order)) Order {
		o := order("r1", "h2")
		o.Memo, o.Time = "another", noon.Add(time.Hour)
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		order Order
		want  error
	}{
		"the same again, with another memo":   {other(func(*Order) {}), nil},
		"the same by the same handoff":        {other(func(o *Order) { o.HandoffID = "h1" }), nil},
		"the id with another amount":          {other(func(o *Order) { o.Amount.MinorUnits++ }), ErrRequestReused},
		"the id with another currency":        {other(func(o *Order) { o.Amount.CurrencyCode = "USD" }), ErrRequestReused},
		"the id with another invoice":         {other(func(o *Order) { o.InvoiceID = "INV-2" }), ErrRequestReused},
		"another id":                          {other(func(o *Order) { o.RequestID = "r2" }), ErrPaid},
		"another amount":                      {other(func(o *Order) { o.RequestID, o.InvoiceID, o.Amount.MinorUnits = "r2", "INV-2", 1 }), ErrAmount},
		"nobody's invoice":                    {other(func(o *Order) { o.RequestID, o.InvoiceID = "r2", "INV-9" }), ErrNotFound},
		"somebody else's invoice":             {other(func(o *Order) { o.RequestID, o.InvoiceID = "r2", "INV-3" }), ErrNotFound},
		"a namesake's at another issuer":      {other(func(o *Order) { o.Payer.Issuer = "https://other.example" }), ErrNotFound},
		"another invoice by the same handoff": {other(func(o *Order) { o.RequestID, o.InvoiceID, o.HandoffID = "r2", "INV-2", "h1" }), ErrHandoffReused},
	} {
		p, repeated, err := db.Pay(t.Context(), c.order)
		if !errors.Is(err, c.want) || repeated != (c.want == nil) {
			t.Errorf("%s: got %v, %v; want %v", name, repeated, err, c.want)
		}
		if diff := cmp.Diff(first, p); c.want == nil && diff != "" {
			t.Errorf("%s: not the first payment: %s", name, diff)
		}
		if n := count(t, db); n != 1 {
			t.Fatalf("%s: %d payments", name, n)
		}
	}
	// Ids are the payer's own: bob's r1 is another request.
	bobs := order("r1", "h3")
	bobs.Payer, bobs.InvoiceID = bob, "INV-3"
	if _, repeated, err := db.Pay(t.Context(), bobs); repeated || err != nil {
		t.Error("another payer's request id:", repeated, err)
	}
	for _, handoff := range []string{"h1", "h2"} { // h2 was answered with the payment that h1 made
		if p, err := db.PaymentBy(t.Context(), alice, handoff); err != nil || !cmp.Equal(p, first) {
			t.Errorf("the payment by %s: %v, %v", handoff, p, err)
		}
	}
	for _, c := range []struct {
		payer   Owner
		handoff string
	}{
		{alice, "h3"}, {alice, "h4"}, {alice, ""}, {bob, "h1"}, {bob, "h2"}, {Owner{Issuer: "https://other.example", Subject: alice.Subject}, "h1"},
	} {
		if p, err := db.PaymentBy(t.Context(), c.payer, c.handoff); !errors.Is(err, ErrNotFound) {
			t.Errorf("the payment of %v by %q: %v, %v", c.payer, c.handoff, p, err)
		}
	}
}

// However many try at once, an invoice is paid once.
func testPayConcurrently(t *testing.T, db *DB) {
	for name, c := range map[string]struct {
		invoice string
		request func(int) string
	}{
		"one request id": {"INV-1", func(int) string { return "r" }},
		"many":           {"INV-2", func(i int) string { return fmt.Sprint("r", i) }},
	} {
		before := count(t, db)
		const callers = 32
		var wg sync.WaitGroup
		results := make([]error, callers)
		news := make([]bool, callers)
		for i := range callers {
			wg.Go(func() {
				o := order(c.request(i), fmt.Sprint(c.invoice, i))
				o.InvoiceID = c.invoice
				_, repeated, err := db.Pay(context.Background(), o)
				results[i], news[i] = err, err == nil && !repeated
			})
		}
		wg.Wait()
		paid := 0
		for i, err := range results {
			if news[i] {
				paid++
			}
			if err != nil && (name == "one request id" || !errors.Is(err, ErrPaid)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := count(t, db) - before; paid != 1 || n != 1 {
			t.Errorf("%s: %d calls have paid, %d payments", name, paid, n)
		}
	}
}

func testInvoice(t *testing.T, db *DB) {
	paid, _, err := db.Pay(t.Context(), order("r1", "h1"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := db.Invoice(t.Context(), alice, "INV-1")
	if diff := cmp.Diff(Invoice{ID: "INV-1", Owner: alice, Amount: eur12, Payment: &paid}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := db.Invoice(t.Context(), alice, "INV-2"); err != nil || got.Payment != nil {
		t.Error(got, err)
	}
	for _, owner := range []Owner{bob, {}, {alice.Issuer, "U-ALICE"}, {alice.Subject, alice.Issuer}} {
		if _, err := db.Invoice(t.Context(), owner, "INV-1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v: %v", owner, err)
		}
	}
}

func testPayments(t *testing.T, db *DB) {
	const n = 7
	var invoices []Invoice
	for i := range n {
		invoices = append(invoices, Invoice{ID: fmt.Sprint("X-", i), Owner: alice, Amount: eur12})
	}
	if _, err := db.Add(t.Context(), invoices); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		o := order(fmt.Sprint("r", i), fmt.Sprint("h", i))
		o.InvoiceID, o.Time = fmt.Sprint("X-", i), noon.Add(time.Duration(i/3)*time.Second) // three at one instant
		if _, _, err := db.Pay(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	var last Payment
	seen := map[string]bool{}
	for {
		page, err := db.Payments(t.Context(), alice, "", last, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			if p.Time.Before(last.Time) || seen[p.ID] {
				t.Errorf("%v after %v", p, last)
			}
			seen[p.ID], last = true, p
		}
		if len(page) < 2 {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d payments of %d", len(seen), n)
	}
	if page, err := db.Payments(t.Context(), alice, "X-3", Payment{}, 10); err != nil || len(page) != 1 || page[0].InvoiceID != "X-3" {
		t.Error("of one invoice:", page, err)
	}
	if page, err := db.Payments(t.Context(), bob, "", Payment{}, 10); err != nil || len(page) != 0 {
		t.Error("bob's:", page, err)
	}
	if page, err := db.Payments(t.Context(), bob, "X-3", Payment{}, 10); err != nil || len(page) != 0 {
		t.Error("alice's, asked for by bob:", page, err)
	}
}

func testAdd(t *testing.T, db *DB) {
	added, err := db.Add(t.Context(), []Invoice{{ID: "INV-1", Owner: alice, Amount: eur12}, {ID: "INV-4", Owner: alice, Amount: eur12}})
	if added != 1 || err != nil {
		t.Error(added, err)
	}
	for _, changed := range []Invoice{
		{ID: "INV-1", Owner: bob, Amount: eur12},
		{ID: "INV-1", Owner: alice, Amount: Amount{"EUR", 1}},
	} {
		if added, err := db.Add(t.Context(), []Invoice{{ID: "INV-5", Owner: alice, Amount: eur12}, changed}); added != 0 || err == nil {
			t.Errorf("%v: %d, %v", changed, added, err)
		}
	}
	if _, err := db.Invoice(t.Context(), alice, "INV-5"); !errors.Is(err, ErrNotFound) {
		t.Error("half of a refused list was kept:", err)
	}
	if added, err := db.Add(t.Context(), []Invoice{{ID: "INV-6", Owner: alice, Amount: Amount{"EUR", 0}}}); added != 0 || err == nil {
		t.Error("an invoice of nothing:", added, err)
	}
}

// unavailable checks that err is none of the ledger's own answers.
func unavailable(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("it worked")
	}
	for _, own := range []error{ErrNotFound, ErrPaid, ErrAmount, ErrRequestReused, ErrHandoffReused} {
		if errors.Is(err, own) {
			t.Errorf("got %v", err)
		}
	}
}

// A call whose caller has gone pays nothing.
func testCancelled(t *testing.T, db *DB) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := db.Pay(ctx, order("r1", "h1"))
	unavailable(t, err)
	if n := count(t, db); n != 0 {
		t.Error(n, "payments")
	}
	if err := db.Ready(ctx); err == nil {
		t.Error("it is ready for somebody who has gone")
	}
}

// I04: a handoff that was answered with an earlier one's payment is kept while its token
// can come again, and not for ever. What has paid stays.
func testSweep(t *testing.T, db *DB) {
	first := order("r1", "paid")
	first.Expires = noon
	paid, _, err := db.Pay(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	again := func(handoff string, expires time.Time) {
		t.Helper()
		o := order("r1", handoff)
		o.Expires = expires
		if _, repeated, err := db.Pay(t.Context(), o); err != nil || !repeated {
			t.Fatal(repeated, err)
		}
	}
	again("over", noon)
	again("alive", noon.Add(time.Millisecond))
	const more = SweepBatch - 1
	err = db.change(t.Context(), ordinary, func(ctx context.Context, tx *sql.Tx) error {
		for i := range more {
			o := order("r1", fmt.Sprint("more", i))
			o.Expires = noon.Add(-time.Hour)
			if err := noteHandoff(ctx, tx, o, paid); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO handoffs (issuer, handoff_id, payment_id) VALUES ($1, 'of a former program', $2)`, alice.Issuer, paid.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{SweepBatch, 1, 0} {
		if gone, err := db.Sweep(t.Context(), noon); err != nil || gone != want {
			t.Errorf("%d handoffs go, want %d; %v", gone, want, err)
		}
	}
	for handoff, stays := range map[string]bool{"paid": true, "over": false, "alive": true, "more0": false, "of a former program": false} {
		p, err := db.PaymentBy(t.Context(), alice, handoff)
		if stays && (err != nil || !cmp.Equal(p, paid)) || !stays && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, %v", handoff, p, err)
		}
	}
}
