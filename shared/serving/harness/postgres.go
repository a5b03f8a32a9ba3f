package harness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL, which listens at a socket in its own folder. It
// keeps what it promises a client: nothing is turned off to be faster.
type Postgres struct {
	// Settings are those of the server from its next start on: "port=5433".
	Settings []string
	// Port is that of its socket. Empty: 5432.
	Port string

	bin       string // the folder of its programs
	dir       string // all that it keeps, its socket and its log
	owner     *owner
	databases int
	process   *Process
}

const superuser = "handoff"

// StartPostgres starts a PostgreSQL in a new temporary folder. errors.Is finds
// exec.ErrNotFound in the error where none is installed.
func StartPostgres(ctx context.Context) (*Postgres, error) {
	p, err := MakePostgres(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// MakePostgres makes the data of a server that Start starts, and that does not listen
// at a port of the network.
func MakePostgres(ctx context.Context) (*Postgres, error) {
	p := &Postgres{Settings: []string{"listen_addresses="}}
	var err error
	if p.bin, err = postgresPrograms(); err != nil {
		return nil, err
	}
	if p.owner, err = findOwner(); err != nil {
		return nil, err
	}
	if err := p.makeFolder(); err != nil {
		return nil, err
	}
	err = p.run(ctx, "initdb", "--pgdata", p.Data(), "--username", superuser,
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// Standby starts a standby of the server, which follows it.
func (p *Postgres) Standby(ctx context.Context) (*Postgres, error) {
	standby := &Postgres{bin: p.bin, owner: p.owner, Settings: p.Settings}
	if err := standby.makeFolder(); err != nil {
		return nil, err
	}
	err := standby.run(ctx, "pg_basebackup", "--pgdata", standby.Data(), "--host", p.dir, "--username", superuser,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	if err == nil {
		err = standby.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, standby.Stop())
	}
	return standby, nil
}

func (p *Postgres) makeFolder() (err error) {
	if p.dir, err = os.MkdirTemp("", "postgres"); err != nil {
		return err
	}
	if err := p.owner.own(p.dir); err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	return nil
}

// run runs one of PostgreSQL's programs to its end.
func (p *Postgres) run(ctx context.Context, program string, args ...string) error {
	runtime.LockOSThread() // see Launch
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = p.dir, environment(), p.owner.attributes(syscall.SIGQUIT)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// postgresPrograms returns the folder of initdb and postgres: that of the PATH, or
// the newest of Debian's.
func postgresPrograms() (string, error) {
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
	return "", missing("PostgreSQL", "postgresql")
}

// Dir is the folder of all that the server keeps.
func (p *Postgres) Dir() string { return p.dir }

// Data is the folder of its data, with its configuration.
func (p *Postgres) Data() string { return filepath.Join(p.dir, "data") }

// Socket is where the server listens on this machine.
func (p *Postgres) Socket() string { return filepath.Join(p.dir, ".s.PGSQL.5432") }

// Own makes files the server's, which may run as another user.
func (p *Postgres) Own(paths ...string) error { return p.owner.own(paths...) }

// Start starts a server that has ended, with what it had, and waits until it
// answers.
func (p *Postgres) Start(ctx context.Context) error {
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.Data(), "-k", p.dir)
	for _, setting := range p.Settings {
		cmd.Args = append(cmd.Args, "-c", setting)
	}
	cmd.Dir, cmd.Env, cmd.SysProcAttr = p.dir, environment(), p.owner.attributes(syscall.SIGQUIT)
	var err error
	if p.process, err = Launch(cmd, filepath.Join(p.dir, "log")); err != nil {
		return err
	}
	return p.process.answers("PostgreSQL", func() bool {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return p.execute(ctx, "SELECT 1") == nil
	})
}

// Kill ends the server as kill -9 does: when it returns, its last process has ended.
func (p *Postgres) Kill() error { return p.end(syscall.SIGKILL) }

// Halt has the server end well, and at once: it waits for no client.
func (p *Postgres) Halt() error { return p.end(syscall.SIGINT) }

func (p *Postgres) end(with syscall.Signal) error {
	err := p.process.End(with)
	p.process = nil
	return err
}

// Stop ends the server and removes what it kept. A second call does nothing.
func (p *Postgres) Stop() error { return errors.Join(p.end(syscall.SIGQUIT), os.RemoveAll(p.dir)) }

// Pid is the id of the server's first process.
func (p *Postgres) Pid() int { return p.process.Pid() }

// Database makes a new, empty database, and returns its URL.
func (p *Postgres) Database(ctx context.Context) (url string, err error) {
	p.databases++
	name := "test" + strconv.Itoa(p.databases)
	return p.URL(name), p.Create(ctx, name)
}

// Create makes empty databases.
func (p *Postgres) Create(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := p.execute(ctx, "CREATE DATABASE "+name); err != nil {
			return err
		}
	}
	return nil
}

func (p *Postgres) execute(ctx context.Context, statement string) error {
	connection, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = connection.Exec(ctx, statement)
	return errors.Join(err, connection.Close(ctx))
}

// URL is where a program finds a database of this server.
func (p *Postgres) URL(database string) string {
	where := url.Values{"host": {p.dir}}
	if p.Port != "" {
		where.Set("port", p.Port)
	}
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: where.Encode()}).String()
}
