package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// open opens a database, which is given a table, and asks for what changes need.
func open(t *testing.T, location string) (*DB, error) {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), u, "postgres-test")
	if err != nil {
		return nil, err
	}
	if _, err = db.Write.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS notes (note TEXT PRIMARY KEY)`); err == nil {
		err = db.Ready(t.Context(), "notes")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func openAt(t *testing.T, location string) *DB {
	t.Helper()
	db, err := open(t, location)
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

// note makes a change.
func (db *DB) note(ctx context.Context, text string) error {
	tx, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `INSERT INTO notes VALUES ($1)`, text); err != nil {
		return fmt.Errorf("in the middle: %w", err)
	}
	return tx.Commit()
}

// operator is a session beside the program's.
type operator struct{ *pgx.Conn }

func newOperator(t *testing.T, database string) operator {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return operator{conn}
}

func (o operator) do(t *testing.T, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := o.Exec(t.Context(), statement); err != nil {
			t.Fatal(statement, err)
		}
	}
}

// open returns how many sessions the program has at the server.
func (o operator) open(t *testing.T) (n int) {
	t.Helper()
	const count = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres-test'`
	if err := o.QueryRow(t.Context(), count).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostgres(t *testing.T) {
	server := servingtest.StartPostgres(t)
	for name, test := range map[string]func(*testing.T, string){
		"I09 a server turns":                 testServerTurns,
		"I09 refused connections are closed": testRefusedConnections,
		"ready needs rights":                 testReadyNeedsRights,
		"PgBouncer":                          testPgBouncer,
		"no connection":                      testNoConnection,
	} {
		t.Run(name, func(t *testing.T) { test(t, server.Database(t)) })
	}
	t.Run("I09 a standby", func(t *testing.T) { testStandby(t, server) })
}

// I09: a server that turns read-only or forgetful under open connections does no
// more work by any of them, says why, and keeps none of them; and works again when
// it has turned back.
func testServerTurns(t *testing.T, database string) {
	admin := newOperator(t, database)
	admin.do(t, `SET default_transaction_read_only TO off`)
	for setting, bad := range map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "default_transaction_read_only": "on",
	} {
		t.Run(setting, func(t *testing.T) {
			db := openAt(t, database)
			db.Limit(8)
			if err := db.note(t.Context(), setting); err != nil {
				t.Fatal(err)
			}
			admin.do(t, `ALTER SYSTEM SET `+setting+` TO `+bad, `SELECT pg_reload_conf()`)
			var refused error
			notes := 0
			servingtest.Eventually(t, "it goes on", func() bool {
				notes++
				refused = db.note(t.Context(), fmt.Sprint(setting, notes))
				return refused != nil && !strings.Contains(refused.Error(), "in the middle") // it turned after the question: the next hears no
			})
			if !strings.Contains(refused.Error(), "this PostgreSQL ") {
				t.Errorf("it does not say why: %v", refused)
			}
			for range 20 {
				if err := db.note(t.Context(), "never"); err == nil {
					t.Error("a change is made")
				}
			}
			time.Sleep(recheck)
			if err := db.Ready(t.Context(), "notes"); err == nil {
				t.Error("it is ready")
			}
			if err := db.Read.PingContext(t.Context()); err == nil {
				t.Error("a connection that reads is kept")
			}
			servingtest.Eventually(t, "its connections stay open", func() bool { return admin.open(t) == 0 })
			admin.do(t, `ALTER SYSTEM RESET `+setting, `SELECT pg_reload_conf()`)
			servingtest.Eventually(t, "it does not come back", func() bool { return db.Ready(t.Context(), "notes") == nil })
			if err := db.note(t.Context(), setting+" again"); err != nil {
				t.Error(err)
			}
		})
	}
}

// I09: connections that are refused are closed, however many are tried.
func testRefusedConnections(t *testing.T, database string) {
	admin := newOperator(t, database)
	db := openAt(t, database)
	admin.do(t, `ALTER ROLE handoff SET synchronous_commit TO off`,
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'postgres-test'`)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if err := db.note(t.Context(), "never"); err == nil {
					t.Error("a change is made")
				}
			}
		})
	}
	wg.Wait()
	servingtest.Eventually(t, "refused connections stay open", func() bool { return admin.open(t) == 0 })
	admin.do(t, `ALTER ROLE handoff RESET synchronous_commit`)
	if err := db.note(t.Context(), "again"); err != nil {
		t.Error(err)
	}
}

// I09: the program's name for the server leads to a standby for a while, and then to
// the primary again. Connections to the standby are not kept, and the pool is at
// work again as soon as the name leads to a server that takes changes.
func testStandby(t *testing.T, primary *servingtest.PostgresServer) {
	database := primary.Database(t)
	standby := primary.StartStandby(t)
	name := newSwitch(t, database)
	db := openAt(t, name.url)
	if err := db.note(t.Context(), "primary"); err != nil {
		t.Fatal(err)
	}
	name.lead(t, standby.Socket())
	for range 10 {
		if err := db.note(t.Context(), "never"); err == nil || !strings.Contains(err.Error(), "standby") {
			t.Fatalf("on a standby: %v", err)
		}
	}
	if err := db.Ready(t.Context(), "notes"); err == nil {
		t.Error("on a standby: it is ready")
	}
	name.lead(t, primary.Socket())
	if err := db.note(t.Context(), "primary again"); err != nil {
		t.Error(err)
	}
	// A URL that names both finds the primary, wherever it stands.
	both := strings.Split(database, "?")[0] + "?host=" + url.QueryEscape(filepath.Dir(standby.Socket())+","+filepath.Dir(primary.Socket()))
	if err := openAt(t, both).note(t.Context(), "one of two"); err != nil {
		t.Error(err)
	}
}

// What the program's work needs is asked for, and not only whether the server answers.
func testReadyNeedsRights(t *testing.T, database string) {
	admin := newOperator(t, database)
	db := openAt(t, database)
	admin.do(t, `CREATE ROLE clerk LOGIN`, `GRANT ALL ON SCHEMA public TO clerk`, `GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk`)
	clerk := openAt(t, strings.Replace(database, "handoff@", "clerk@", 1))
	if err := clerk.Ready(t.Context(), "notes"); err != nil {
		t.Fatal(err)
	}
	admin.do(t, `REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON notes FROM clerk`)
	if err := clerk.Ready(t.Context(), "notes"); err == nil {
		t.Error("ready without the right to change")
	}
	admin.do(t, `DROP TABLE notes`)
	if err := db.Ready(t.Context(), "notes"); err == nil {
		t.Error("ready without its table")
	}
}

// PgBouncer is refused with the reason, with and without the setting that hides it.
func testPgBouncer(t *testing.T, database string) {
	const ignore = "ignore_startup_parameters=statement_timeout,idle_in_transaction_session_timeout"
	for name, settings := range map[string][]string{
		"as it is":                             {"pool_mode=transaction"},
		"with start parameters ignored":        {"pool_mode=transaction", ignore},
		"a session each, parameters ignored":   {"pool_mode=session", ignore},
		"a statement each, parameters ignored": {"pool_mode=statement", ignore},
	} {
		t.Run(name, func(t *testing.T) {
			through := servingtest.StartPgBouncer(t, database, settings...)
			if _, err := open(t, through); err == nil || !strings.Contains(err.Error(), "PgBouncer") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// nameSwitch is a name for a server, which can lead to another one.
type nameSwitch struct {
	url    string
	mu     sync.Mutex
	socket string
	open   []net.Conn
}

// newSwitch returns a name that leads to the server of a database.
func newSwitch(t *testing.T, database string) *nameSwitch {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	s := &nameSwitch{socket: filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")}
	u.Host, u.RawQuery = listener.Addr().String(), "sslmode=disable"
	s.url = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go s.relay(client)
		}
	}()
	return s
}

func (s *nameSwitch) relay(client net.Conn) {
	defer client.Close()
	s.mu.Lock()
	server, err := net.Dial("unix", s.socket)
	if err == nil {
		s.open = append(s.open, server)
	}
	s.mu.Unlock()
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// lead has the name lead to another socket, for new connections; those to the
// primary end, as its machine is gone, and those to a standby stay.
func (s *nameSwitch) lead(t *testing.T, socket string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) > 0 && !strings.Contains(s.socket, "standby") {
		for _, conn := range s.open {
			conn.Close()
		}
		s.open = nil
	}
	s.socket = socket
}
