package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/serving/sqlite"
)

func openFile(t *testing.T) *DB {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "server2.db"))
}

// exec does what no method does.
func exec(t *testing.T, db *DB, statement string) {
	t.Helper()
	err := db.change(t.Context(), ordinary, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, statement)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	for name, test := range every {
		t.Run(name, func(t *testing.T) { test(t, openFile(t)) })
	}
}

// A database that another process has locked is unavailable, in good time, for
// what writes; reading goes on. Nothing is kept of what did not succeed.
func TestLocked(t *testing.T) {
	t.Parallel()
	db := openFile(t)
	var path string
	if err := db.read.QueryRow(`SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", sqlite.Source(path, "exclusive"))
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
	if took := time.Since(start); took > patience+late {
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
	db := openFile(t)
	exec(t, db, `PRAGMA max_page_count = 1`) // no more than it has
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
	exec(t, db, `PRAGMA max_page_count = 100000`)
	if _, repeated, err := db.Pay(t.Context(), o); repeated || err != nil {
		t.Error("once there is room:", repeated, err)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a b?c%.db")
	reopen(t, path)
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
		newer:   `INSERT INTO migrations VALUES (99, 0)`,
		foreign: `DROP TABLE payments; DROP TABLE invoices`,
	} {
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, statement)
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
