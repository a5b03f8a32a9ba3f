// Package servingtest starts what the demo servers' own tests need beside them: a
// private PostgreSQL, and a private Redis.
//
//	db, err := ledger.Open(t.Context(), servingtest.Postgres(t))
//
// # Invariants
//
// A server belongs to one test: it has a folder of its own, and ends with the
// test, however that ends.
//
// It keeps what it promises a client, as one in production would: nothing is
// turned off to be faster.
//
// # What it does not do
//
// It installs nothing. Where Debian's package postgresql, or redis-server, is
// missing, the test is skipped with a line that says so, or fails if the
// environment has CI or HANDOFF_CI.
package servingtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// Postgres starts a PostgreSQL for the test and returns the URL of an empty
// database in it.
func Postgres(t testing.TB) (url string) {
	t.Helper()
	return StartPostgres(t).Database(t)
}

// PostgresServer is a private PostgreSQL. Its methods are for one goroutine.
type PostgresServer struct{ *harness.Postgres }

// StartPostgres starts a PostgreSQL that is stopped when the test ends.
func StartPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	p, err := harness.StartPostgres(context.Background())
	started(t, err)
	t.Cleanup(func() { ended(t, p.Stop) })
	return &PostgresServer{p}
}

// StartPostgresTLS starts one that also listens at an address, 127.0.0.1:PORT,
// over TLS only, with a certificate of the authority's.
func StartPostgresTLS(t testing.TB, by *Authority) (_ *PostgresServer, address string) {
	t.Helper()
	p, err := harness.MakePostgres(context.Background())
	started(t, err)
	t.Cleanup(func() { ended(t, p.Stop) })
	certificate := filepath.Join(p.Dir(), "server")
	by.Issue(t, certificate, "127.0.0.1")
	if err := p.Own(certificate+".crt", certificate+".key"); err != nil {
		t.Fatal(err)
	}
	const access = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(p.Data(), "pg_hba.conf"), []byte(access), 0o600); err != nil {
		t.Fatal(err)
	}
	address = HoldPort(t).Address()
	host, port, _ := net.SplitHostPort(address)
	p.Settings = []string{
		"listen_addresses=" + host, "port=" + port, "ssl=on", "ssl_cert_file=" + certificate + ".crt", "ssl_key_file=" + certificate + ".key",
	}
	p.Port = port
	started(t, p.Start(context.Background()))
	return &PostgresServer{p}, address
}

// StartStandby starts a standby of the server, which follows it until the test ends.
func (p *PostgresServer) StartStandby(t testing.TB) *PostgresServer {
	t.Helper()
	standby, err := p.Standby(context.Background())
	started(t, err)
	t.Cleanup(func() { ended(t, standby.Stop) })
	return &PostgresServer{standby}
}

// Start starts a server that Kill has ended, and waits until it answers.
func (p *PostgresServer) Start(t testing.TB) {
	t.Helper()
	started(t, p.Postgres.Start(context.Background()))
}

// Kill ends the server as kill -9 does: when it returns, its last process has
// ended. Start starts it again, where it was.
func (p *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	ended(t, p.Postgres.Kill)
}

// Database returns the URL of a new, empty database.
func (p *PostgresServer) Database(t testing.TB) (url string) {
	t.Helper()
	url, err := p.Postgres.Database(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return url
}
