package database

import (
	"context"
	"database/sql"
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// Connections of one process: those that change, and those that read. PostgreSQL
// has 100 for all, unless told.
const (
	changing = 16
	reading  = 8
)

func openPostgres(ctx context.Context, location string) (*DB, error) {
	config, err := postgresConfig(location)
	if err != nil {
		return nil, err
	}
	write, read := postgresPool(config, changing), postgresPool(config, reading)
	opening, cancel := context.WithTimeout(ctx, 10*patience)
	defer cancel()
	// Any number, the same in all processes.
	err = migrate(opening, write, `SELECT pg_advisory_xact_lock(7309453115821113)`)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	live, err := read.PrepareContext(opening, selectLive)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	return &DB{
		read: read, live: live, writer: committer{write}, changed: make(chan struct{}, 1), opened: time.Now(),
		dialect: dialect{
			hold: ` FOR UPDATE`, holdFree: ` FOR UPDATE SKIP LOCKED`,
			clock:       `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`,
			snapshot:    &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
			isDuplicate: isUniqueViolation,
		},
	}, nil
}

// postgresConfig reads a URL. Its errors repeat no part of it.
func postgresConfig(location string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(location)
	if err != nil {
		return nil, errors.New("this is not the URL of a PostgreSQL database: postgres://USER:PASSWORD@HOST:PORT/NAME?sslmode=verify-full")
	}
	u, err := url.Parse(location)
	verified := err == nil && u.Query().Get("sslmode") == "verify-full"
	hosts := []string{config.Host}
	for _, other := range config.Fallbacks {
		hosts = append(hosts, other.Host)
	}
	for _, host := range hosts {
		if !verified && !isLocal(host) {
			return nil, errors.New("PostgreSQL is not on this machine: its URL must say sslmode=verify-full")
		}
	}
	// A process that stops in the middle of a change does not stop the others.
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "5s"
	config.RuntimeParams["application_name"] = "handoff-server1"
	return config, nil
}

// isLocal reports whether a host is a socket's folder or a loopback address.
func isLocal(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && address.IsLoopback()
}

func postgresPool(config *pgx.ConnConfig, size int) *sql.DB {
	pool := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(refuseForgetful))
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	pool.SetConnMaxLifetime(30 * time.Minute) // so that a setting that changes is seen
	return pool
}

// refuseForgetful refuses a server on which a change that was acknowledged can be
// undone.
func refuseForgetful(ctx context.Context, conn *pgx.Conn) error {
	const settings = `SELECT current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery()`
	var fsync, commit string
	var standby bool
	if err := conn.QueryRow(ctx, settings).Scan(&fsync, &commit, &standby); err != nil {
		return err
	}
	switch {
	case standby:
		return errors.New("this PostgreSQL is a standby: it takes no changes")
	case fsync != "on":
		return errors.New("this PostgreSQL has fsync off: it can lose what it has acknowledged")
	case commit == "off":
		return errors.New("this PostgreSQL has synchronous_commit off: it can lose what it has acknowledged")
	}
	return nil
}

func isUniqueViolation(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23505"
}

// committer is PostgreSQL's changer: each change is a transaction of its own.
type committer struct{ pool *sql.DB }

func (c committer) change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tx, err := c.pool.BeginTx(ctx, nil)
	if err != nil {
		return wrap("beginning", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	if err := do(ctx, tx); err != nil {
		return err
	}
	return wrap("committing", tx.Commit())
}

func (c committer) close() error { return c.pool.Close() }
