// Package servingtest starts what the demo servers' own tests need beside them: a
// private PostgreSQL.
//
//	db, err := ledger.Open(t.Context(), servingtest.Postgres(t))
//
// # Invariants
//
// A server belongs to one test: it has a folder of its own, no port, and ends
// with the test. Nobody but the test's user (and root) reaches it.
//
// It keeps what it promises a client, as one in production would: nothing is
// turned off to be faster.
//
// # What it does not do
//
// It installs nothing. Where Debian's package postgresql is missing, the test is
// skipped with a line that says so, or fails if the environment has CI or
// HANDOFF_CI.
package servingtest

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

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
	owner     *owner
	databases int
	process   *os.Process
	exited    chan struct{} // closed when all of its processes have ended
}

const (
	superuser = "handoff"
	patience  = time.Minute // of a busy machine
)

// StartPostgres starts a PostgreSQL that is stopped when the test ends.
func StartPostgres(t testing.TB) *PostgresServer {
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
		p.end(t, syscall.SIGQUIT)
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
	p.Start(t)
	return p
}

// initialize makes the server's data.
func (p *PostgresServer) initialize() error {
	runtime.LockOSThread() // see launch
	defer runtime.UnlockOSThread()
	initdb := exec.Command(filepath.Join(p.bin, "initdb"), "--pgdata", p.data(), "--username", superuser,
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
	initdb.Dir, initdb.Env, initdb.SysProcAttr = p.dir, environment(), p.owner.attributes()
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// unavailable skips the test, or fails it where nothing may be skipped.
func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("HANDOFF_CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
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

// environment is no more than the programs need: none of the user's PG variables.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

func (p *PostgresServer) data() string { return filepath.Join(p.dir, "data") }

// Start starts a server that Kill has ended, and waits until it answers.
func (p *PostgresServer) Start(t testing.TB) {
	t.Helper()
	if err := p.launch(); err != nil {
		t.Fatal(err)
	}
	if !p.answers() {
		log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		t.Fatalf("PostgreSQL does not start:\n%s", log)
	}
}

// launch starts the process. The kernel ends it with the thread that started it,
// so that thread waits for it. The log is a pipe to us, and so ends with the last
// of the server's processes, not with the first.
func (p *PostgresServer) launch() error {
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.data(), "-k", p.dir, "-c", "listen_addresses=")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = p.dir, environment(), p.owner.attributes()
	cmd.Stderr = struct{ io.Writer }{log}
	p.exited = make(chan struct{})
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(p.exited)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.process = cmd.Process
	return nil
}

// answers waits until the server answers, and is false if it ends instead.
func (p *PostgresServer) answers() bool {
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		return false
	}
	defer db.Close()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if db.Ping() == nil {
			return true
		}
		select {
		case <-p.exited:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// Kill ends the server as kill -9 does: when it returns, its last process has
// ended. Start starts it again, where it was.
func (p *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	p.end(t, syscall.SIGKILL)
}

// end sends a signal to the server, if there is one, and waits for its end.
func (p *PostgresServer) end(t testing.TB, with syscall.Signal) {
	t.Helper()
	if p.process == nil {
		return
	}
	if err := p.process.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Errorf("PostgreSQL does not end: %v", p.process.Kill())
	}
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
	return (&url.URL{
		Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: url.Values{"host": {p.dir}}.Encode(),
	}).String()
}
