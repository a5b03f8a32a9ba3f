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
	dir     string
	process *Process
}

const postgresRole = "handoff"

// StartPostgres starts a PostgreSQL in a new temporary folder, as a user without
// rights where this program has them all. The error is exec.ErrNotFound where
// there is none installed.
func StartPostgres(ctx context.Context) (_ *Postgres, err error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	attributes, err := postgresAttributes()
	if err != nil {
		return nil, err
	}
	p := &Postgres{}
	if p.dir, err = os.MkdirTemp("", "handoff-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	if as := attributes.Credential; as != nil {
		if err := os.Chown(p.dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(p.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", postgresRole,
		"--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions")
	initdb.Dir, initdb.Env, initdb.SysProcAttr = p.dir, cleanEnvironment(), attributes
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, output)
	}
	p.process, _, err = launch("PostgreSQL", filepath.Join(p.dir, "postgres.log"), filepath.Join(bin, "postgres"), attributes,
		"-D", data, "-k", p.dir, "-c", "listen_addresses=")
	if err != nil {
		return nil, err
	}
	return p, p.create(ctx, "server1", "server2")
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

// create makes databases as soon as the server answers.
func (p *Postgres) create(ctx context.Context, databases ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		connection, err := pgx.Connect(ctx, p.URL("postgres"))
		if err == nil {
			defer connection.Close(ctx)
			for _, name := range databases {
				if _, err := connection.Exec(ctx, "CREATE DATABASE "+name); err != nil {
					return err
				}
			}
			return nil
		}
		select {
		case <-p.process.exited:
			return fmt.Errorf("PostgreSQL stopped at once: %s", lastLine(p.process.Log))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
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
		_ = p.process.command.Process.Signal(syscall.SIGINT) // without waiting for its clients
		failed = p.process.Stop()
	}
	return errors.Join(failed, os.RemoveAll(p.dir))
}
