package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// StartPgBouncer starts a PgBouncer in front of the server of a database, and returns
// the URL of the database through it, and what stops it. settings are lines of its
// configuration, such as "pool_mode=transaction". errors.Is finds exec.ErrNotFound in
// the error where none is installed.
func StartPgBouncer(ctx context.Context, database string, settings ...string) (through string, stop func() error, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		return "", nil, missing("PgBouncer", "pgbouncer")
	}
	as, err := findOwner()
	if err != nil {
		return "", nil, err
	}
	u, err := url.Parse(database)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "pgbouncer")
	if err != nil {
		return "", nil, err
	}
	var running *Process
	end := func() error { return errors.Join(running.End(syscall.SIGKILL), os.RemoveAll(dir)) }
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf("[databases]\n* = host=%s user=%s\n[pgbouncer]\nunix_socket_dir=%s\nlisten_port=6432\nauth_type=any\n%s\n",
		u.Query().Get("host"), superuser, dir, strings.Join(settings, "\n"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	if err := as.own(dir, config); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, config)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = dir, environment(), as.attributes(syscall.SIGKILL)
	if running, err = Launch(cmd, filepath.Join(dir, "log")); err != nil {
		return "", nil, err
	}
	socket := filepath.Join(dir, ".s.PGSQL.6432")
	if err := running.answers("PgBouncer", func() bool { return connects(ctx, socket) }); err != nil {
		return "", nil, err
	}
	u.RawQuery = url.Values{"host": {dir}, "port": {"6432"}}.Encode()
	return u.String(), end, nil
}

func connects(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}
