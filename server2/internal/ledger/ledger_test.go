package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

func open(t *testing.T) *DB {
	t.Helper()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "server2.db"))
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

func TestPay(t *testing.T) {
	db := open(t)
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
}

// However many try at once, an invoice is paid once.
func TestPayConcurrently(t *testing.T) {
	for name, request := range map[string]func(int) string{
		"one request id": func(int) string { return "r" },
		"many":           func(i int) string { return fmt.Sprint("r", i) },
	} {
		db := open(t)
		const callers = 32
		var wg sync.WaitGroup
		results := make([]error, callers)
		news := make([]bool, callers)
		for i := range callers {
			wg.Go(func() {
				_, repeated, err := db.Pay(context.Background(), order(request(i), fmt.Sprint("h", i)))
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
		if n := count(t, db); paid != 1 || n != 1 {
			t.Errorf("%s: %d calls have paid, %d payments", name, paid, n)
		}
	}
}

func TestInvoice(t *testing.T) {
	db := open(t)
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

func TestPayments(t *testing.T) {
	db := open(t)
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

func TestAdd(t *testing.T) {
	db := open(t)
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

// A database that another process has locked is unavailable, in good time, for
// what writes; reading goes on. Nothing is kept of what did not succeed.
func TestLocked(t *testing.T) {
	db := open(t)
	var path string
	if err := db.read.QueryRow(`SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", source(path, "exclusive"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	lock, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, _, err = db.Pay(t.Context(), order("r1", "h1"))
	unavailable(t, err)
	if took := time.Since(start); took > patience+time.Second {
		t.Errorf("it took %s", took)
	}
	_, err = db.Add(t.Context(), []Invoice{{ID: "INV-4", Owner: alice, Amount: eur12}})
	unavailable(t, err)
	if in, err := db.Invoice(t.Context(), alice, "INV-1"); err != nil || in.Payment != nil {
		t.Error("reading beside the lock:", in, err)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, repeated, err := db.Pay(t.Context(), order("r1", "h1")); repeated || err != nil {
		t.Error("once it is free:", repeated, err)
	}
}

// A full disk is unavailable, and keeps nothing of what did not fit.
func TestFull(t *testing.T) {
	db := open(t)
	if _, err := db.write.Exec(`PRAGMA max_page_count = 1`); err != nil { // no more than it has
		t.Fatal(err)
	}
	var many []Invoice
	for i := range 1000 {
		many = append(many, Invoice{ID: fmt.Sprint("FULL-", i), Owner: alice, Amount: eur12})
	}
	added, err := db.Add(t.Context(), many)
	unavailable(t, err)
	if added != 0 {
		t.Error("it says that it added", added)
	}
	if _, err := db.Invoice(t.Context(), alice, "FULL-0"); !errors.Is(err, ErrNotFound) {
		t.Error("the first of them:", err)
	}
	o := order("r1", "h1")
	o.Memo = strings.Repeat("m", 64<<10) // needs pages of its own
	_, _, err = db.Pay(t.Context(), o)
	unavailable(t, err)
	if in, err := db.Invoice(t.Context(), alice, "INV-1"); err != nil || in.Payment != nil {
		t.Error("the invoice:", in, err)
	}
	if _, err := db.write.Exec(`PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if _, repeated, err := db.Pay(t.Context(), o); repeated || err != nil {
		t.Error("once there is room:", repeated, err)
	}
}

// A call whose caller has gone pays nothing.
func TestCancelled(t *testing.T) {
	db := open(t)
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

// What was paid is paid after a restart.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c%.db")
	for round := range 3 {
		db, err := Open(t.Context(), path)
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
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newer := filepath.Join(dir, "newer.db")
	foreign := filepath.Join(dir, "foreign.db")
	for path, statement := range map[string]string{
		newer:   `INSERT INTO migrations VALUES (2, 0)`,
		foreign: `DROP TABLE payments; DROP TABLE invoices`,
	} {
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.write.Exec(statement); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range map[string]string{
		"no name":              "",
		"a folder":             dir,
		"a missing folder":     filepath.Join(dir, "missing", "server2.db"),
		"no database":          file("text", strings.Repeat("not a database. ", 100), 0o600),
		"for others to read":   file("read", "", 0o604),
		"for others to write":  file("write", "", 0o620),
		"a newer program's":    newer,
		"another program's":    foreign,
		"a name with a folder": filepath.Join(file("plain", "", 0o600), "server2.db"),
	} {
		if db, err := Open(t.Context(), path); err == nil {
			t.Errorf("%s: opened", name)
			_ = db.Close()
		}
	}
}
