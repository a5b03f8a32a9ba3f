package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

var terms = trust.Terms{
	Issuer: "https://shop.example", TokenLifetime: 5 * time.Minute, ListLifetime: time.Minute, Skew: 5 * time.Second,
}

// issuing returns the database of an issuer, with a key.
func (e engine) issuing(t testing.TB) *DB {
	t.Helper()
	db, _ := e.open(t)
	if err := db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	prepare(t, db)
	return db
}

func prepare(t testing.TB, db *DB) (kid string) {
	t.Helper()
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ChangeRing(t.Context(), time.Now, func(ring rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) {
		return ring.Prepare(key.Key())
	})
	if err != nil {
		t.Fatal(err)
	}
	return key.Key().ID()
}

func issue(t testing.TB, db *DB, s Session) *handoff.Claims {
	t.Helper()
	c := claims()
	if err := db.RecordHandoff(t.Context(), s, c, start); err != nil {
		t.Fatal(err)
	}
	return c
}

// entries returns what the list states, as "kind until".
func entries(t testing.TB, db *DB, now time.Time) (all []string) {
	t.Helper()
	state, err := db.Trust(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range state.Revoked {
		all = append(all, string(e.Kind)+" "+e.Until.Sub(start).String())
	}
	slices.Sort(all)
	return all
}

func wantEntries(t testing.TB, db *DB, now time.Time, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, entries(t, db, now)); diff != "" {
		t.Error(diff)
	}
}

// What ends a session takes its handoffs back, until the last is dead by every
// clock.
func testTakenBack(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	issue(t, db, s) // lives for a minute
	if err := db.EndSession(t.Context(), s, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s")
	state, err := db.Trust(t.Context(), start)
	if err != nil || state.Revoked[0].ID != s.HandoffID || len(state.Keys) != 1 {
		t.Errorf("got %v, %v", state, err)
	}
	wantEntries(t, db, start.Add(65*time.Second-time.Millisecond), "session 1m5s")
	wantEntries(t, db, start.Add(65*time.Second))
}

// What touches no token that can be alive is not listed.
func testNothingAlive(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s, other := startSession(t, db, alice), startSession(t, db, alice)
	if err := db.EndSession(t.Context(), other, start); err != nil {
		t.Fatal(err)
	}
	c := issue(t, db, s)
	later := c.Expires.Add(terms.Skew)
	mustExec(t, db, `UPDATE sessions SET idle_expires_at = expires_at`)
	for _, err := range []error{
		db.RevokeHandoff(t.Context(), alice.ID, c.ID, later), db.EndSessions(t.Context(), s, later),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	wantEntries(t, db, later)
}

// F02: a cut-off takes back every handoff up to now, or up to the latest if that
// is ahead of this clock; and those that are recorded after it.
func testCutOff(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)
	ahead := claims() // by another process's clock
	ahead.IssuedAt, ahead.Expires = start.Add(3*time.Second), start.Add(63*time.Second)
	if err := db.RecordHandoff(t.Context(), s, ahead, start); err != nil {
		t.Fatal(err)
	}
	now := start.Add(1500 * time.Millisecond)
	if err := db.CutOffUser(t.Context(), alice.ID, now); err != nil {
		t.Fatal(err)
	}
	state, err := db.Trust(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	want, err := terms.Subject(alice.ID, ahead.IssuedAt)
	if err != nil {
		t.Fatal(err)
	}
	want.Until = ahead.Expires.Add(terms.Skew)
	if diff := cmp.Diff([]trust.Entry{want}, state.Revoked); diff != "" {
		t.Error(diff)
	}
	for what, c := range map[string]struct {
		iat     time.Time
		refused bool
	}{
		"signed before the cut-off": {start.Add(time.Second), true}, "in its second": {ahead.IssuedAt, true},
		"after it": {ahead.IssuedAt.Add(time.Second), false},
	} {
		claims := claims()
		claims.IssuedAt, claims.Expires = c.iat, c.iat.Add(time.Minute)
		var cut *CutOffError
		err := db.RecordHandoff(t.Context(), s, claims, now)
		if refused := errors.As(err, &cut); refused != c.refused || !refused && err != nil {
			t.Errorf("%s: %v", what, err)
		} else if refused && !cut.At.Equal(ahead.IssuedAt) {
			t.Errorf("%s: cut off at %s", what, cut.At)
		}
	}
	live, err := db.LiveSession(t.Context(), s.IDSHA256, now)
	if err != nil || !live.User.CutOff.Equal(ahead.IssuedAt) {
		t.Errorf("the session's user is cut off at %s, %v", live.User.CutOff, err)
	}
	if err := db.CutOffUser(t.Context(), handoff.NewID(), now); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	before := entries(t, db, now)
	if err := db.CutOffUser(t.Context(), alice.ID, start); err != nil { // by a clock behind
		t.Fatal(err)
	}
	state, err = db.Trust(t.Context(), now)
	if err != nil || len(state.Revoked) != len(before) || state.Revoked[0].Cutoff.Before(want.Cutoff) {
		t.Errorf("a cut-off goes back: %v, %v", state.Revoked, err)
	}
}

// F02: to cut a user off by a clock that is ahead takes back all that there is. Where
// the database has a clock, such a clock cuts nobody off: see testWrongClockDoesNothing.
func testCutOffAhead(t *testing.T, e engine) {
	db := e.issuing(t)
	for what, cut := range map[string]func(Session, time.Time) error{
		"an operator": func(s Session, now time.Time) error { return db.CutOffUser(t.Context(), s.User.ID, now) },
		"signing out": func(s Session, now time.Time) error { return db.EndSessions(t.Context(), s, now) },
		"a new password": func(s Session, now time.Time) error {
			return db.ChangePassword(t.Context(), s, s.User.PasswordHash, now)
		},
		"before a server": func(s Session, now time.Time) error {
			mustExec(t, db, `DELETE FROM terms`)
			return db.CutOffUser(t.Context(), s.User.ID, now)
		},
	} {
		if err := db.KeepTerms(t.Context(), terms, time.Now()); err != nil {
			t.Fatal(err)
		}
		begin := func(u User) Session {
			t.Helper()
			s := newSession(u)
			s.Created = time.Now()
			s.IdleExpires, s.Expires = s.Created.Add(2*time.Hour), s.Created.Add(3*time.Hour)
			if err := db.StartSession(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			return s
		}
		record := func(s Session, iat time.Time) error {
			c := claims()
			c.IssuedAt = iat.Truncate(time.Second)
			c.Expires = c.IssuedAt.Add(time.Minute)
			return db.RecordHandoff(t.Context(), s, c, time.Now())
		}
		s := begin(addUser(t, db, what))
		if err := record(s, time.Now()); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if err := cut(s, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		again := begin(s.User)
		var off *CutOffError
		if err := record(again, now); !errors.As(err, &off) {
			t.Errorf("%s: a handoff from before: %v", what, err)
			continue
		}
	}
}

// Whenever a user is cut off or signed out, no handoff is recorded that the
// list does not take back.
func testCutOffWhileIssuing(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	for range 5 {
		s := startSession(t, db, alice)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					err := db.RecordHandoff(t.Context(), s, claims(), start)
					var cut *CutOffError
					if errors.As(err, &cut) || errors.Is(err, ErrNotFound) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		if err := db.EndSessions(t.Context(), s, start); err != nil {
			t.Error(err)
		}
		recorded := count(t, db, "audit")
		wg.Wait()
		if late := count(t, db, "audit") - recorded; late > 0 {
			t.Errorf("%d handoffs were recorded after their session's end", late)
		}
		mustExec(t, db, `UPDATE users SET cut_off_at = 0`)
	}
}

func testRevokeHandoff(t *testing.T, e engine) {
	db := e.issuing(t)
	alice, bob := addUser(t, db, "alice"), addUser(t, db, "bob")
	c := issue(t, db, startSession(t, db, alice))
	for what, id := range map[string]string{"unknown": handoff.NewID(), "empty": "", "strange": "x' OR '1'='1"} {
		if err := db.RevokeHandoff(t.Context(), alice.ID, id, start); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := db.RevokeHandoff(t.Context(), bob.ID, c.ID, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("another user's: %v", err)
	}
	wantEntries(t, db, start)
	for range 2 {
		if err := db.RevokeHandoff(t.Context(), alice.ID, c.ID, start); err != nil {
			t.Fatal(err)
		}
	}
	wantEntries(t, db, start, "token 1m5s")
	other := issue(t, db, startSession(t, db, bob))
	if err := db.RevokeHandoff(t.Context(), "", other.ID, start); err != nil { // an operator
		t.Fatal(err)
	}
	var revoked []string
	for _, row := range events(t, db) {
		if strings.HasPrefix(row, eventHandoffRevoked) {
			revoked = append(revoked, row)
		}
	}
	if len(revoked) != 2 || !strings.Contains(revoked[0], alice.ID) || !strings.Contains(revoked[1], bob.ID) {
		t.Errorf("audit %q", revoked)
	}
}

// What one user can have listed is bounded; a cut-off takes back all that by one
// entry.
func testRevokedTooMany(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	var last *handoff.Claims
	for i := range MaxRevoked + 1 {
		last = issue(t, db, s)
		err := db.RevokeHandoff(t.Context(), s.User.ID, last.ID, start)
		if tooMany := errors.Is(err, ErrTooMany); tooMany != (i == MaxRevoked) || !tooMany && err != nil {
			t.Fatalf("revocation %d: %v", i, err)
		}
	}
	if n := len(entries(t, db, start)); n != MaxRevoked {
		t.Errorf("%d entries", n)
	}
	bob := startSession(t, db, addUser(t, db, "bob"))
	if err := db.RevokeHandoff(t.Context(), bob.User.ID, issue(t, db, bob).ID, start); err != nil {
		t.Errorf("another user: %v", err)
	}
	if err := db.RevokeHandoff(t.Context(), "", last.ID, start); err != nil {
		t.Errorf("an operator: %v", err)
	}
	if err := db.EndSessions(t.Context(), s, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "subject 1m5s", "token 1m5s") // alice's and bob's
}

func testRevokeSession(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	issue(t, db, s)
	if err := db.RevokeSession(t.Context(), s.HandoffID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s")
	if _, err := db.LiveSession(t.Context(), s.IDSHA256, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("the session: %v", err)
	}
	// One that ended without a word, of which a handoff may be alive.
	expired := startSession(t, db, s.User)
	issue(t, db, expired)
	mustExec(t, db, `DELETE FROM sessions`)
	if err := db.RevokeSession(t.Context(), expired.HandoffID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s", "session 1m5s")
	if err := db.RevokeSession(t.Context(), handoff.NewID(), start); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown session: %v", err)
	}
}

func testChangePassword(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s, other := startSession(t, db, alice), startSession(t, db, alice)
	issue(t, db, other)
	stale := s
	stale.User.PasswordHash = "yesterday's"
	if err := db.ChangePassword(t.Context(), stale, "new", start); !errors.Is(err, ErrNotFound) {
		t.Errorf("over another password: %v", err)
	}
	if err := db.ChangePassword(t.Context(), s, "new", start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "subject 1m5s")
	live, err := db.LiveSession(t.Context(), s.IDSHA256, start)
	if err != nil || live.User.PasswordHash != "new" {
		t.Errorf("the session that changed it: %v, %v", live, err)
	}
	if _, err := db.LiveSession(t.Context(), other.IDSHA256, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("the other session: %v", err)
	}
	if err := db.ChangePassword(t.Context(), other, "newer", start); !errors.Is(err, ErrNotFound) {
		t.Errorf("in a session that is over: %v", err)
	}
	if err := db.StartSession(t.Context(), newSession(alice)); !errors.Is(err, ErrNotFound) {
		t.Errorf("a sign-in with the old password: %v", err)
	}
}

func testDisableUser(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)
	issue(t, db, s)
	for range 2 {
		if err := db.DisableUser(t.Context(), "alice", start); err != nil {
			t.Fatal(err)
		}
	}
	wantEntries(t, db, start, "subject 1m5s")
	if n := count(t, db, "sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if err := db.StartSession(t.Context(), newSession(alice)); !errors.Is(err, ErrNotFound) {
		t.Errorf("a sign-in: %v", err)
	}
	if err := db.DisableUser(t.Context(), "nobody", start); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if rows := events(t, db); rows[len(rows)-1] != eventUserDisabled+" "+alice.ID || strings.HasPrefix(rows[len(rows)-2], eventUserDisabled) {
		t.Errorf("audit %q", rows)
	}
}

// A user who is enabled again can sign in again; nothing that has ended comes back.
func testEnableUser(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	issue(t, db, startSession(t, db, alice))
	if err := db.DisableUser(t.Context(), "alice", start); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := db.EnableUser(t.Context(), "alice", start); err != nil {
			t.Fatal(err)
		}
	}
	wantEntries(t, db, start, "subject 1m5s")
	if n := count(t, db, "sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if err := db.StartSession(t.Context(), newSession(alice)); err != nil {
		t.Errorf("a sign-in: %v", err)
	}
	if err := db.EnableUser(t.Context(), "nobody", start); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if rows := events(t, db); strings.Count(strings.Join(rows, "\n"), eventUserEnabled+" "+alice.ID) != 1 {
		t.Errorf("audit %q", rows)
	}
}

// A password that an operator sets ends what the old one began.
func testSetPassword(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	issue(t, db, startSession(t, db, alice))
	if err := db.SetPassword(t.Context(), "alice", "new", start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "subject 1m5s")
	if n := count(t, db, "sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if err := db.StartSession(t.Context(), newSession(alice)); !errors.Is(err, ErrNotFound) {
		t.Errorf("a sign-in with the old password: %v", err)
	}
	if u, err := db.UserByName(t.Context(), "alice"); err != nil || u.PasswordHash != "new" {
		t.Errorf("%q, %v", u.PasswordHash, err)
	}
	if err := db.SetPassword(t.Context(), "nobody", "new", start); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if rows := events(t, db); rows[len(rows)-1] != eventPasswordChanged+" "+alice.ID {
		t.Errorf("audit %q", rows)
	}
}

// A role that is taken takes the user's handoffs back; one that is given takes nothing.
func testChangeRoles(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)
	issue(t, db, s)
	changed := 0
	for _, c := range []struct{ add, remove []string }{
		{[]string{"reader", "auditor"}, nil}, {[]string{"reader"}, []string{"never"}}, {nil, nil},
	} {
		roles, err := db.ChangeRoles(t.Context(), "alice", c.add, c.remove, start)
		if err != nil || !slices.Equal(roles, []string{"auditor", "payer", "reader"}) {
			t.Errorf("%v: %q, %v", c, roles, err)
		}
		wantEntries(t, db, start)
	}
	roles, err := db.ChangeRoles(t.Context(), "alice", nil, []string{"auditor"}, start)
	if err != nil || !slices.Equal(roles, []string{"payer", "reader"}) {
		t.Errorf("%q, %v", roles, err)
	}
	wantEntries(t, db, start, "subject 1m5s")
	if live, err := db.LiveSession(t.Context(), s.IDSHA256, start); err != nil || !slices.Equal(live.User.Roles, roles) {
		t.Errorf("the session has %q, %v", live.User.Roles, err)
	}
	if _, err := db.ChangeRoles(t.Context(), "nobody", []string{"reader"}, nil, start); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	for _, row := range events(t, db) {
		if row == eventRolesChanged+" "+alice.ID {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d changes are in the audit: %q", changed, events(t, db))
	}
}

func testSweep(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	c := issue(t, db, s)
	if err := db.RevokeHandoff(t.Context(), "", c.ID, start); err != nil {
		t.Fatal(err)
	}
	audited := int64(count(t, db, "audit"))
	for _, step := range []struct {
		rows Rows
		at   time.Time
		gone int64
	}{
		{Sessions, s.IdleExpires.Add(-time.Millisecond), 0},
		{Sessions, s.IdleExpires, 1},
		{Revocations, c.Expires.Add(terms.Skew - time.Millisecond), 0},
		{Revocations, c.Expires.Add(terms.Skew), 1},
		{Audit, start.Add(-time.Millisecond), 0},
		{Audit, start, audited},
	} {
		gone, left := int64(0), count(t, db, string(step.rows))
		for range 10 { // a row that another transaction holds is left to the next
			n, err := db.Sweep(t.Context(), step.rows, step.at)
			if err != nil {
				t.Fatal(err)
			}
			if gone += n; gone == step.gone {
				break
			}
		}
		if gone != step.gone || count(t, db, string(step.rows)) != left-int(gone) {
			t.Errorf("%s at %s: %d are gone, want %d", step.rows, step.at.Sub(start), gone, step.gone)
		}
	}
}

// I15: however much is over, a sweep removes it in steps, and handoffs are recorded
// meanwhile.
func testSweepMany(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	const many = 3000
	const numbers = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) `
	at := start.Add(-time.Hour)
	mustExec(t, db, numbers+`INSERT INTO sessions SELECT 'x' || i, 'h' || i, $1, 0, $2, $2 FROM n`, s.User.ID, toMillis(at))
	mustExec(t, db, numbers+`INSERT INTO revocations SELECT 'token', 'x' || i, $1, 0, $2 FROM n`, s.User.ID, toMillis(at))
	mustExec(t, db, numbers+`INSERT INTO audit (occurred_at, event, user_id) SELECT $2, 'signed_in', $1 FROM n`, s.User.ID, toMillis(at))
	stop := make(chan struct{})
	longest := time.Duration(0)
	var issuing sync.WaitGroup
	issuing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			if err := db.RecordHandoff(t.Context(), s, claims(), start); err != nil {
				t.Error(err)
			}
			longest = max(longest, time.Since(began))
		}
	})
	began := time.Now()
	for _, rows := range []Rows{Sessions, Revocations, Audit} {
		total := int64(0)
		for {
			gone, err := db.Sweep(t.Context(), rows, at)
			if err != nil || gone > SweepBatch {
				t.Fatalf("%s: %d rows at once, %v", rows, gone, err)
			}
			if total += gone; gone < SweepBatch {
				break
			}
		}
		if total != many {
			t.Errorf("%s: %d are gone, want %d", rows, total, many)
		}
	}
	took := time.Since(began)
	close(stop)
	issuing.Wait()
	t.Logf("swept for %s; the longest handoff took %s", took, longest)
	if n := count(t, db, "sessions"); n != 1 {
		t.Errorf("%d sessions are left, want the live one", n)
	}
}

// Terms are the longest that anything alive may have been made by.
func testTerms(t *testing.T, e engine) {
	db, location := e.open(t)
	if _, err := db.Terms(t.Context(), start); !errors.Is(err, ErrNoIssuer) {
		t.Errorf("before any server: %v", err)
	}
	second := openAt(t, location)
	short := trust.Terms{Issuer: terms.Issuer, TokenLifetime: time.Minute, ListLifetime: 2 * time.Minute, Skew: time.Second}
	for _, err := range []error{db.KeepTerms(t.Context(), terms, start), second.KeepTerms(t.Context(), short, start.Add(time.Minute))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	longest := terms
	longest.ListLifetime = 2 * time.Minute
	gone := start.Add(matters(terms))
	for at, want := range map[time.Time]trust.Terms{
		start: longest, gone.Add(-time.Millisecond): longest, gone: short, gone.Add(24 * time.Hour): short,
	} {
		if got, err := db.Terms(t.Context(), at); err != nil || got != want {
			t.Errorf("at %s: got %v, %v; want %v", at.Sub(start), got, err, want)
		}
	}
	other := terms
	other.Issuer = "https://other.example"
	if err := db.KeepTerms(t.Context(), other, start); err == nil {
		t.Error("two issuers share a database")
	}
}

// One process changes the ring at a time, and a change is not lost.
func testRing(t *testing.T, e engine) {
	db := e.issuing(t)
	wrong := errors.New("no")
	before, err := db.Ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	_, err = db.ChangeRing(t.Context(), func() time.Time { return at }, func(_ rotation.Ring, got trust.Terms, now time.Time) (rotation.Ring, error) {
		if got != terms || now != at {
			t.Errorf("terms %v, at %s", got, now)
		}
		return rotation.Ring{}, wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("a step that is refused: %v", err)
	}
	if after, err := db.Ring(t.Context()); err != nil || len(after.Records()) != len(before.Records()) {
		t.Errorf("it changed the ring: %v, %v", after, err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { prepare(t, db) })
	}
	wg.Wait()
	if after, err := db.Ring(t.Context()); err != nil || len(after.Records()) != 9 {
		t.Errorf("%d keys, %v; want 9", len(after.Records()), err)
	}
}

// The ring that a step is given is on disk, and the clock is read after that: when
// the step that was taken before has been seen by everybody who looked meanwhile.
func testRingIsRead(t *testing.T, e engine) {
	db := e.issuing(t)
	var wg sync.WaitGroup
	for range 8 {
		key, err := signkey.Generate(handoff.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			read := -1
			clock := func() time.Time {
				ring, err := db.Ring(t.Context())
				if err != nil {
					t.Error(err)
				}
				read = len(ring.Records())
				return time.Now()
			}
			_, err := db.ChangeRing(t.Context(), clock, func(ring rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) {
				if given := len(ring.Records()); given != read {
					t.Errorf("a step is given %d keys when others read %d", given, read)
				}
				return ring.Prepare(key.Key())
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// No number is given twice, in however many processes.
func testSeq(t *testing.T, e engine) {
	db, location := e.open(t)
	if err := db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	if yes, err := db.HasPublished(t.Context()); err != nil || yes {
		t.Errorf("a list was published: %v, %v", yes, err)
	}
	second := openAt(t, location)
	var mu sync.Mutex
	given := map[int64]bool{}
	var wg sync.WaitGroup
	for _, db := range []*DB{db, second, db, second} {
		wg.Go(func() {
			last := int64(0)
			for i := range int64(20) {
				seq, err := db.NextSeq(t.Context(), 1000+i)
				mu.Lock()
				if err != nil || given[seq] || seq <= last || seq < 1000+i {
					t.Errorf("%d after %d, given before: %v; %v", seq, last, given[seq], err)
				}
				given[seq], last = true, seq
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if yes, err := db.HasPublished(t.Context()); err != nil || !yes {
		t.Errorf("no list was published: %v, %v", yes, err)
	}
	now := time.Now().UnixMilli()
	if seq, err := db.NextSeq(t.Context(), now); err != nil || seq != now {
		t.Errorf("got %d, %v", seq, err)
	}
}

// A list states one moment: never a change's half.
func testOneMoment(t *testing.T, e engine) {
	db := e.issuing(t)
	s := startSession(t, db, addUser(t, db, "alice"))
	c := issue(t, db, s)
	err := db.look(t.Context(), func(ctx context.Context, tx *transaction) error {
		first, err := readRing(ctx, tx, "")
		if err != nil {
			return err
		}
		prepare(t, db)
		if err := db.RevokeHandoff(t.Context(), "", c.ID, start); err != nil {
			return err
		}
		again, err := readRing(ctx, tx, "")
		if err != nil {
			return err
		}
		revoked, err := readEntries(ctx, tx, start)
		if len(first.Records()) != len(again.Records()) || len(revoked) != 0 {
			t.Errorf("%d keys, then %d; %d revoked", len(first.Records()), len(again.Records()), len(revoked))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "token 1m5s")
}

// Every change of what the list states shows, also in other processes.
func testChanges(t *testing.T, e engine) {
	db, location := e.open(t)
	second := openAt(t, location)
	if err := db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	look := func() int64 {
		t.Helper()
		n, err := second.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)
	c := issue(t, db, s)
	nightly := addClient(t, db, "nightly", 2)
	lasting := lastingSession(t, db, alice)
	g, kept := addGrant(t, db, lasting, nightly), addGrant(t, db, lasting, nightly)
	issueBy(t, db, assert(nightly, &g, alice))
	issueBy(t, db, assert(nightly, &kept, alice))
	last := look()
	for _, step := range []struct {
		name    string
		changes bool
		do      func() error
	}{
		{"a key", true, func() error { prepare(t, db); return nil }},
		{"a handoff", true, func() error { return db.RevokeHandoff(t.Context(), "", c.ID, start) }},
		{"the same", false, func() error { return db.RevokeHandoff(t.Context(), "", c.ID, start) }},
		{"a session", true, func() error { return db.EndSession(t.Context(), s, start) }},
		{"a grant", true, func() error { return db.DeleteGrant(t.Context(), lasting, g.ID, start) }},
		{"a client's key", true, func() error { return db.RemoveClientKey(t.Context(), "nightly", nightly.Keys[0].ID, start) }},
		{"a user", true, func() error { return db.CutOffUser(t.Context(), alice.ID, start) }},
		{"the user again", true, func() error { return db.CutOffUser(t.Context(), alice.ID, start.Add(time.Second)) }},
		{"a sign-in", false, func() error { return db.StartSession(t.Context(), newSession(alice)) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if now := look(); (now != last) != step.changes {
			t.Errorf("%s: changes were %d, are %d", step.name, last, now)
		} else {
			last = now
		}
		if got, want := revoked(t, second, start), revoked(t, openAt(t, location), start); !sameEntries(got, want) {
			t.Errorf("%s: a process that has read before lists %v, another %v", step.name, got, want)
		}
	}
	select {
	case <-db.Changed():
	default:
		t.Error("the process that made the changes is not told")
	}
}

// What was taken back is read once, and again when anybody has changed it,
// or when the clock was set back to where something that was left out is not over.
func testReadOnce(t *testing.T, e engine) {
	db, location := e.open(t)
	second := openAt(t, location)
	if err := db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	alice := addUser(t, db, "alice")
	c := issue(t, db, startSession(t, db, alice))
	if err := db.RevokeHandoff(t.Context(), "", c.ID, start); err != nil {
		t.Fatal(err)
	}
	first := revoked(t, second, start)
	if again := revoked(t, second, start.Add(time.Second)); len(first) != 1 || len(again) != 1 || &first[0] != &again[0] {
		t.Error("what has not changed is read again")
	}
	move := func(by string) {
		t.Helper()
		err := db.change(t.Context(), func(ctx context.Context, tx *transaction) error {
			_, err := tx.ExecContext(ctx, `UPDATE revocations SET ends_at = ends_at `+by)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	move("+ 1000")
	moved := revoked(t, second, start)
	if len(moved) != 1 || !moved[0].Until.Equal(first[0].Until.Add(time.Second)) {
		t.Errorf("changed by hand: %v", moved)
	}
	move("- 1000000000")
	if got := revoked(t, second, start); len(got) != 0 {
		t.Errorf("what is over is listed: %v", got)
	}
	if got := revoked(t, second, start.Add(-time.Hour*24*30)); len(got) != 1 {
		t.Errorf("by a clock that was set back: %v", got)
	}
}

// revoked returns what a database says was taken back.
func revoked(t *testing.T, db *DB, now time.Time) []trust.Entry {
	t.Helper()
	state, err := db.Trust(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	return state.Revoked
}

func sameEntries(a, b []trust.Entry) bool {
	in := func(all []trust.Entry) func(trust.Entry) bool {
		return func(e trust.Entry) bool { return !slices.Contains(all, e) }
	}
	return len(a) == len(b) && !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}

// The store's part in a list of 100,000 entries.
func BenchmarkTrust(b *testing.B) {
	db := sqliteEngine().issuing(b)
	u := User{ID: handoff.NewID(), Name: "alice", PasswordHash: "x", Created: start}
	if err := db.AddUser(b.Context(), u); err != nil {
		b.Fatal(err)
	}
	fill := func(ctx context.Context, tx *transaction) error {
		for range 1000 {
			entry, err := terms.Token(handoff.NewID(), start.Add(time.Minute))
			if err != nil {
				return err
			}
			if _, err := takeBack(ctx, tx, u.ID, entry); err != nil {
				return err
			}
		}
		return nil
	}
	for range 100 {
		if err := db.change(b.Context(), fill); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if state, err := db.Trust(b.Context(), start); err != nil || len(state.Revoked) != 100_000 {
			b.Fatal(len(state.Revoked), err)
		}
	}
}

// F01: a clock that is wrong, by more than anybody has declared, takes back no
// less: what counts is when the user's handoffs end, as it was recorded.
func testWrongClock(t *testing.T, e engine) {
	db := e.issuing(t)
	for i, off := range []time.Duration{-24 * time.Hour, -6 * time.Minute, 2 * time.Minute, 24 * time.Hour} {
		alice := addUser(t, db, fmt.Sprintf("alice-%d", i))
		s := startSession(t, db, alice)
		c := issue(t, db, s)
		if err := db.RevokeSession(t.Context(), s.HandoffID, start.Add(off)); err != nil && off < time.Hour {
			t.Fatal(err)
		}
		if err := db.CutOffUser(t.Context(), alice.ID, start.Add(off)); err != nil {
			t.Fatal(err)
		}
		state, err := db.Trust(t.Context(), start)
		if err != nil {
			t.Fatal(err)
		}
		covered := slices.ContainsFunc(state.Revoked, func(e trust.Entry) bool {
			return e.Kind == trust.KindSubject && !e.Cutoff.Before(c.IssuedAt) && e.Until.After(c.Expires)
		})
		if !covered || len(state.Revoked) != i+1 {
			t.Errorf("a clock off by %s: %v", off, state.Revoked)
		}
	}
}

// A user who signs out again and again fills nobody's list: one cut-off stands for
// all.
func testManySessions(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	issue(t, db, startSession(t, db, alice))
	for range MaxRevoked + 5 {
		if err := db.EndSession(t.Context(), startSession(t, db, alice), start); err != nil {
			t.Fatal(err)
		}
	}
	if listed := entries(t, db, start); len(listed) > MaxRevoked || len(listed) == 0 {
		t.Errorf("%d entries of one user", len(listed))
	}
}

// A user has so many sessions and no more: one more ends the one that has not been
// used for the longest time, and takes its handoffs back.
func testSessionsBounded(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	at := func(i int) Session {
		s := newSession(alice)
		s.Created = start.Add(time.Duration(i) * time.Millisecond)
		s.IdleExpires = s.Created.Add(time.Minute)
		return s
	}
	var all []Session
	begin := func(s Session) Session {
		t.Helper()
		if err := db.StartSession(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for i := range MaxSessions {
		all = append(all, begin(at(i)))
	}
	issue(t, db, all[0])
	issue(t, db, all[1])
	if err := db.KeepSession(t.Context(), all[0], start, all[0].IdleExpires.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-db.Changed():
	default:
	}
	bob := startSession(t, db, addUser(t, db, "bob"))
	wantEntries(t, db, start)

	begin(at(MaxSessions))
	live := func(s Session, want bool) {
		t.Helper()
		if _, err := db.LiveSession(t.Context(), s.IDSHA256, start.Add(time.Second)); (err == nil) != want || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("a session is live: %v, want %v", err, want)
		}
	}
	live(all[0], true) // the oldest, and in use
	live(all[1], false)
	live(all[2], true)
	live(bob, true)
	wantEntries(t, db, start, "session 1m5s")
	select {
	case <-db.Changed():
	default:
		t.Error("nobody is told that handoffs are taken back")
	}
	if rows := events(t, db); rows[len(rows)-2] != eventSessionReplaced+" "+alice.ID+" "+all[1].HandoffID {
		t.Errorf("audit %q", rows[len(rows)-2:])
	}

	var wg sync.WaitGroup
	began := time.Now()
	for i := range 20 {
		wg.Go(func() {
			err := db.StartSession(t.Context(), at(MaxSessions+1+i))
			for err != nil && time.Since(began) < 30*time.Second { // a busy machine has refused it
				err = db.StartSession(t.Context(), at(MaxSessions+1+i))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, db, "sessions"); n != MaxSessions+1 { // and bob's
		t.Errorf("%d sessions", n)
	}
}

// F01: a clock by which all the sessions are over ends the same one, and takes its
// handoffs back.
func testSessionsBoundedAhead(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	first := startSession(t, db, alice)
	issue(t, db, first)
	for range MaxSessions - 1 {
		s := newSession(alice)
		s.IdleExpires = s.IdleExpires.Add(time.Second)
		if err := db.StartSession(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	later := newSession(alice)
	later.Created, later.IdleExpires, later.Expires = start.Add(time.Hour), start.Add(2*time.Hour), start.Add(3*time.Hour)
	if err := db.StartSession(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s")
	if n := count(t, db, "sessions"); n != MaxSessions {
		t.Errorf("%d sessions", n)
	}
	if rows := events(t, db); rows[len(rows)-2] != eventSessionReplaced+" "+alice.ID+" "+first.HandoffID {
		t.Errorf("audit %q", rows[len(rows)-2:])
	}
}

// F01: where the database has a clock, a process whose clock differs from it by more
// than it may is not ready, changes nothing, and tells of nothing, either way.
func testWrongClockDoesNothing(t *testing.T, e engine) {
	db := e.issuing(t)
	alice := addUser(t, db, "alice")
	s := startSession(t, db, alice)
	c := issue(t, db, s)
	state := func() string {
		var seq int64
		if err := db.read.QueryRow(`SELECT seq FROM issuer`).Scan(&seq); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(events(t, db), seq, count(t, db, "sessions"), count(t, db, "revocations"), count(t, db, "grants"), count(t, db, "client_keys"), entries(t, db, start))
	}
	acts := map[string]func(context.Context) error{
		"Ready":       db.Ready,
		"Changes":     func(ctx context.Context) error { _, err := db.Changes(ctx); return err },
		"LiveSession": func(ctx context.Context) error { _, err := db.LiveSession(ctx, s.IDSHA256, start); return err },
		"NextSeq":     func(ctx context.Context) error { _, err := db.NextSeq(ctx, 1); return err },
		"KeepTerms":   func(ctx context.Context) error { return db.KeepTerms(ctx, terms, start) },
		"Sweep":       func(ctx context.Context) error { _, err := db.Sweep(ctx, Sessions, start.Add(time.Hour)); return err },
		"ChangeRing": func(ctx context.Context) error {
			_, err := db.ChangeRing(ctx, time.Now, func(r rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) {
				t.Error("a step of the keys is taken")
				return r, nil
			})
			return err
		},
		"CutOffUser":    func(ctx context.Context) error { return db.CutOffUser(ctx, alice.ID, start) },
		"RevokeHandoff": func(ctx context.Context) error { return db.RevokeHandoff(ctx, "", c.ID, start) },
		"RevokeSession": func(ctx context.Context) error { return db.RevokeSession(ctx, s.HandoffID, start) },
		"DisableUser":   func(ctx context.Context) error { return db.DisableUser(ctx, "alice", start) },
		"EnableUser":    func(ctx context.Context) error { return db.EnableUser(ctx, "alice", start) },
		"SetPassword":   func(ctx context.Context) error { return db.SetPassword(ctx, "alice", "new", start) },
		"ChangeRoles": func(ctx context.Context) error {
			_, err := db.ChangeRoles(ctx, "alice", []string{"new"}, nil, start)
			return err
		},
		"EndSessions":    func(ctx context.Context) error { return db.EndSessions(ctx, s, start) },
		"ChangePassword": func(ctx context.Context) error { return db.ChangePassword(ctx, s, "new", start) },
	}
	for name, change := range changes(db, s) {
		acts[name] = change
	}
	nightly := addClient(t, db, "nightly", 1)
	lasting := lastingSession(t, db, alice)
	for name, change := range changesOfGrants(db, lasting, nightly, addGrant(t, db, lasting, nightly)) {
		acts[name] = change
	}
	before := state()
	for _, off := range []time.Duration{terms.Skew + 2*time.Second, -terms.Skew - 2*time.Second, 24 * time.Hour, -24 * time.Hour} {
		db.Now = func() time.Time { return time.Now().Add(off) }
		if db.dialect.clock == "" { // there is one clock
			if err := db.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			continue
		}
		if err := db.Ready(t.Context()); !errors.Is(err, ErrClock) {
			t.Errorf("a clock %s off is ready: %v", off, err)
		}
		for name, act := range acts {
			if err := act(t.Context()); !errors.Is(err, ErrClock) {
				t.Errorf("%s by a clock %s off: %v", name, off, err)
			}
		}
	}
	if after := state(); after != before {
		t.Errorf("something has changed:\n%s, before\n%s", after, before)
	}
	for _, off := range []time.Duration{0, terms.Skew - 2*time.Second, 2*time.Second - terms.Skew} {
		db.Now = func() time.Time { return time.Now().Add(off) }
		if err := db.Ready(t.Context()); err != nil {
			t.Errorf("a clock %s off: %v", off, err)
		}
		if err := db.RecordHandoff(t.Context(), s, claims(), start); err != nil {
			t.Errorf("a clock %s off: %v", off, err)
		}
	}
}
