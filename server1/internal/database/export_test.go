package database

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

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/sqlite"
)

// The audit comes out whole and in order, in batches, from the moment on that was asked
// for, also where many rows are of one moment.
func testAudit(t *testing.T, e engine) {
	db, _ := e.open(t)
	u := addUser(t, db, "alice")
	const more = 2*exportBatch + 7
	const second = 100 // rows of one, in a change of their own, which has 3 s
	for first := 0; first < more; first += second {
		err := db.writer.Change(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			at := start.Add(time.Duration(first/second) * time.Second)
			for i := first; i < min(first+second, more); i++ {
				err := record(ctx, &transaction{Tx: tx}, event{kind: eventHandoffIssued, at: at, user: u.ID, handoff: fmt.Sprint(i), expires: at.Add(time.Minute), client: "c"})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for since, want := range map[time.Time]int{{}: more + 1, start: more + 1, start.Add(time.Second): more - second, start.Add(time.Hour): 0} {
		var all []AuditRow
		if err := db.Audit(t.Context(), since, func(r AuditRow) error { all = append(all, r); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(all) != want {
			t.Errorf("since %v: %d rows, want %d", since, len(all), want)
		}
		seen := map[int64]bool{}
		for i, r := range all {
			if seen[r.ID] || i > 0 && r.Time.Before(all[i-1].Time) || r.Subject != u.ID {
				t.Fatalf("row %d: %+v", i, r)
			}
			seen[r.ID] = true
		}
		if want == more-second && (all[0].Handoff != fmt.Sprint(second) || !all[0].Expires.Equal(start.Add(time.Minute+time.Second)) || all[0].Client != "c") {
			t.Errorf("the first row is %+v", all[0])
		}
	}
	stop := errors.New("stop")
	if err := db.Audit(t.Context(), time.Time{}, func(AuditRow) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

// A database that any earlier program has made, from the first on, is brought up to date
// when it is opened, and has lost nothing.
func testUpgrade(t *testing.T, e engine) {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	for made := 1; made <= len(files); made++ {
		location := e.locate(t)
		driver, source, inOrder := "sqlite", sqlite.Source(location, "immediate"), "INTEGER PRIMARY KEY"
		if strings.HasPrefix(location, "postgres") {
			driver, source, inOrder = "pgx", location, "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
		}
		old, err := sql.Open(driver, source)
		if err != nil {
			t.Fatal(err)
		}
		run := func(statement string, args ...any) {
			t.Helper()
			if _, err := old.Exec(statement, args...); err != nil {
				t.Fatalf("version %d: %v", made, err)
			}
		}
		run(`CREATE TABLE migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)`)
		for i, file := range files[:made] {
			text, err := migrations.ReadFile("migrations/" + file.Name())
			if err != nil {
				t.Fatal(err)
			}
			run(strings.ReplaceAll(string(text), "IN ORDER,", inOrder+","))
			run(`INSERT INTO migrations (version, applied_at) VALUES ($1, $2)`, i+1, 1)
		}
		user, session := handoff.NewID(), newSession(User{})
		run(`INSERT INTO users (id, name, password_hash, roles, created_at) VALUES ($1, 'alice', 'hash', 'payer', 1)`, user)
		run(`INSERT INTO sessions (id_sha256, handoff_id, user_id, created_at, idle_expires_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			session.IDSHA256, session.HandoffID, user, toMillis(start), toMillis(session.IdleExpires), toMillis(session.Expires))
		run(`INSERT INTO audit (occurred_at, event, user_id) VALUES ($1, 'user_added', $2)`, toMillis(start), user)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		if driver == "sqlite" {
			if err := os.Chmod(location, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db := openAt(t, location)
		users, err := db.Users(t.Context())
		if err != nil || len(users) != 1 || users[0].ID != user || users[0].PasswordHash != "hash" {
			t.Errorf("from version %d: users %+v, %v", made, users, err)
		}
		if err := db.EndSession(t.Context(), Session{IDSHA256: session.IDSHA256, HandoffID: session.HandoffID, User: User{ID: user}}, start); err != nil {
			t.Errorf("from version %d: ending the session: %v", made, err)
		}
		var events []string
		if err := db.Audit(t.Context(), time.Time{}, func(r AuditRow) error { events = append(events, r.Event); return nil }); err != nil {
			t.Error(err)
		}
		if got := strings.Join(events, " "); got != "user_added signed_out" {
			t.Errorf("from version %d: the audit has %q", made, got)
		}
	}
}

// A copy has what was there, and a PostgreSQL says who copies it.
func testBackup(t *testing.T, e engine) {
	db, location := e.open(t)
	u := addUser(t, db, "alice")
	file := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := db.Backup(t.Context(), file)
	if strings.HasPrefix(location, "postgres") {
		if !errors.Is(err, errNotAFile) {
			t.Errorf("got %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	addUser(t, db, "bob")
	if users, err := openAt(t, file).Users(t.Context()); err != nil || len(users) != 1 || users[0].ID != u.ID {
		t.Errorf("the copy has %+v, %v", users, err)
	}
}
