package sqlreplay_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/sqlreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a pool of a database, as an adopter has one.
func connect(t testing.TB, location string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", location)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8) // each connection is a process of the server's
	t.Cleanup(func() { db.Close() })
	return db
}

// database returns the URL of one with the table of redemptions.
func database(t testing.TB, server *servingtest.PostgresServer) string {
	t.Helper()
	location := server.Database(t)
	if err := sqlreplay.Create(t.Context(), sqlreplay.Config{DB: connect(t, location)}); err != nil {
		t.Fatal(err)
	}
	return location
}

// opened is a store, and what it has told.
type opened struct {
	*sqlreplay.Store
	db *sql.DB

	mu     sync.Mutex
	events []replay.Event
}

func (o *opened) observe(e replay.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

func (o *opened) told(kind replay.EventKind) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// open opens a store with a pool of its own, as a replica does.
func open(t testing.TB, location string, c sqlreplay.Config) *opened {
	t.Helper()
	o := &opened{db: connect(t, location)}
	c.DB, c.Observe = o.db, o.observe
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second // of a busy machine
	}
	var err error
	if o.Store, err = sqlreplay.Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// do has an operator execute statements.
func do(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func count(t testing.TB, db *sql.DB, question string) (n int) {
	t.Helper()
	if err := db.QueryRow(question).Scan(&n); err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	return n
}

// age has the epoch begun long ago, so that a token that is issued now is accepted.
func age(t testing.TB, db *sql.DB) {
	t.Helper()
	do(t, db, `UPDATE handoff_redemptions SET kept = regexp_replace(kept, '^\d+', '1000') WHERE mark = ''`)
}

// token is a redemption of a token that is issued now.
func stores(replicas []*opened) (all []handoff.Store) {
	for _, s := range replicas {
		all = append(all, s)
	}
	return all
}

func token() handoff.Redemption {
	issued := time.Now().Truncate(time.Second)
	return handoff.Redemption{Issuer: "https://shop.example", ID: handoff.NewID(), IssuedAt: issued, Expires: issued.Add(handoff.KindHandoff.DefaultLifetime())}
}

func TestPostgres(t *testing.T) {
	server := servingtest.StartPostgres(t)
	for name, test := range map[string]func(*testing.T, string){
		"conformance":                           testConformance,
		"E01 replicas":                          testReplicas,
		"E02 another store remembers":           testRemembers,
		"E03 unfit":                             testUnfit,
		"E06 no table":                          testNoTable,
		"E06 no connection":                     testNoConnection,
		"E06 no rights":                         testRights,
		"emptied":                               testEmptied,
		"E12 what is over is removed":           testRemoval,
		"I08 the trust list's number":           testFloor,
		"a table of one's own":                  testTable,
		"a pooler":                              testPooler,
		"the clocks are apart":                  testClocksApart,
		"F01 PostgreSQL's clock goes back":      testClockBack,
		"E06 a statement that waits is refused": testWaits,
	} {
		t.Run(name, func(t *testing.T) { test(t, database(t, server)) })
	}
}

func testConformance(t *testing.T, location string) {
	stores := []*opened{open(t, location, sqlreplay.Config{}), open(t, location, sqlreplay.Config{})}
	handofftest.Store(t, func(*testing.T) handoff.Store { return stores[0] })
	handofftest.Store(t, func(*testing.T) handoff.Store { return both{stores[0], stores[1]} })
}

// both is two replicas, of which each redemption meets one.
type both [2]*opened

func (b both) Skew() time.Duration { return b[0].Skew() }

func (b both) Redeem(ctx context.Context, r handoff.Redemption) error {
	return b[time.Now().UnixNano()%2].Redeem(ctx, r)
}

// E01: of 64 callers at three replicas with one token, one succeeds.
func testReplicas(t *testing.T, location string) {
	var replicas []*opened
	for range 3 {
		replicas = append(replicas, open(t, location, sqlreplay.Config{}))
	}
	age(t, replicas[0].db)
	for range 20 {
		if redeemed, _ := handofftest.Crowd(t, stores(replicas)...); !redeemed {
			t.Error("nobody redeems the token")
		}
	}
}

// E02: what one has redeemed is redeemed for the next, also after the end of the first.
func testRemembers(t *testing.T, location string) {
	first := open(t, location, sqlreplay.Config{})
	age(t, first.db)
	r := token()
	if err := first.Redeem(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := open(t, location, sqlreplay.Config{})
	if err := second.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrReplayed) {
		t.Errorf("got %v", err)
	}
	if err := second.Redeem(t.Context(), token()); err != nil {
		t.Errorf("a fresh token: %v", err)
	}
	if n := second.told(replay.StartedOver); n != 0 {
		t.Errorf("a second store starts over %d times", n)
	}
}

// E03: a PostgreSQL that can lose what it has committed is refused at the start and
// while the store runs, by each redemption itself; and used again when it is right.
func testUnfit(t *testing.T, location string) {
	admin := connect(t, location)
	admin.SetMaxOpenConns(1)
	do(t, admin, `SET default_transaction_read_only TO off`)
	for setting, c := range map[string]struct {
		bad   string
		loses bool // what was made before
	}{
		"fsync": {"off", true}, "synchronous_commit": {"off", false}, "full_page_writes": {"off", true}, "default_transaction_read_only": {"on", false},
	} {
		t.Run(setting, func(t *testing.T) {
			store := open(t, location, sqlreplay.Config{})
			age(t, admin)
			if err := store.Redeem(t.Context(), token()); err != nil {
				t.Fatal(err)
			}
			do(t, admin, `ALTER SYSTEM SET `+setting+` TO `+c.bad, `SELECT pg_reload_conf()`)
			servingtest.Eventually(t, "a redemption is refused", func() bool { return store.Redeem(t.Context(), token()) != nil })
			servingtest.Eventually(t, "health says why", func() bool {
				err := store.Healthy()
				return err != nil && strings.Contains(err.Error(), setting)
			})
			for range 20 {
				if store.Redeem(t.Context(), token()) == nil {
					t.Error("redeemed")
				}
			}
			if _, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: store.db}); err == nil || !strings.Contains(err.Error(), setting) {
				t.Errorf("opened: %v", err)
			}
			do(t, admin, `ALTER SYSTEM RESET `+setting, `SELECT pg_reload_conf()`)
			servingtest.Eventually(t, "it is used again", func() bool { return store.told(replay.Resumed) > 0 })
			before := token()
			before.IssuedAt = before.IssuedAt.Add(-time.Second)
			if err := store.Redeem(t.Context(), before); c.loses != errors.Is(err, handoff.ErrIssuedBeforeStart) {
				t.Errorf("of before: %v", err)
			}
		})
	}
	t.Run("unlogged", func(t *testing.T) {
		store := open(t, location, sqlreplay.Config{})
		do(t, admin, `ALTER TABLE handoff_redemptions SET UNLOGGED`)
		servingtest.Eventually(t, "health says why", func() bool {
			err := store.Healthy()
			return err != nil && strings.Contains(err.Error(), "unlogged")
		})
		if store.Redeem(t.Context(), token()) == nil {
			t.Error("redeemed")
		}
	})
}

func testNoTable(t *testing.T, location string) {
	store := open(t, location, sqlreplay.Config{})
	age(t, store.db)
	do(t, store.db, `DROP TABLE handoff_redemptions`)
	if err := store.Redeem(t.Context(), token()); err == nil {
		t.Error("redeemed without a table")
	}
	servingtest.Eventually(t, "health says it", func() bool { return store.Healthy() != nil })
	if _, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: store.db}); !errors.Is(err, sqlreplay.ErrNoTable) {
		t.Errorf("opened: %v", err)
	}
	for range 2 { // it is made once
		if err := sqlreplay.Create(t.Context(), sqlreplay.Config{DB: store.db}); err != nil {
			t.Fatal(err)
		}
	}
	servingtest.Eventually(t, "it starts over", func() bool { return store.told(replay.StartedOver) == 2 })
	if err := store.Redeem(t.Context(), token()); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v", err)
	}
}

// A caller who waits for a connection in vain has spent nothing.
func testNoConnection(t *testing.T, location string) {
	store := open(t, location, sqlreplay.Config{Timeout: 50 * time.Millisecond})
	age(t, store.db)
	store.db.SetMaxOpenConns(1)
	held, err := store.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := token()
	if err := store.Redeem(t.Context(), r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	held.Close()
	servingtest.Eventually(t, "the same token is redeemed", func() bool { return store.Redeem(t.Context(), r) == nil })
}

// The rights that POSTGRES.md names suffice, and fewer do not.
func testRights(t *testing.T, location string) {
	admin := connect(t, location)
	do(t, admin, `DROP ROLE IF EXISTS billing`, `CREATE ROLE billing LOGIN`,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON handoff_redemptions TO billing`)
	t.Cleanup(func() { do(t, admin, `DROP OWNED BY billing`, `DROP ROLE billing`) })
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("billing")
	store := open(t, u.String(), sqlreplay.Config{})
	age(t, admin)
	if err := store.Redeem(t.Context(), token()); err != nil {
		t.Error(err)
	}
	if err := store.Raise(t.Context(), "https://shop.example", 7); err != nil {
		t.Error(err)
	}
	do(t, admin, `REVOKE INSERT ON handoff_redemptions FROM billing`)
	if store.Redeem(t.Context(), token()) == nil {
		t.Error("redeemed without a right")
	}
}

// Who empties the table empties the epoch with it: what was issued before is refused.
func testEmptied(t *testing.T, location string) {
	stores := []*opened{open(t, location, sqlreplay.Config{}), open(t, location, sqlreplay.Config{})}
	age(t, stores[0].db)
	r := token()
	if err := stores[0].Redeem(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	do(t, stores[0].db, `DELETE FROM handoff_redemptions`)
	for _, s := range stores {
		if s.Redeem(t.Context(), r) == nil {
			t.Error("redeemed again")
		}
	}
	for _, s := range stores {
		servingtest.Eventually(t, "it starts over", func() bool { return errors.Is(s.Redeem(t.Context(), r), handoff.ErrIssuedBeforeStart) })
	}
	servingtest.Eventually(t, "health says how long", func() bool {
		return errors.Is(stores[0].Healthy(), handoff.ErrIssuedBeforeStart) || errors.Is(stores[1].Healthy(), handoff.ErrIssuedBeforeStart)
	})
	fresh := token()
	fresh.IssuedAt = stores[0].Ready()
	if err := stores[0].Redeem(t.Context(), fresh); err != nil {
		t.Errorf("issued when it is ready: %v", err)
	}
}

// E12: marks whose time is over are removed, more than one statement's worth; those of
// living tokens and the trust list's number are not.
func testRemoval(t *testing.T, location string) {
	first := open(t, location, sqlreplay.Config{})
	age(t, first.db)
	living := token()
	if err := errors.Join(first.Redeem(t.Context(), living), first.Raise(t.Context(), "https://shop.example", 7)); err != nil {
		t.Fatal(err)
	}
	first.Close()
	old := time.Now().Add(-time.Hour).UnixMilli()
	if _, err := first.db.Exec(`INSERT INTO handoff_redemptions SELECT decode(md5(n::text), 'hex'), $1 FROM generate_series(1, 2500) n`, old); err != nil {
		t.Fatal(err)
	}
	do(t, first.db, `UPDATE handoff_redemptions SET kept = regexp_replace(kept, '^(\d+) \d+', '\1 1000') WHERE mark = ''`) // nothing was removed yet
	second := open(t, location, sqlreplay.Config{})
	servingtest.Eventually(t, "all is removed that is over", func() bool { return count(t, second.db, `SELECT count(*) FROM handoff_redemptions`) == 3 })
	if err := second.Redeem(t.Context(), living); !errors.Is(err, handoff.ErrReplayed) {
		t.Errorf("a living token: %v", err)
	}
	if seq, err := second.Floor(t.Context(), "https://shop.example"); seq != 7 || err != nil {
		t.Errorf("the number is %d, %v", seq, err)
	}
	over := token()
	over.IssuedAt, over.Expires = time.UnixMilli(old).Add(-time.Minute), time.UnixMilli(old)
	if err := second.Redeem(t.Context(), over); err == nil || errors.Is(err, handoff.ErrReplayed) {
		t.Errorf("of a time whose marks are removed: %v", err)
	}
}

// I08: the greater number stays, for each issuer, in all replicas.
func testFloor(t *testing.T, location string) {
	stores := []*opened{open(t, location, sqlreplay.Config{}), open(t, location, sqlreplay.Config{})}
	const shop, other = "https://shop.example", "https://other.example"
	for _, step := range []struct{ raise, want int64 }{{0, 0}, {7, 7}, {5, 7}, {1 << 50, 1 << 50}, {999, 1 << 50}} {
		if step.raise != 0 {
			if err := stores[0].Raise(t.Context(), shop, step.raise); err != nil {
				t.Fatal(err)
			}
		}
		if seq, err := stores[1].Floor(t.Context(), shop); seq != step.want || err != nil {
			t.Errorf("after %d: %d, %v", step.raise, seq, err)
		}
	}
	if seq, err := stores[1].Floor(t.Context(), other); seq != 0 || err != nil {
		t.Errorf("another issuer: %d, %v", seq, err)
	}
}

// Two services in one database have tables of their own.
func testTable(t *testing.T, location string) {
	db := connect(t, location)
	do(t, db, `CREATE SCHEMA billing`)
	const table = "billing.spent"
	if err := sqlreplay.Create(t.Context(), sqlreplay.Config{DB: db, Table: table}); err != nil {
		t.Fatal(err)
	}
	usual, own := open(t, location, sqlreplay.Config{}), open(t, location, sqlreplay.Config{Table: table})
	r := token()
	r.IssuedAt = usual.Ready().Add(time.Second)
	r.Expires = r.IssuedAt.Add(time.Minute)
	for _, s := range []*opened{usual, own} {
		if err := s.Redeem(t.Context(), r); err != nil {
			t.Error(err)
		}
		if err := s.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrReplayed) {
			t.Errorf("got %v", err)
		}
	}
	for _, bad := range []string{"a.b.c", "Redemptions", `x"; DROP TABLE handoff_redemptions; --`, "x y", ".x", "x.", strings.Repeat("x", 64)} {
		var wrong *handoff.ConfigError
		if _, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: db, Table: bad}); !errors.As(err, &wrong) || wrong.Field != "sqlreplay.Config.Table" {
			t.Errorf("the table %q: %v", bad, err)
		}
	}
}

// A redemption is one statement that asks its own server: a pooler that gives each
// statement another connection does no harm.
func testPooler(t *testing.T, location string) {
	through := servingtest.StartPgBouncer(t, location, "pool_mode=statement")
	direct := connect(t, location)
	store := &opened{db: connect(t, through+"&default_query_exec_mode=exec")}
	_, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: store.db})
	if err == nil {
		t.Fatal("opened, though the epoch takes a transaction")
	}
	through = servingtest.StartPgBouncer(t, location, "pool_mode=transaction")
	store = open(t, through+"&default_query_exec_mode=exec", sqlreplay.Config{})
	age(t, direct)
	if redeemed, _ := handofftest.Crowd(t, store); !redeemed {
		t.Error("nobody redeems the token")
	}
}

// A clock that is off by more than the skew would end marks early, or let tokens in.
func testClocksApart(t *testing.T, location string) {
	db := connect(t, location)
	for _, apart := range []time.Duration{-10 * time.Second, 10 * time.Second} {
		_, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: db, Now: func() time.Time { return time.Now().Add(apart) }})
		if err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("%s apart: %v", apart, err)
		}
	}
}

// F01: marks were removed while PostgreSQL's clock was ahead. When it is right again,
// the epoch starts over, and no token of before is taken.
func testClockBack(t *testing.T, location string) {
	first := open(t, location, sqlreplay.Config{})
	age(t, first.db)
	r := token()
	if err := first.Redeem(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	first.Close()
	do(t, first.db, `DELETE FROM handoff_redemptions WHERE length(mark) = 16`,
		`UPDATE handoff_redemptions SET kept = regexp_replace(kept, '^(\d+) \d+', '\1 '||(extract(epoch FROM now()) * 1000 + 3600000)::bigint) WHERE mark = ''`)
	// Before anybody has looked, what belongs to a time whose marks were removed is refused.
	second := open(t, location, sqlreplay.Config{})
	if n := second.told(replay.StartedOver); n != 1 {
		t.Errorf("it starts over %d times", n)
	}
	if err := second.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v", err)
	}
}

// E06: a redemption that has to wait for another transaction is refused in time.
func testWaits(t *testing.T, location string) {
	store := open(t, location, sqlreplay.Config{Timeout: 100 * time.Millisecond})
	age(t, store.db)
	tx, err := store.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`LOCK TABLE handoff_redemptions IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	r := token()
	if err := store.Redeem(t.Context(), r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	servingtest.Eventually(t, "another is redeemed", func() bool { return store.Redeem(t.Context(), token()) == nil })
}

func TestConfig(t *testing.T) {
	db, err := sql.Open("pgx", "postgres://nobody@127.0.0.1:1/nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for field, c := range map[string]sqlreplay.Config{
		"DB": {}, "Skew": {DB: db, Skew: handoff.MaxSkew + 1}, "Timeout": {DB: db, Timeout: time.Minute},
	} {
		var wrong *handoff.ConfigError
		if _, err := sqlreplay.Open(t.Context(), c); !errors.As(err, &wrong) || wrong.Field != "sqlreplay.Config."+field {
			t.Errorf("%s: %v", field, err)
		}
		if err := sqlreplay.Create(t.Context(), c); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := sqlreplay.Open(t.Context(), sqlreplay.Config{DB: db}); err == nil {
		t.Error("opened what is not there")
	}
}

// nameOf returns the database's name of a URL.
func nameOf(t testing.TB, location string) string {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}
