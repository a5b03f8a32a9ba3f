package database

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestPostgresThatForgets(t *testing.T) {
	url := servingtest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for commit, accepted := range map[string]bool{"off": false, "local": true, "on": true} {
		if _, err := conn.Exec(t.Context(), `ALTER DATABASE test1 SET synchronous_commit TO `+commit); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), url)
		if (err == nil) != accepted {
			t.Errorf("synchronous_commit %s: %v", commit, err)
		}
		if err == nil {
			db.Close()
		}
	}
	if _, err := Open(t.Context(), strings.Replace(url, "test1", "nothing", 1)); err == nil {
		t.Error("a database that is not there is opened")
	}
}

// PostgreSQL is killed under load: nothing that was acknowledged is lost, and the
// processes go on when it is back.
func TestF04PostgresKilled(t *testing.T) {
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	e := engine{func(testing.TB) string { return url }}
	first := e.issuing(t)
	sessions := make([]Session, 100) // a user cannot take back as much as follows
	for i := range sessions {
		sessions[i] = startSession(t, first, addUser(t, first, fmt.Sprintf("user-%d", i)))
	}
	var mu sync.Mutex
	var acknowledged []string
	total := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, db := range []*DB{first, openAt(t, url), first, openAt(t, url)} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c, s := claims(), sessions[i%len(sessions)]
				if db.RecordHandoff(t.Context(), s, c, start) != nil ||
					db.RevokeHandoff(t.Context(), s.User.ID, c.ID, start) != nil {
					continue
				}
				mu.Lock()
				acknowledged = append(acknowledged, c.ID)
				mu.Unlock()
			}
		})
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		server.Kill(t)
		if err := first.Ready(t.Context()); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("without a database: %v", err)
		}
		before := total()
		server.Start(t)
		began := time.Now()
		for total() == before {
			if time.Since(began) > 30*time.Second {
				t.Fatal("nothing is acknowledged 30 s after its return")
			}
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	state, err := first.Trust(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, entry := range state.Revoked {
		listed = append(listed, entry.ID)
	}
	slices.Sort(listed)
	lost := 0
	for _, id := range acknowledged {
		if _, found := slices.BinarySearch(listed, id); !found {
			lost++
		}
	}
	t.Logf("%d revocations acknowledged, %d listed", len(acknowledged), len(listed))
	if lost > 0 || len(acknowledged) == 0 {
		t.Errorf("%d of %d acknowledged revocations are lost", lost, len(acknowledged))
	}
}

// sessionOf returns a connection of the test's own, beside the program's.
func sessionOf(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func deadlocks(t *testing.T, server *servingtest.PostgresServer) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(server.Dir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(log), "deadlock detected")
}

// crowd is a few users and clients, to whom everything happens at once.
type crowd struct {
	t       *testing.T
	db      *DB
	users   []User
	clients []Client
}

func (c crowd) client(i int) Client { return c.clients[i%len(c.clients)] }

// begin returns a session of one of the users, which may be over.
func (c crowd) begin(i int) Session {
	s := newSession(c.users[i%len(c.users)])
	s.IdleExpires = s.Expires
	_ = c.db.StartSession(c.t.Context(), s) // where it is late, the next will do
	return s
}

// later returns claims that are of after those for a smaller i, and cut off with few.
func later(i int) *handoff.Claims {
	c := claims()
	c.IssuedAt = start.Add(time.Duration(i) * time.Minute)
	c.Expires = c.IssuedAt.Add(time.Minute)
	return c
}

// lend is of a user who lets a client act, which it does, and then no longer.
func (c crowd) lend(i int) error {
	s, client := c.begin(i), c.client(i)
	var all []Grant
	for range 3 {
		g := newGrant(s, client)
		if err := c.db.AddGrant(c.t.Context(), s, g, 1000); err != nil {
			_ = c.db.EnableClient(c.t.Context(), client.Name, start) // or nobody could, once the others are done
			return err
		}
		all = append(all, g)
		_ = c.db.RecordByClient(c.t.Context(), assert(client, &g, s.User), later(i), start) // it may be disabled
	}
	for _, g := range slices.Backward(all) {
		if err := c.db.DeleteGrant(c.t.Context(), s, g.ID, start); err != nil {
			return err
		}
	}
	return nil
}

// leave is of a user with grants, who signs out everywhere.
func (c crowd) leave(i int) error {
	s := c.begin(i)
	for range 3 {
		_ = c.db.AddGrant(c.t.Context(), s, newGrant(s, c.client(i)), 1000)
	}
	return c.db.EndSessions(c.t.Context(), s, start)
}

// handOff is of a client for itself and a user, recorded together with others'.
func (c crowd) handOff(i int) error {
	_ = c.db.RecordByClient(c.t.Context(), assert(c.client(i), nil, User{}), later(i), start)
	_ = c.db.RecordHandoff(c.t.Context(), c.begin(i), later(i), start)
	return nil
}

// Changes that end, make and use grants, all at once and for the same few users and
// clients: no two wait for each other, and each kind gets through.
func TestNoDeadlocks(t *testing.T) {
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	c := crowd{t: t, db: engine{func(testing.TB) string { return url }}.issuing(t)}
	for i := range 6 {
		c.users = append(c.users, addUser(t, c.db, fmt.Sprint("user-", i)))
	}
	c.clients = []Client{addClient(t, c.db, "nightly", 2), addClient(t, c.db, "hourly", 2)}
	acts := map[string]func(i int) error{
		"lend": c.lend, "leave": c.leave, "hand off": c.handOff,
		"disable": func(i int) error { return c.db.DisableClient(t.Context(), c.client(i).Name, start) },
		"enable":  func(i int) error { return c.db.EnableClient(t.Context(), c.client(i).Name, start) },
		"cut off": func(i int) error { return c.db.CutOffUser(t.Context(), c.client(i).ID, start) },
	}
	var mu sync.Mutex
	done := map[string]int{}
	began := time.Now()
	missing := func() bool { // all go on until each kind has got through
		mu.Lock()
		defer mu.Unlock()
		return len(done) < len(acts) && time.Since(began) < time.Minute
	}
	var wg sync.WaitGroup
	for name, act := range acts {
		for worker := range 2 {
			wg.Go(func() {
				for i := 0; i < 25 || missing(); i++ {
					if act(i+worker) == nil {
						mu.Lock()
						done[name]++
						mu.Unlock()
					}
				}
			})
		}
	}
	wg.Wait()
	if n := deadlocks(t, server); n != 0 {
		t.Errorf("%d changes were undone, as they and others waited for each other", n)
	}
	for name := range acts {
		if done[name] == 0 {
			t.Errorf("%q never succeeds", name)
		}
	}
}

// Two changes that wait for each other all the same both succeed: the one that is undone
// is made again.
func TestDeadlockIsMadeAgain(t *testing.T) {
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	db := openAt(t, url)
	names := []string{addUser(t, db, "alice").Name, addUser(t, db, "bob").Name}
	var both, wg sync.WaitGroup
	both.Add(2)
	var attempts atomic.Int64
	for i := range 2 {
		wg.Go(func() {
			first := true
			err := db.change(t.Context(), func(ctx context.Context, tx *transaction) error {
				attempts.Add(1)
				if _, err := db.lockUser(ctx, tx, "name", names[i]); err != nil {
					return err
				}
				if first {
					first = false
					both.Done()
					both.Wait()
				}
				_, err := db.lockUser(ctx, tx, "name", names[1-i])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := attempts.Load(); n < 3 || deadlocks(t, server) == 0 {
		t.Errorf("%d attempts, %d deadlocks: the test makes none", n, deadlocks(t, server))
	}
}

// Several rows are held in the order of the bytes of their ids, also where the database
// sorts otherwise: by this one's collation "a" comes before "B".
func TestHeldInOneOrder(t *testing.T) {
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	sorted := server.URL("sorted")
	admin := sessionOf(t, url)
	if _, err := admin.Exec(t.Context(), `CREATE DATABASE sorted TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'`); err != nil {
		t.Fatal(err)
	}
	e := engine{func(testing.TB) string { return sorted }}
	db := e.issuing(t)
	const early, late = "B-early-in-bytes-22222", "a-late-in-bytes-222222"
	user := User{ID: late, Name: "user", PasswordHash: "x", Roles: []string{"payer"}, Created: start}
	client := Client{User: User{ID: early, Name: "client", Roles: []string{"payer"}, Created: start}, Keys: []ClientKey{{ID: "k", JWK: "{}", Added: start}}}
	if err := errors.Join(db.AddUser(t.Context(), user), db.AddClient(t.Context(), client)); err != nil {
		t.Fatal(err)
	}
	s := lastingSession(t, db, user)
	grants := map[string]Grant{}
	for _, id := range []string{early, late} {
		g := newGrant(s, client)
		g.ID = id
		if err := db.AddGrant(t.Context(), s, g, manyGrants); err != nil {
			t.Fatal(err)
		}
		grants[id] = g
		issueBy(t, db, assert(client, &g, user))
	}
	byGrant, forItself := grants[late], assert(client, nil, User{})
	for _, c := range []struct {
		name, table string
		do          func() error
	}{
		{"handoffs that are recorded together", "users", func() error {
			return db.change(t.Context(), func(ctx context.Context, tx *transaction) error {
				_, err := recordAll(ctx, tx, []issued{
					{session: s, claims: claims(), now: start},
					{by: &forItself, claims: claims(), now: start},
				})
				return err
			})
		}},
		{"one by a grant", "users", func() error {
			return db.RecordByClient(t.Context(), assert(client, &byGrant, user), claims(), start)
		}},
		{"a grant that is made", "users", func() error { return db.AddGrant(t.Context(), s, newGrant(s, client), manyGrants) }},
		// From here on nothing is issued by the client until a second later.
		{"the grants of a client", "grants", func() error { return db.CutOffUser(t.Context(), client.ID, start) }},
		{"the grants of a user", "grants", func() error { return db.EndSessions(t.Context(), s, start) }},
	} {
		heldInOrder(t, sorted, c.name, c.table, early, late, c.do)
	}
}

// heldInOrder holds the row that is to be held first, and looks whether a change that
// waits for it leaves the other alone.
func heldInOrder(t *testing.T, url, name, table, early, late string, do func() error) {
	t.Helper()
	holder, other := sessionOf(t, url), sessionOf(t, url)
	if _, err := holder.Exec(t.Context(), `BEGIN; SELECT FROM `+table+` WHERE id = '`+early+`' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() { made <- do() }()
	const waits = `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		var waiting bool
		if err := other.QueryRow(t.Context(), waits).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if waiting {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s: it does not wait for %s", name, early)
		}
	}
	if _, err := other.Exec(t.Context(), `SELECT FROM `+table+` WHERE id = '`+late+`' FOR UPDATE NOWAIT`); err != nil {
		t.Errorf("%s: %s is held before %s: %v", name, late, early, err)
	}
	if _, err := holder.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", name, err)
	}
}

// What ends a grant and what ends its client hold the grant before they list anything:
// neither waits for what the other waits for.
func TestRevokedGrantIsHeldFirst(t *testing.T) {
	t.Parallel()
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	db := engine{func(testing.TB) string { return url }}.issuing(t)
	nightly := addClient(t, db, "nightly", 1)
	s := lastingSession(t, db, addUser(t, db, "alice"))
	g := addGrant(t, db, s, nightly)
	issueBy(t, db, assert(nightly, &g, s.User))
	holder, other := sessionOf(t, url), sessionOf(t, url)
	if _, err := holder.Exec(t.Context(), `BEGIN; SELECT FROM grants WHERE id = '`+g.ID+`' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	waiting := func(want int) {
		t.Helper()
		const asked = `SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
		for began, n := time.Now(), -1; n != want; time.Sleep(time.Millisecond) {
			if err := other.QueryRow(t.Context(), asked).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if time.Since(began) > 2*time.Second { // they wait for no longer
				t.Fatalf("%d wait, want %d", n, want)
			}
		}
	}
	ended := make(chan error, 2)
	go func() { ended <- db.DisableClient(t.Context(), "nightly", start) }()
	waiting(1)
	go func() { ended <- db.RevokeSession(t.Context(), g.HandoffID, start) }()
	waiting(2)
	if _, err := holder.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-ended, <-ended); err != nil {
		t.Error(err)
	}
	if n := deadlocks(t, server); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// Handoffs that are recorded together are recorded as one by itself is, and refused where
// it is refused. What they are asked by has become something else in each case.
func TestRecordedTogether(t *testing.T) {
	url := servingtest.Postgres(t)
	db := engine{func(testing.TB) string { return url }}.issuing(t)
	alice, nightly, other := addUser(t, db, "alice"), addClient(t, db, "nightly", 1), addClient(t, db, "other", 1)
	s := lastingSession(t, db, alice)
	g := addGrant(t, db, s, nightly)
	forItself, byGrant := assert(nightly, nil, User{}), assert(nightly, &g, alice)
	kinds := map[string]issued{
		"by a session":          {session: s, claims: claims(), now: start},
		"a client's own":        {by: &forItself, claims: claims(), now: start},
		"a client's by a grant": {by: &byGrant, claims: claims(), now: start},
	}
	const grant, session = `UPDATE grants SET `, `UPDATE sessions SET `
	user := func(set, name string) string { return `UPDATE users SET ` + set + ` WHERE name = '` + name + `'` }
	iat, exp := toMillis(start), toMillis(start.Add(time.Minute))
	recorded := map[string]int{}
	for _, became := range []string{
		``,
		user(`disabled_at = 1`, "alice"), user(`disabled_at = 1`, "nightly"), user(`disabled_at = 1`, "other"),
		user(fmt.Sprintf(`cut_off_at = %d`, iat), "alice"), user(fmt.Sprintf(`cut_off_at = %d`, iat), "nightly"),
		user(fmt.Sprintf(`cut_off_at = %d`, iat-1), "alice"), user(fmt.Sprintf(`cut_off_at = %d`, iat-1), "nightly"),
		user(`roles = 'payer'`, "alice"), user(`roles = ''`, "nightly"),
		user(fmt.Sprintf(`issued_at = %d, handoffs_expire_at = %d`, iat+1, exp+1), "alice"),
		session + fmt.Sprintf(`expires_at = %d`, iat), session + fmt.Sprintf(`idle_expires_at = %d`, iat), session + fmt.Sprintf(`idle_expires_at = %d`, iat+1),
		session + `user_id = '` + nightly.ID + `'`, `DELETE FROM sessions`,
		`DELETE FROM client_keys`, `UPDATE client_keys SET kid = 'another' WHERE client_id = '` + nightly.ID + `'`,
		`UPDATE client_keys SET client_id = '` + other.ID + `'`, `UPDATE client_keys SET client_id = '` + alice.ID + `'`,
		grant + fmt.Sprintf(`expires_at = %d`, exp), grant + fmt.Sprintf(`expires_at = %d`, exp-1), grant + fmt.Sprintf(`expires_at = %d`, iat),
		grant + `handoff_id = 'another'`, grant + `user_id = '` + nightly.ID + `'`, grant + `client_id = '` + other.ID + `'`, `DELETE FROM grants`,
		grant + fmt.Sprintf(`handoffs_expire_at = %d`, exp+1), grant + `id = 'another'`,
		`INSERT INTO audit (occurred_at, event, user_id, assertion) VALUES (0, '', '', '` + nightly.ID + ` ` + forItself.ID + `')`,
		`INSERT INTO audit (occurred_at, event, user_id, assertion) VALUES (0, '', '', '` + nightly.ID + ` ` + byGrant.ID + `')`,
	} {
		for kind, h := range kinds {
			alone := db.outcome(t, h, became, func(ctx context.Context, tx *transaction) error { return db.record(ctx, tx, h) })
			together := db.outcome(t, h, became, func(ctx context.Context, tx *transaction) error {
				recorded, err := recordAll(ctx, tx, []issued{h})
				if err != nil {
					t.Fatal(err)
				}
				if !recorded[0] {
					return ErrNotFound
				}
				return nil
			})
			if alone != together {
				t.Errorf("%s, %q:\nalone    %s\ntogether %s", kind, became, alone, together)
			}
			if alone != "refused" {
				recorded[kind]++
			}
		}
	}
	if t.Logf("recorded: %v", recorded); len(recorded) != len(kinds) {
		t.Error("a kind is never recorded")
	}

	again, over := forItself, s
	over.IDSHA256 = "another"
	mixed := []issued{
		{session: over, claims: claims(), now: start},
		kinds["by a session"], kinds["a client's own"],
		{by: &again, claims: claims(), now: start}, // with an assertion that is spent
		kinds["a client's by a grant"],
	}
	if got, err := db.recordTogether(t.Context(), mixed); err != nil || !slices.Equal(got, []bool{false, true, true, false, true}) {
		t.Errorf("recorded together: %v, %v", got, err)
	}
}

// outcome is what is in the database once a handoff is recorded after something else, of
// which nothing stays.
func (db *DB) outcome(t *testing.T, h issued, became string, do func(context.Context, *transaction) error) string {
	t.Helper()
	undo := errors.New("undo")
	var says strings.Builder
	err := db.change(t.Context(), func(ctx context.Context, tx *transaction) error {
		if became != "" {
			if _, err := tx.ExecContext(ctx, became); err != nil {
				return err
			}
		}
		if do(ctx, tx) != nil {
			says.WriteString("refused")
			return undo
		}
		for _, table := range []string{`SELECT (to_jsonb(audit) - 'id')::text FROM audit WHERE handoff_id = $1`, `SELECT users::text FROM users WHERE $1 <> '' ORDER BY id`, `SELECT grants::text FROM grants WHERE $1 <> ''`} {
			rows, err := tx.QueryContext(ctx, table, h.claims.ID)
			if err != nil {
				return err
			}
			for rows.Next() {
				var row string
				if err := rows.Scan(&row); err != nil {
					return err
				}
				says.WriteString("\n\t" + row)
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				return err
			}
		}
		return undo
	})
	if !errors.Is(err, undo) {
		t.Fatalf("%q: %v", became, err)
	}
	return says.String()
}
