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
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// Postgres starts a PostgreSQL for the test and returns the URL of an empty
// database in it.
func Postgres(t testing.TB) (url string) {
	t.Helper()
	return StartPostgres(t).Database(t)
}

// PostgresServer is a private PostgreSQL. Its methods are for one goroutine.
type PostgresServer struct {
	bin       string // the folder of its programs
	dir       string // all that it keeps, its socket and its log
	settings  []string
	port      string // of its socket; empty: the usual
	owner     *owner
	databases int
	process   *process
}

const superuser = "handoff"

// StartPostgres starts a PostgreSQL that is stopped when the test ends.
func StartPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	p := preparePostgres(t)
	p.settings = []string{"listen_addresses="}
	p.Start(t)
	return p
}

// StartPostgresTLS starts one that also listens at an address, 127.0.0.1:PORT,
// over TLS alone, with a certificate of the authority's.
func StartPostgresTLS(t testing.TB, by *Authority) (p *PostgresServer, address string) {
	t.Helper()
	p = preparePostgres(t)
	certificate := filepath.Join(p.dir, "server")
	by.Issue(t, certificate, "127.0.0.1")
	for _, file := range []string{certificate + ".crt", certificate + ".key"} {
		if err := p.owner.own(file); err != nil {
			t.Fatal(err)
		}
	}
	const access = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(p.data(), "pg_hba.conf"), []byte(access), 0o600); err != nil {
		t.Fatal(err)
	}
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(address)
	p.settings = []string{
		"listen_addresses=" + host, "port=" + port, "ssl=on", "ssl_cert_file=" + certificate + ".crt", "ssl_key_file=" + certificate + ".key",
	}
	p.port = port
	p.Start(t)
	return p, address
}

// preparePostgres makes a server's data, and has it end with the test.
func preparePostgres(t testing.TB) *PostgresServer {
	t.Helper()
	p := &PostgresServer{}
	var err error
	if p.bin, err = findPrograms(); err == nil {
		p.owner, err = findOwner()
	}
	if err != nil {
		unavailable(t, err)
	}
	if p.dir, err = os.MkdirTemp("", "postgres"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.process.end(t, syscall.SIGQUIT)
		if err := os.RemoveAll(p.dir); err != nil {
			t.Error(err)
		}
	})
	if err := p.owner.own(p.dir); err != nil {
		t.Fatal(err)
	}
	if err := p.initialize(); err != nil {
		t.Fatal(err)
	}
	return p
}

// initialize makes the server's data.
func (p *PostgresServer) initialize() error {
	runtime.LockOSThread() // see launch
	defer runtime.UnlockOSThread()
	initdb := exec.Command(filepath.Join(p.bin, "initdb"), "--pgdata", p.data(), "--username", superuser,
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
	initdb.Dir, initdb.Env, initdb.SysProcAttr = p.dir, environment(), p.owner.attributes(syscall.SIGQUIT)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// findPrograms returns the folder of initdb and postgres: that of the PATH, or
// the newest of Debian's.
func findPrograms() (string, error) {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			folders = append(folders, filepath.Dir(path))
		}
	}
	for i := len(folders) - 1; i >= 0; i-- {
		if _, err := os.Stat(filepath.Join(folders[i], "postgres")); err == nil {
			return folders[i], nil
		}
	}
	return "", errors.New("no PostgreSQL to test with: install Debian's package postgresql")
}

func (p *PostgresServer) data() string { return filepath.Join(p.dir, "data") }

// Start starts a server that Kill has ended, and waits until it answers.
func (p *PostgresServer) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.data(), "-k", p.dir)
	for _, setting := range p.settings {
		cmd.Args = append(cmd.Args, "-c", setting)
	}
	cmd.Dir, cmd.SysProcAttr = p.dir, p.owner.attributes(syscall.SIGQUIT)
	log := filepath.Join(p.dir, "log")
	var err error
	if p.process, err = launch(cmd, log); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !p.process.answers(func() bool { return db.Ping() == nil }) {
		text, _ := os.ReadFile(log)
		t.Fatalf("PostgreSQL does not start:\n%s", text)
	}
}

// Kill ends the server as kill -9 does: when it returns, its last process has
// ended. Start starts it again, where it was.
func (p *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	p.process.end(t, syscall.SIGKILL)
	p.process = nil
}

// Database returns the URL of a new, empty database.
func (p *PostgresServer) Database(t testing.TB) (url string) {
	t.Helper()
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p.databases++
	name := fmt.Sprint("test", p.databases)
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return p.url(name)
}

func (p *PostgresServer) url(database string) string {
	where := url.Values{"host": {p.dir}}
	if p.port != "" {
		where.Set("port", p.port)
	}
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: where.Encode()}).String()
}
