package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"
)

func addClient(t testing.TB, db *DB, name string, keys int) Client {
	t.Helper()
	c := Client{User: User{ID: handoff.NewID(), Name: name, Roles: []string{"payer"}, Created: start}}
	for range keys {
		c.Keys = append(c.Keys, ClientKey{ID: handoff.NewID(), JWK: "{}", Added: start})
	}
	if err := db.AddClient(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// lastingSession is one that a test of grants needs.
func lastingSession(t *testing.T, db *DB, u User) Session {
	t.Helper()
	s := newSession(u)
	s.IdleExpires = s.Expires
	if err := db.StartSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

const manyGrants = 100

func newGrant(s Session, c Client) Grant {
	return Grant{
		ID: handoff.NewID(), HandoffID: handoff.NewID(), UserID: s.User.ID, ClientID: c.ID, ClientName: c.Name,
		Audience: "https://billing.example", Methods: []string{"/a.B/C"}, Created: start, Expires: start.Add(time.Hour),
	}
}

func addGrant(t testing.TB, db *DB, s Session, c Client) Grant {
	t.Helper()
	g := newGrant(s, c)
	if err := db.AddGrant(t.Context(), s, g, manyGrants); err != nil {
		t.Fatal(err)
	}
	return g
}

// assert returns a client's assertion, for itself or, with a grant, for its user.
func assert(c Client, g *Grant, u User) Assertion {
	return Assertion{Client: c.User, Kid: c.Keys[len(c.Keys)-1].ID, ID: handoff.NewID(), Grant: g, For: u}
}

// issueBy records what a client is issued.
func issueBy(t testing.TB, db *DB, by Assertion) *handoff.Claims {
	t.Helper()
	c := claims()
	if err := db.RecordByClient(t.Context(), by, c, start); err != nil {
		t.Fatal(err)
	}
	return c
}

// sidOf returns the `sid` of a grant, or nothing where it is gone.
func sidOf(t testing.TB, db *DB, g Grant) string {
	t.Helper()
	got, _, err := db.GrantOf(t.Context(), g.ClientID, g.ID, start)
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return got.HandoffID
}

// audited returns the audit's rows of grants as "event user client sid grant".
func audited(t testing.TB, db *DB) (all []string) {
	t.Helper()
	rows, err := db.read.Query(`SELECT event || ' ' || user_id || ' ' || COALESCE(client_id, '') || ' ' || COALESCE(session, '') || ' ' || grant_id
		FROM audit WHERE grant_id IS NOT NULL ORDER BY ` + order(db))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func row(event string, g Grant) string {
	return strings.Join([]string{event, g.UserID, g.ClientID, g.HandoffID, g.ID}, " ")
}

// An operator takes back what a client was issued for itself, which has no session.
func testRevokeClientsHandoff(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	c := issueBy(t, db, assert(nightly, nil, User{}))
	if err := db.RevokeHandoff(t.Context(), "", c.ID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "token 1m5s")
	if rows := events(t, db); rows[len(rows)-1] != eventHandoffRevoked+" "+nightly.ID+"  "+c.ID {
		t.Errorf("audit %q", rows[len(rows)-1])
	}
}

// K02: an assertion is spent by what it was spent on, for itself or by a grant, once, at
// every process; another client's with the same id is another one, and what is refused
// spends nothing.
func testSpent(t *testing.T, e engine) {
	db, location := e.open(t)
	if err := db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	second := openAt(t, location)
	nightly, other := addClient(t, db, "nightly", 1), addClient(t, db, "other", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	g := addGrant(t, db, s, nightly)
	own := assert(nightly, nil, User{})
	byGrant, same, others := own, assert(nightly, &g, s.User), own
	byGrant.Grant, byGrant.For = &g, s.User
	others.Client, others.Kid = other.User, other.Keys[0].ID
	if err := db.DisableClient(t.Context(), "nightly", start.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, by := range []Assertion{own, same} {
		if err := db.RecordByClient(t.Context(), by, claims(), start); !errors.Is(err, ErrNotFound) {
			t.Errorf("disabled: %v", err)
		}
	}
	if err := db.EnableClient(t.Context(), "nightly", start); err != nil {
		t.Fatal(err)
	}
	for _, by := range []Assertion{own, same, others} {
		issueBy(t, db, by)
	}
	for name, by := range map[string]Assertion{"for itself": own, "by a grant": byGrant, "by the grant again": same, "another's": others} {
		for _, db := range []*DB{db, second} {
			if err := db.RecordByClient(t.Context(), by, claims(), start); !errors.Is(err, ErrSpent) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if n := count(t, db, "audit WHERE assertion IS NOT NULL"); n != 3 {
		t.Errorf("%d are spent", n)
	}
}

// K04: an operator who takes back the session of a grant's handoffs withdraws the grant,
// by the `sid` that it has and by one that it had.
func testRevokeGrantBySession(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	for name, before := range map[string]func() error{
		"the one it has": func() error { return nil },
		"the one it had": func() error { return db.CutOffUser(t.Context(), nightly.ID, start.Add(-time.Hour)) }, // of before all tokens
	} {
		g, other := addGrant(t, db, s, nightly), addGrant(t, db, s, nightly)
		issueBy(t, db, assert(nightly, &g, s.User))
		if err := before(); err != nil {
			t.Fatal(err)
		}
		if err := db.RevokeSession(t.Context(), g.HandoffID, start); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sid := sidOf(t, db, g); sid != "" {
			t.Errorf("%s: the grant stands", name)
		}
		if sidOf(t, db, other) == "" {
			t.Errorf("%s: another grant does not stand", name)
		}
		if err := db.RecordByClient(t.Context(), assert(nightly, &g, s.User), claims(), start); !errors.Is(err, ErrNoGrant) {
			t.Errorf("%s: another handoff by it: %v", name, err)
		}
		if _, err := db.LiveSession(t.Context(), s.IDSHA256, start); err != nil {
			t.Errorf("%s: the user's session: %v", name, err)
		}
		rows := audited(t, db)
		if last := strings.Join(rows[len(rows)-2:], "\n"); !strings.Contains(last, eventGrantDeleted) || strings.Count(last, g.ID) != 2 || !strings.Contains(last, eventSessionRevoked) {
			t.Errorf("%s: audit\n%s", name, last)
		}
		if err := db.RevokeSession(t.Context(), g.HandoffID, start); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
	}
	unused := addGrant(t, db, s, nightly)
	if err := db.RevokeSession(t.Context(), unused.HandoffID, start); err != nil || sidOf(t, db, unused) != "" {
		t.Errorf("one by which nothing was issued: %v", err)
	}
}

// No handoff outlives the grant that it is issued by.
func testGrantEnds(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	g := addGrant(t, db, s, nightly)
	by := assert(nightly, &g, s.User)
	c := claims()
	c.Expires = g.Expires.Add(time.Second)
	if err := db.RecordByClient(t.Context(), by, c, start); !errors.Is(err, ErrNoGrant) {
		t.Errorf("beyond its end: %v", err)
	}
	if n := count(t, db, "audit WHERE assertion IS NOT NULL"); n != 0 {
		t.Errorf("%d assertions are spent", n)
	}
	c = claims()
	c.Expires = g.Expires
	if err := db.RecordByClient(t.Context(), by, c, start); err != nil {
		t.Errorf("up to its end: %v", err)
	}
}

// What was permitted by roles that have changed since is not recorded.
func testOtherRoles(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	g := addGrant(t, db, s, nightly)
	record := map[string]func() error{
		"a session's": func() error { return db.RecordHandoff(t.Context(), s, claims(), start) },
		"a client's": func() error {
			return db.RecordByClient(t.Context(), assert(nightly, nil, User{}), claims(), start)
		},
		"by a grant": func() error {
			return db.RecordByClient(t.Context(), assert(nightly, &g, s.User), claims(), start)
		},
	}
	for name, record := range record {
		if err := record(); err != nil {
			t.Errorf("%s: before: %v", name, err)
		}
	}
	before := count(t, db, "audit")
	mustExec(t, db, `UPDATE users SET roles = 'reader'`)
	for name, record := range record {
		if err := record(); !errors.Is(err, ErrRoles) {
			t.Errorf("%s: %v, want ErrRoles", name, err)
		}
	}
	if n := count(t, db, "audit") - before; n != 0 {
		t.Errorf("%d handoffs are recorded", n)
	}
	if n := count(t, db, "audit WHERE assertion IS NOT NULL"); n != 2 {
		t.Errorf("%d assertions are spent, want 2", n)
	}
}

// A user has so many rows and no more, however they are made: a grant that stands is in
// the way of another, one that is over is not.
func testGrantsBounded(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s, bob := lastingSession(t, db, addUser(t, db, "alice")), lastingSession(t, db, addUser(t, db, "bob"))
	const most = 3
	add := func(s Session, at time.Time) (Grant, error) {
		g := newGrant(s, nightly)
		g.Created, g.Expires = at, at.Add(time.Minute)
		return g, db.AddGrant(t.Context(), s, g, most)
	}
	var all []Grant
	for i := range most {
		g, err := add(s, start.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	if _, err := add(s, start.Add(59*time.Second)); !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := add(bob, start); err != nil {
		t.Errorf("another user's: %v", err)
	}
	for i := range 20 { // each as one is over
		if _, err := add(s, start.Add(time.Minute+time.Duration(i)*time.Minute/2)); err != nil {
			t.Fatalf("once one is over: %v", err)
		}
		if n := count(t, db, "grants"); n > most+1 { // and bob's
			t.Fatalf("%d rows", n)
		}
	}
	if sidOf(t, db, all[0]) != "" {
		t.Error("one that is over has its row")
	}
}

// A grant by which nothing was issued leaves nothing on the list when it is withdrawn;
// another does until its last handoff is dead.
func testUnusedGrant(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	issue(t, db, s) // of the user's own
	used, unused := addGrant(t, db, s, nightly), addGrant(t, db, s, nightly)
	issueBy(t, db, assert(nightly, &used, s.User))
	for range 2 * MaxRevoked { // a loop fills nobody's list, and does not cut the user off
		g := addGrant(t, db, s, nightly)
		if err := db.DeleteGrant(t.Context(), s, g.ID, start); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.DeleteGrant(t.Context(), s, unused.ID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start)
	if err := db.DeleteGrant(t.Context(), s, used.ID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s")
}

// Cutting a client off takes back what it was issued for itself and for users. Its grants
// stand, and what it is issued by them from then on is not taken back.
func testCutOffClient(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly, other := addClient(t, db, "nightly", 1), addClient(t, db, "other", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	g, untouched, unused := addGrant(t, db, s, nightly), addGrant(t, db, s, other), addGrant(t, db, s, nightly)
	issueBy(t, db, assert(nightly, nil, User{}))
	issueBy(t, db, assert(nightly, &g, s.User))
	issueBy(t, db, assert(other, &untouched, s.User))
	if err := db.CutOffUser(t.Context(), nightly.ID, start); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, db, start, "session 1m5s", "subject 1m5s")
	if listed := revoked(t, db, start); !slices.ContainsFunc(listed, func(e trust.Entry) bool { return e.ID == g.HandoffID }) {
		t.Errorf("listed is %v, want %s", listed, g.HandoffID)
	}
	if sidOf(t, db, untouched) != untouched.HandoffID || sidOf(t, db, unused) != unused.HandoffID {
		t.Error("a grant is touched of which nothing is taken back")
	}
	for name, by := range map[string]Assertion{"for itself": assert(nightly, nil, User{}), "by a grant that was not used": assert(nightly, &unused, s.User)} {
		var cut *CutOffError
		if err := db.RecordByClient(t.Context(), by, claims(), start); !errors.As(err, &cut) || !cut.At.Equal(start) {
			t.Errorf("%s: signed before, and recorded now: %v", name, err)
		}
	}
	again, _, err := db.GrantOf(t.Context(), nightly.ID, g.ID, start)
	if err != nil || again.HandoffID == g.HandoffID || len(again.HandoffID) != 22 {
		t.Fatalf("the grant has %q, %v", again.HandoffID, err)
	}
	if err := db.RecordByClient(t.Context(), assert(nightly, &g, s.User), claims(), start); !errors.Is(err, ErrNoGrant) {
		t.Errorf("signed with the `sid` that it had: %v", err)
	}
	later := claims()
	later.IssuedAt, later.Expires = start.Add(time.Second), start.Add(time.Minute)
	if err := db.RecordByClient(t.Context(), assert(nightly, &again, s.User), later, start); err != nil {
		t.Errorf("signed afterwards: %v", err)
	}
	rows := audited(t, db)
	if want := row(eventGrantTakenBack, g); !slices.Contains(rows, want) || strings.Count(strings.Join(rows, "\n"), eventGrantTakenBack) != 1 {
		t.Errorf("audit %q, want %q", rows, want)
	}
}

// K04: each way to end all grants of a user names each grant in the audit.
func testGrantsAudited(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	for i, end := range []func(Session) error{
		func(s Session) error { return db.EndSessions(t.Context(), s, start) },
		func(s Session) error { return db.DisableUser(t.Context(), s.User.Name, start) },
		func(s Session) error { return db.SetPassword(t.Context(), s.User.Name, "new", start) },
		func(s Session) error { return db.ChangePassword(t.Context(), s, "new", start) },
	} {
		s, bob := lastingSession(t, db, addUser(t, db, fmt.Sprint("alice", i))), lastingSession(t, db, addUser(t, db, fmt.Sprint("bob", i)))
		over := newGrant(s, nightly)
		over.Expires = start
		if err := db.AddGrant(t.Context(), s, over, manyGrants); err != nil {
			t.Fatal(err)
		}
		first, second, bobs := addGrant(t, db, s, nightly), addGrant(t, db, s, nightly), addGrant(t, db, bob, nightly)
		if err := end(s); err != nil {
			t.Fatal(err)
		}
		var deleted []string
		for _, line := range audited(t, db) {
			if strings.HasPrefix(line, eventGrantDeleted+" "+s.User.ID) {
				deleted = append(deleted, line)
			}
		}
		want := []string{row(eventGrantDeleted, first), row(eventGrantDeleted, second)}
		slices.Sort(want)
		slices.Sort(deleted)
		if diff := cmp.Diff(want, deleted); diff != "" {
			t.Errorf("%d: %s", i, diff)
		}
		if sidOf(t, db, first) != "" || sidOf(t, db, bobs) == "" {
			t.Errorf("%d: her grant stands, or another's does not", i)
		}
	}
}

// A client that acts for very many is disabled as one that acts for nobody.
func testManyGrants(t *testing.T, e engine) {
	db := e.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	alice := addUser(t, db, "alice")
	const many = 5000
	mustExec(t, db, `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
		INSERT INTO grants (id, handoff_id, user_id, client_id, audience, methods, created_at, expires_at, handoffs_expire_at)
		SELECT 'g' || i, 'h' || i, $1, $2, 'a', 'm', 0, $3, $4 FROM n`, alice.ID, nightly.ID, toMillis(start.Add(time.Hour)), toMillis(start.Add(time.Minute)))
	changes := func() (n int64) {
		t.Helper()
		n, err := db.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := changes()
	if err := db.DisableClient(t.Context(), "nightly", start); err != nil {
		t.Fatal(err)
	}
	if changes() == before {
		t.Error("nobody is told")
	}
	if n := len(entries(t, db, start)); n != many {
		t.Errorf("%d entries", n)
	}
	var kept, sids int
	if err := db.read.QueryRow(`SELECT COUNT(*), COUNT(DISTINCT handoff_id) FROM grants WHERE LENGTH(handoff_id) = 22`).Scan(&kept, &sids); err != nil || kept != many || sids != many {
		t.Errorf("%d grants have another `sid`, %d different, %v", kept, sids, err)
	}
	if n := len(audited(t, db)); n != many {
		t.Errorf("%d are in the audit", n)
	}
}

// changesOfGrants are those that a clock that is wrong must not make.
func changesOfGrants(db *DB, s Session, c Client, g Grant) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"AddGrant":    func(ctx context.Context) error { return db.AddGrant(ctx, s, newGrant(s, c), manyGrants) },
		"DeleteGrant": func(ctx context.Context) error { return db.DeleteGrant(ctx, s, g.ID, start) },
		"AddClient": func(ctx context.Context) error {
			return db.AddClient(ctx, Client{User: User{ID: handoff.NewID(), Name: "another", Created: start}})
		},
		"AddClientKey": func(ctx context.Context) error {
			return db.AddClientKey(ctx, c.Name, ClientKey{ID: handoff.NewID(), JWK: "{}", Added: start})
		},
		"RemoveClientKey": func(ctx context.Context) error { return db.RemoveClientKey(ctx, c.Name, c.Keys[0].ID, start) },
		"DisableClient":   func(ctx context.Context) error { return db.DisableClient(ctx, c.Name, start) },
		"EnableClient":    func(ctx context.Context) error { return db.EnableClient(ctx, c.Name, start) },
		"ClientByKey":     func(ctx context.Context) error { _, _, err := db.ClientByKey(ctx, c.Keys[0].ID); return err },
		"RecordByClient": func(ctx context.Context) error {
			return db.RecordByClient(ctx, assert(c, nil, User{}), claims(), start)
		},
		"RecordByClient, by a grant": func(ctx context.Context) error {
			return db.RecordByClient(ctx, assert(c, &g, s.User), claims(), start)
		},
	}
}
