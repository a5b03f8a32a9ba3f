package pair

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL of one's own, reached by a socket in its folder.
type Postgres struct {
	dir, bin   string
	attributes *syscall.SysProcAttr
	process    *Process
}

const postgresRole = "handoff"

// StartPostgres starts a PostgreSQL in a new temporary folder, as a user without
// rights where this program has them all. The error is exec.ErrNotFound where
// there is none installed.
func StartPostgres(ctx context.Context) (_ *Postgres, err error) {
	p := &Postgres{}
	if p.bin, err = postgresPrograms(); err != nil {
		return nil, err
	}
	if p.attributes, err = postgresAttributes(); err != nil {
		return nil, err
	}
	if p.dir, err = os.MkdirTemp("", "handoff-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	if as := p.attributes.Credential; as != nil {
		if err := os.Chown(p.dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	initdb := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "--pgdata", p.data(), "--username", postgresRole,
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
	initdb.Dir, initdb.Env, initdb.SysProcAttr = p.dir, cleanEnvironment(), p.attributes
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, output)
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, p.create(ctx, "server1", "server2")
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// Start starts a PostgreSQL that Kill or Halt has ended, with what it had, and
// waits until it answers.
func (p *Postgres) Start(ctx context.Context) (err error) {
	p.process, _, err = launch("PostgreSQL", filepath.Join(p.dir, "postgres.log"), filepath.Join(p.bin, "postgres"), p.attributes,
		"-D", p.data(), "-k", p.dir, "-c", "listen_addresses=")
	if err != nil {
		return err
	}
	connection, err := p.connect(ctx)
	if err != nil {
		return err
	}
	return connection.Close(ctx)
}

// Kill ends the PostgreSQL as kill -9 does: when it returns, its last process has
// ended.
func (p *Postgres) Kill() error { return p.process.Kill() }

// Halt has the PostgreSQL end well, and at once: it waits for no client.
func (p *Postgres) Halt() error {
	_ = p.process.command.Process.Signal(syscall.SIGINT)
	return p.process.Stop()
}

// postgresPrograms is the folder of initdb and postgres: the newest of Debian's,
// or that of the PATH.
func postgresPrograms() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) > 0 {
		return filepath.Dir(slices.Max(found)), nil
	}
	program, err := exec.LookPath("postgres")
	if err != nil {
		return "", fmt.Errorf("install Debian's package postgresql: %w", err)
	}
	return filepath.Dir(program), nil
}

// postgresAttributes are those of a user other than root, as whom PostgreSQL
// refuses to run.
func postgresAttributes() (*syscall.SysProcAttr, error) {
	attributes := processAttributes()
	if os.Geteuid() != 0 {
		return attributes, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			return attributes, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

// connect waits until the server answers.
func (p *Postgres) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		connection, err := pgx.Connect(ctx, p.URL("postgres"))
		if err == nil {
			return connection, nil
		}
		select {
		case <-p.process.exited:
			return nil, fmt.Errorf("PostgreSQL stopped at once: %s", lastLine(p.process.Log))
		case <-ctx.Done():
			return nil, fmt.Errorf("PostgreSQL does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// create makes databases.
func (p *Postgres) create(ctx context.Context, databases ...string) error {
	connection, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	for _, name := range databases {
		if _, err := connection.Exec(ctx, "CREATE DATABASE "+name); err != nil {
			return err
		}
	}
	return nil
}

// URL is what a server's --database is given: of the database server1 or server2.
func (p *Postgres) URL(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.User(postgresRole), Path: "/" + database, RawQuery: url.Values{"host": {p.dir}}.Encode(),
	}).String()
}

// Pid is the process's id.
func (p *Postgres) Pid() int { return p.process.Pid() }

// Stop ends the PostgreSQL and removes what it kept.
func (p *Postgres) Stop() error {
	var failed error
	if p.process != nil {
		failed = p.Halt()
	}
	return errors.Join(failed, os.RemoveAll(p.dir))
}
