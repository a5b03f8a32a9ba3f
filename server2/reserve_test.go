package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// admin is a session of the operator's at a database.
func admin(t *testing.T, driver, source string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func do(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(statement, err)
		}
	}
}

// A hundred payments at once, with few connections and a slow database: those that
// get no connection in time keep their handoffs, and pay by them later.
func TestPaymentsWaitBeforeTheySpend(t *testing.T) {
	t.Parallel()
	postgres := servingtest.StartPostgres(t)
	for name, change := range map[string]func(s settings, database string){
		"a small pool": func(s settings, database string) {
			s["database"], s["database-connections"] = database, "2"
		},
		"a server that allows few": func(s settings, database string) {
			s["database"] = strings.Replace(database, "handoff@", "clerk@", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			database := postgres.Database(t)
			db := admin(t, "pgx", database)
			do(t, db, `DROP ROLE IF EXISTS clerk`, `CREATE ROLE clerk LOGIN CONNECTION LIMIT 3`, `GRANT ALL ON SCHEMA public TO clerk`)
			r := startWith(t, func(s settings) { change(s, database) })
			const calls = 100
			var invoices []map[string]any
			for i := range calls {
				invoices = append(invoices, map[string]any{
					"invoice_id": fmt.Sprint("MANY-", i), "issuer": testIssuer, "subject": alice, "currency_code": "EUR", "minor_units": 1200,
				})
			}
			text, err := json.Marshal(invoices)
			if err != nil {
				t.Fatal(err)
			}
			var out servingtest.Log
			file := write(t, filepath.Join(t.TempDir(), "many.json"), text)
			if code := run(t.Context(), []string{"seed", "--database=" + database, file}, &out, &out); code != 0 {
				t.Fatal(&out)
			}
			do(t, db, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$`,
				`CREATE TRIGGER slow AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION slow()`)
			t.Cleanup(func() { do(t, db, `DROP OWNED BY clerk`) })
			requests, tokens := make([]*server2v1.PayInvoiceRequest, calls), make([]string, calls)
			for i := range calls {
				requests[i] = payment(fmt.Sprint("MANY-", i), 1200, i)
				tokens[i] = token(t, r.issuer, payMethod, requests[i], nil)
			}
			var mu sync.Mutex
			waited := 0
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					for {
						_, err := r.client.PayInvoice(t.Context(), requests[i], handoffgrpc.Token(tokens[i]))
						if err == nil {
							return
						}
						if status.Code(err) != codes.Unavailable || !strings.Contains(reasons(err), "DATABASE_UNAVAILABLE") {
							t.Errorf("payment %d: %v", i, err)
							return
						}
						mu.Lock()
						waited++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if t.Logf("%d calls waited in vain", waited); waited == 0 && name == "a small pool" {
				t.Error("no call had to wait: this shows nothing")
			}
			var paid int
			if err := db.QueryRow(`SELECT count(*) FROM payments`).Scan(&paid); err != nil || paid != calls {
				t.Errorf("%d payments, %v", paid, err)
			}
		})
	}
}

// I09: what the database cannot do, no handoff is spent on; and health says so.
func TestI09HandoffsAreKeptFromABadDatabase(t *testing.T) {
	t.Parallel()
	postgres := servingtest.StartPostgres(t)
	database := postgres.Database(t)
	operator := admin(t, "pgx", database)
	do(t, operator, `SET default_transaction_read_only TO off`)
	file := filepath.Join(t.TempDir(), "server2.db")
	other := admin(t, "sqlite", "file:"+file+"?_txlock=exclusive")
	var lock *sql.Tx
	for name, c := range map[string]struct {
		database    string
		spoil, mend func(*testing.T)
		cause       string // what the log must say
	}{
		"read-only": {
			database: database, cause: "read-only",
			spoil: func(t *testing.T) {
				do(t, operator, `ALTER SYSTEM SET default_transaction_read_only TO on`, `SELECT pg_reload_conf()`)
			},
			mend: func(t *testing.T) {
				do(t, operator, `ALTER SYSTEM RESET default_transaction_read_only`, `SELECT pg_reload_conf()`)
			},
		},
		"forgetful": {
			database: database, cause: "synchronous_commit off",
			spoil: func(t *testing.T) {
				do(t, operator, `ALTER SYSTEM SET synchronous_commit TO off`, `SELECT pg_reload_conf()`)
			},
			mend: func(t *testing.T) {
				do(t, operator, `ALTER SYSTEM RESET synchronous_commit`, `SELECT pg_reload_conf()`)
			},
		},
		"a locked file": {
			database: file, cause: "locked",
			spoil: func(t *testing.T) {
				var err error
				if lock, err = other.Begin(); err != nil {
					t.Fatal(err)
				}
			},
			mend: func(t *testing.T) {
				if err := lock.Rollback(); err != nil {
					t.Error(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startWith(t, func(s settings) { s["database"] = c.database })
			req := payment("INV-42", 1200, 1) // which pays once, and then again by its request id
			raw := token(t, r.issuer, payMethod, req, nil)
			c.spoil(t)
			r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
			_, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
			if status.Code(err) != codes.Unavailable || !strings.Contains(reasons(err), "DATABASE_UNAVAILABLE") {
				t.Errorf("without a database that does the work: %v", err)
			}
			if !strings.Contains(r.log.String(), c.cause) {
				t.Errorf("the log does not say that it is %s:\n%s", c.cause, r.log)
			}
			c.mend(t)
			r.health(t, healthpb.HealthCheckResponse_SERVING)
			if _, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); err != nil {
				t.Errorf("the same handoff, once it does again: %v", err)
			}
		})
	}
}
