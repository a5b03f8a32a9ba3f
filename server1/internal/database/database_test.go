package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/serving/sqlite"
	"github.com/handoff-auth/handoff/shared/trust"
)

// start is behind the clock of a PostgreSQL.
var start = time.Date(2020, 1, 1, 12, 0, 0, 0, time.UTC)

// engine is where the shared tests run.
type engine struct {
	// locate returns where a new database is to be.
	locate func(t testing.TB) string
}

func sqliteEngine() engine {
	return engine{func(t testing.TB) string { return filepath.Join(t.TempDir(), "server1.db") }}
}

// TestEngines runs what must be the same on every engine.
func TestEngines(t *testing.T) {
	tests := map[string]func(*testing.T, engine){
		"users": testUsers, "session life": testSessionLife, "session expires": testSessionExpires,
		"session of another user": testSessionOfAnotherUserThanChecked, "record handoff": testRecordHandoff, "record visit": testRecordVisit,
		"concurrent changes": testConcurrentChanges, "change panics": testChangePanics,
		"handoffs are taken back": testTakenBack, "nothing alive": testNothingAlive, "wrong clock": testWrongClock, "many sessions": testManySessions, "sessions bounded": testSessionsBounded, "sessions bounded ahead": testSessionsBoundedAhead, "cut off": testCutOff, "cut off ahead": testCutOffAhead,
		"cut off while issuing": testCutOffWhileIssuing, "revoke handoff": testRevokeHandoff, "revoked too many": testRevokedTooMany, "revoke session": testRevokeSession,
		"change password": testChangePassword, "disable user": testDisableUser, "enable user": testEnableUser,
		"set password": testSetPassword, "change roles": testChangeRoles, "sweep": testSweep, "I15 sweep many": testSweepMany,
		"terms": testTerms, "ring": testRing, "ring is read": testRingIsRead, "seq": testSeq, "wrong clock does nothing": testWrongClockDoesNothing, "one moment": testOneMoment, "audit": testAudit, "upgrade": testUpgrade, "backup": testBackup, "changes": testChanges, "read once": testReadOnce,
		"read by many": testReadByMany, "read at once": testReadAtOnce, "a client's own handoff": testRevokeClientsHandoff, "K04 a grant's sid": testRevokeGrantBySession, "a grant's end": testGrantEnds, "other roles": testOtherRoles,
		"grants bounded": testGrantsBounded, "unused grant": testUnusedGrant, "cut off a client": testCutOffClient, "K04 grants audited": testGrantsAudited, "many grants": testManyGrants, "K02 spent": testSpent,
	}
	for name, test := range tests {
		t.Run("SQLite/"+name, func(t *testing.T) { test(t, sqliteEngine()) })
	}
	t.Run("PostgreSQL", func(t *testing.T) {
		server := servingtest.StartPostgres(t)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) { test(t, engine{server.Database}) })
		}
	})
}

func (e engine) open(t testing.TB) (*DB, string) {
	t.Helper()
	location := e.locate(t)
	return openAt(t, location), location
}

func openAt(t testing.TB, location string) *DB {
	t.Helper()
	db, err := Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func open(t *testing.T) (*DB, string) {
	t.Helper()
	return sqliteEngine().open(t)
}

func addUser(t *testing.T, db *DB, name string) User {
	t.Helper()
	u := User{ID: handoff.NewID(), Name: name, PasswordHash: "hash of " + name, Roles: []string{"payer", "reader"}, Created: start}
	if err := db.AddUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return u
}

func newSession(u User) Session {
	return Session{
		IDSHA256: handoff.NewID(), HandoffID: handoff.NewID(), User: u,
		Created: start, IdleExpires: start.Add(time.Minute), Expires: start.Add(time.Hour),
	}
}

func startSession(t *testing.T, db *DB, u User) Session {
	t.Helper()
	s := newSession(u)
	if err := db.StartSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func claims() *handoff.Claims {
	return &handoff.Claims{ID: handoff.NewID(), Audience: "https://billing.example", Method: "/a.B/C", IssuedAt: start, Expires: start.Add(time.Minute)}
}

// order is the order in which rows were added.
func order(db *DB) string {
	if db.dialect.hold == "" {
		return "rowid"
	}
	return "ctid"
}

// mustExec does what no method does.
func mustExec(t testing.TB, db *DB, statement string, args ...any) {
	t.Helper()
	err := db.change(t.Context(), func(ctx context.Context, tx *transaction) error {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// events returns the audit as "event user session handoff" rows.
func events(t *testing.T, db *DB) (all []string) {
	t.Helper()
	rows, err := db.read.Query(`SELECT event, user_id, COALESCE(session, ''), COALESCE(handoff_id, '') FROM audit ORDER BY ` + order(db))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var e, user, session, id string
		if err := rows.Scan(&e, &user, &session, &id); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(strings.Join([]string{e, user, session, id}, " ")))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func count(t *testing.T, db *DB, table string) (n int) {
	t.Helper()
	if err := db.read.QueryRow(`SELECT COUNT(*) FROM ` + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func testUsers(t *testing.T, e engine) {
	db, _ := e.open(t)
	alice := addUser(t, db, "alice")
	got, err := db.UserByName(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alice, got); diff != "" {
		t.Error(diff)
	}
	if err := db.AddUser(t.Context(), User{ID: handoff.NewID(), Name: "alice"}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a second alice: got %v, want ErrNameTaken", err)
	}
	if _, err := db.UserByName(t.Context(), "bob"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: got %v, want ErrNotFound", err)
	}
	aaron := addUser(t, db, "aaron")
	all, err := db.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]User{aaron, alice}, all); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"user_added " + alice.ID, "user_added " + aaron.ID}, events(t, db)); diff != "" {
		t.Error(diff)
	}
}

func testSessionLife(t *testing.T, e engine) {
	db, _ := e.open(t)
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)

	got, err := db.LiveSession(t.Context(), s.IDSHA256, start)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if err := db.EndSession(t.Context(), s, start); err != nil {
		t.Fatal(err)
	}
	if _, err := db.LiveSession(t.Context(), s.IDSHA256, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its end: got %v, want ErrNotFound", err)
	}
	if err := db.EndSession(t.Context(), s, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("ending it twice: got %v, want ErrNotFound", err)
	}
	want := []string{"user_added " + alice.ID, "signed_in " + alice.ID + " " + s.HandoffID, "signed_out " + alice.ID + " " + s.HandoffID}
	if diff := cmp.Diff(want, events(t, db)); diff != "" {
		t.Error(diff)
	}
}

func testSessionExpires(t *testing.T, e engine) {
	db, _ := e.open(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	live := func(at time.Time) bool {
		_, err := db.LiveSession(t.Context(), s.IDSHA256, at)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	if !live(s.IdleExpires.Add(-time.Millisecond)) || live(s.IdleExpires) {
		t.Error("the session does not end at its idle expiry")
	}
	if err := db.KeepSession(t.Context(), s, start, s.Expires); err != nil {
		t.Fatal(err)
	}
	if !live(s.IdleExpires) || !live(s.Expires.Add(-time.Millisecond)) || live(s.Expires) {
		t.Error("the kept session does not end at its absolute expiry")
	}
	for what, keep := range map[string]struct{ now, until time.Time }{
		"past the absolute expiry": {start, s.Expires.Add(time.Millisecond)},
		"back":                     {start, start.Add(time.Second)},
		"after it is over":         {s.Expires, s.Expires},
	} {
		if err := db.KeepSession(t.Context(), s, keep.now, keep.until); err != nil {
			t.Fatal(err)
		}
		if !live(s.Expires.Add(-time.Millisecond)) || live(s.Expires) {
			t.Errorf("a session moved %s", what)
		}
	}
	next := newSession(s.User)
	next.Created, next.IdleExpires, next.Expires = s.Expires, s.Expires.Add(time.Minute), s.Expires.Add(time.Hour)
	if err := db.StartSession(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Sweep(t.Context(), Sessions, s.Expires); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "sessions"); n != 1 {
		t.Errorf("%d sessions are kept, want only the new one", n)
	}
}

// A user who was disabled, or whose password was changed, between the check of
// the password and the start of the session gets none.
func testSessionOfAnotherUserThanChecked(t *testing.T, e engine) {
	db, _ := e.open(t)
	alice, bob := addUser(t, db, "alice"), addUser(t, db, "bob")
	s := startSession(t, db, bob)
	stale := alice
	stale.PasswordHash = "yesterday's"
	mustExec(t, db, `UPDATE users SET disabled_at = 1 WHERE name = 'bob'`)
	for _, u := range []User{stale, bob} {
		if err := db.StartSession(t.Context(), newSession(u)); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", u.Name, err)
		}
	}
	if _, err := db.LiveSession(t.Context(), s.IDSHA256, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("a disabled user's session: got %v, want ErrNotFound", err)
	}
	if err := db.RecordHandoff(t.Context(), s, claims(), start); !errors.Is(err, ErrNotFound) {
		t.Errorf("a disabled user's handoff: got %v, want ErrNotFound", err)
	}
}

func testRecordHandoff(t *testing.T, e engine) {
	db, _ := e.open(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	c := claims()
	if err := db.RecordHandoff(t.Context(), s, c, start); err != nil {
		t.Fatal(err)
	}
	want := "handoff_issued " + s.User.ID + " " + s.HandoffID + " " + c.ID
	if got := events(t, db); got[len(got)-1] != want {
		t.Errorf("got %q, want %q", got[len(got)-1], want)
	}
	if err := db.EndSession(t.Context(), s, start); err != nil {
		t.Fatal(err)
	}
	before := count(t, db, "audit")
	if err := db.RecordHandoff(t.Context(), s, claims(), start); !errors.Is(err, ErrNotFound) {
		t.Errorf("after signing out: got %v, want ErrNotFound", err)
	}
	if count(t, db, "audit") != before {
		t.Error("a refused handoff left a row")
	}
}

// A user has so many visits that stand, though they ask for them all at once; and of all
// those that stand the list has as many as it can.
func testRecordVisit(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	visit := func() *handoff.Claims {
		c := claims()
		c.Method, c.Fields, c.Methods, c.Expires = "", nil, []string{"/a.B/C"}, start.Add(30*time.Second) // before the session does
		return c
	}
	const most = 3
	var all sync.WaitGroup
	var recorded, refused atomic.Int32
	for range 8 {
		all.Go(func() {
			switch err := db.RecordVisit(t.Context(), s, visit(), most, start); {
			case err == nil:
				recorded.Add(1)
			case errors.Is(err, ErrTooMany):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if recorded.Load() != most || refused.Load() != 5 {
		t.Errorf("%d visits are recorded, %d refused", recorded.Load(), refused.Load())
	}
	if err := db.RecordHandoff(t.Context(), s, claims(), start); err != nil {
		t.Error(err)
	}
	visits, err := db.Visits(t.Context(), start)
	if err != nil || len(visits) != most {
		t.Fatalf("%d visits, %v", len(visits), err)
	}
	if err := db.RecordVisit(t.Context(), s, visit(), most, visits[0].Expires); err != nil {
		t.Errorf("once they have expired: %v", err)
	}
	again := startSession(t, db, addUser(t, db, "bob"))
	for _, test := range []struct {
		name string
		end  func() error
	}{
		{"a session", func() error { return db.EndSession(t.Context(), again, start) }},
		{"all sessions", func() error { return db.EndSessions(t.Context(), again, start) }},
	} {
		for range most {
			if err := db.RecordVisit(t.Context(), again, visit(), most, start); err != nil {
				t.Fatal(err)
			}
		}
		if err := test.end(); err != nil {
			t.Fatal(err)
		}
		if visits, err := db.Visits(t.Context(), start); err != nil || len(visits) != most+1 { // those of alice
			t.Errorf("once %s is over, %d visits stand, %v: what is taken back takes room on the list", test.name, len(visits), err)
		}
		again = startSession(t, db, again.User)
	}
	listed := addUser(t, db, "carol")
	const batch = 5000 // within the time of a statement, on a busy machine
	for from := 0; from < trust.MaxVisits+5; from += batch {
		mustExec(t, db, fmt.Sprintf(`INSERT INTO audit (occurred_at, event, user_id, handoff_id, expires_at)
			WITH RECURSIVE n (i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			SELECT %d, 'visit_issued', '%s', '', %d + i FROM n`, from+1, min(from+batch, trust.MaxVisits+5), start.UnixMilli(), listed.ID, start.Add(time.Hour).UnixMilli()))
	}
	visits, err = db.Visits(t.Context(), start)
	last := start.Add(time.Hour + (trust.MaxVisits+5)*time.Millisecond).UnixMilli()
	if err != nil || len(visits) != trust.MaxVisits || visits[0].Expires.UnixMilli() != last || visits[len(visits)-1].Expires.UnixMilli() != last-trust.MaxVisits+1 {
		t.Errorf("%d visits, %v", len(visits), err)
	}
	unused := startSession(t, db, addUser(t, db, "dan"))
	for range most {
		if err := db.RecordVisit(t.Context(), unused, visit(), most, start); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, db, `DELETE FROM sessions WHERE user_id = $1`, unused.User.ID) // as one that nobody used is
	if err := db.RecordVisit(t.Context(), startSession(t, db, unused.User), visit(), most, start); !errors.Is(err, ErrTooMany) {
		t.Errorf("beside visits whose session has ended by itself: %v", err)
	}
}

// SQLite compiles a statement each time that it runs, unless it is prepared.
func TestHandoffsArePrepared(t *testing.T) {
	db, _ := open(t)
	for _, statement := range []string{recordHandoff, recordByClient, recordByGrant, noteHandoff, noteGrant} {
		if db.prepared[statement] == nil {
			t.Errorf("is not prepared: %s", statement)
		}
	}
}

// changes are all the methods that write, each on a database that has s.
func changes(db *DB, s Session) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"AddUser": func(ctx context.Context) error {
			return db.AddUser(ctx, User{ID: handoff.NewID(), Name: "carol", PasswordHash: strings.Repeat("x", 5000)})
		},
		"StartSession":  func(ctx context.Context) error { return db.StartSession(ctx, newSession(s.User)) },
		"KeepSession":   func(ctx context.Context) error { return db.KeepSession(ctx, s, start, s.Expires) },
		"EndSession":    func(ctx context.Context) error { return db.EndSession(ctx, s, start) },
		"RecordHandoff": func(ctx context.Context) error { return db.RecordHandoff(ctx, s, claims(), start) },
	}
}

func TestLockedDatabaseKeepsNothing(t *testing.T) {
	db, path := open(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	before := fmt.Sprint(events(t, db), count(t, db, "users"), count(t, db, "sessions"))

	other, err := sql.Open("sqlite", sqlite.Source(path, "immediate"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	lock, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range changes(db, s) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := change(ctx); err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNameTaken) {
			t.Errorf("%s with the database locked: got %v", name, err)
		}
		cancel()
	}
	if _, err := db.LiveSession(t.Context(), s.IDSHA256, start); err != nil {
		t.Errorf("a writer stops readers: %v", err)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprint(events(t, db), count(t, db, "users"), count(t, db, "sessions")); after != before {
		t.Errorf("something is half-done: %s, before %s", after, before)
	}
	for name, change := range changes(db, s) {
		if name == "EndSession" {
			continue // the others need the session
		}
		if err := change(t.Context()); err != nil {
			t.Errorf("%s once the lock is gone: %v", name, err)
		}
	}
}

func TestFullDiskKeepsNothing(t *testing.T) {
	db, _ := open(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	var pages int
	if err := db.read.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
	// Each change fits until the last free page is used, so each is repeated until it does not.
	var full error
	written := 0
	for range 1000 {
		if full = db.RecordHandoff(t.Context(), s, claims(), start); full != nil {
			break
		}
		written++
	}
	if full == nil || errors.Is(full, ErrNotFound) {
		t.Fatalf("a full disk: got %v", full)
	}
	before := fmt.Sprint(events(t, db), count(t, db, "users"), count(t, db, "sessions"))
	if n := len(events(t, db)); n != written+2 {
		t.Errorf("%d rows for %d acknowledged handoffs", n-2, written)
	}
	for _, name := range []string{"AddUser", "RecordHandoff"} {
		if err := changes(db, s)[name](t.Context()); err == nil {
			t.Errorf("%s on a full disk succeeded", name)
		}
	}
	if after := fmt.Sprint(events(t, db), count(t, db, "users"), count(t, db, "sessions")); after != before {
		t.Errorf("something is half-done: %s, before %s", after, before)
	}
	mustExec(t, db, `PRAGMA max_page_count = 1000000`)
	if err := db.RecordHandoff(t.Context(), s, claims(), start); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

func testConcurrentChanges(t *testing.T, e engine) {
	db, path := e.open(t)
	second := openAt(t, path) // as `user add` beside a running server
	alice := addUser(t, db, "alice")
	var wg sync.WaitGroup
	for i := range 4 {
		db := []*DB{db, second}[i%2]
		wg.Go(func() {
			for range 10 {
				s := newSession(alice)
				for _, err := range []error{
					db.StartSession(t.Context(), s), db.RecordHandoff(t.Context(), s, claims(), start),
					db.KeepSession(t.Context(), s, start, s.Expires), db.EndSession(t.Context(), s, start),
				} {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, db, "audit"); n != 1+4*10*3 {
		t.Errorf("%d events, want %d", n, 1+4*10*3)
	}
}

// A change that panics takes neither the turn nor its neighbours with it.
func testChangePanics(t *testing.T, e engine) {
	db, _ := e.open(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is swallowed")
			}
		}()
		_ = db.change(t.Context(), func(context.Context, *transaction) error { panic("no") })
	}()
	addUser(t, db, "alice")
}

func TestSurvivesReopening(t *testing.T) {
	db, path := open(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	again, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.LiveSession(t.Context(), s.IDSHA256, start); err != nil {
		t.Error(err)
	}
	if err := again.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	for _, file := range []string{path, path + "-wal", path + "-shm"} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", filepath.Base(file), info.Mode(), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	db, newer := open(t)
	mustExec(t, db, `INSERT INTO migrations (version, applied_at) VALUES (1000, 0)`)
	for what, path := range map[string]string{
		"no folder":               filepath.Join(dir, "missing", "x.db"),
		"a folder":                dir,
		"no database":             write("text", strings.Repeat("this is not a database. ", 100), 0o600),
		"readable by others":      write("open", "", 0o644),
		"of a newer program":      newer,
		"a file where a dir goes": filepath.Join(write("file", "", 0o600), "x.db"),
	} {
		if db, err := Open(t.Context(), path); err == nil {
			db.Close()
			t.Errorf("%s: opened", what)
		}
	}
}

// A path is a path, even with characters that mean something in a URI.
func TestOpenStrangePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?mode=memory#%41&x.db")
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	addUser(t, db, "alice")
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("the database is not at its path: %v, %v", info, err)
	}
}

func BenchmarkLiveSession(b *testing.B) {
	db, err := Open(b.Context(), filepath.Join(b.TempDir(), "server1.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	u := User{ID: handoff.NewID(), Name: "alice", PasswordHash: "x", Created: start}
	s := newSession(u)
	if err := errors.Join(db.AddUser(b.Context(), u), db.StartSession(b.Context(), s)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := db.LiveSession(b.Context(), s.IDSHA256, start); err != nil {
			b.Fatal(err)
		}
	}
}

// 64 callers at once; on PostgreSQL for one user, and for 1,000.
func BenchmarkRecordHandoff(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) { benchmarkRecord(b, sqliteEngine(), 1) })
	for _, users := range []int{1, 1000} {
		b.Run(fmt.Sprintf("PostgreSQL/%d", users), func(b *testing.B) {
			benchmarkRecord(b, engine{servingtest.StartPostgres(b).Database}, users)
		})
	}
}

func benchmarkRecord(b *testing.B, e engine, users int) {
	db, _ := e.open(b)
	sessions := make([]Session, users)
	for i := range sessions {
		u := User{ID: handoff.NewID(), Name: fmt.Sprint("user", i), PasswordHash: "x", Created: start}
		sessions[i] = newSession(u)
		if err := errors.Join(db.AddUser(b.Context(), u), db.StartSession(b.Context(), sessions[i])); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := db.RecordHandoff(b.Context(), sessions[int(next.Add(1))%users], claims(), start); err != nil {
				b.Error(err)
			}
		}
	})
}

// 64 callers at once, as one client.
func BenchmarkRecordByClient(b *testing.B) {
	db, _ := sqliteEngine().open(b)
	nightly := addClient(b, db, "nightly", 1)
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := db.RecordByClient(b.Context(), assert(nightly, nil, User{}), claims(), start); err != nil {
				b.Error(err)
			}
		}
	})
}
