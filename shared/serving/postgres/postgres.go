// Package postgres connects the demo servers to PostgreSQL.
//
//	db, err := postgres.Open(ctx, u, "handoff-server2") // u: postgres://…
//	db.Limit(16)
//	tx, err := db.Write.BeginTx(ctx, nil)
//
// # Invariants
//
// A connection of Write that was taken from the pool can write, and its server keeps
// what it acknowledges: it is asked each time. One that no
// longer can, or no longer does, is closed, and so is a new one that is refused:
// none is left open at the server. Connections of Read are asked ten times a
// second.
//
// A server that is not on this machine is reached over TLS, by its name, or not at
// all.
//
// No error repeats a URL, which can have a password.
//
// # What it does not do
//
// It works with no pooler between (PgBouncer): one that gives each transaction
// another connection makes worthless what the last one has answered, and loses what
// a session has set. Such a server is refused, with that reason.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// DB is two pools of connections to one database. It is safe for concurrent use.
type DB struct {
	// Write makes changes, and Read makes none. They are apart, so that a reader
	// does not wait for those who wait for the disk.
	Write, Read *sql.DB
}

// Pool is what an operator sets of the pools. The tags are kong's.
type Pool struct {
	DatabaseConnections int `default:"16" placeholder:"N" help:"How many connections to a PostgreSQL this process has open at once, at least 2. The server must allow as many for each process that shares it."`
}

// Check returns what is wrong with the setting.
func (p Pool) Check() error {
	if p.DatabaseConnections < 2 {
		return &serving.SettingError{Setting: "database-connections", Err: errors.New("must be at least 2")}
	}
	return nil
}

// How long an idle connection stays open, and how long any does.
const (
	maxIdle = 5 * time.Minute
	maxLife = 30 * time.Minute
)

// Patience bounds what a caller waits for a database: it is well under any call's
// deadline.
const Patience = 3 * time.Second

// usual is how many connections a program has unless it says otherwise. They are
// opened as they are needed.
const usual = 16

// Open connects to a database, and returns its pools. program is what the server is
// told of who connects.
func Open(ctx context.Context, u *url.URL, program string) (*DB, error) {
	config, err := parse(u, program)
	if err != nil {
		return nil, err
	}
	db := &DB{Write: sql.OpenDB(newConnector(config, 0)), Read: sql.OpenDB(newConnector(config, recheck))}
	for _, pool := range []*sql.DB{db.Read, db.Write} {
		pool.SetConnMaxIdleTime(maxIdle)
		pool.SetConnMaxLifetime(maxLife)
	}
	db.Limit(usual)
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if err := db.Write.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// MigrationLock has the processes of one database migrate it in turn, each to the end
// of its transaction. The number is any, the same in all of them.
const MigrationLock = `SELECT pg_advisory_xact_lock(7309453115821113)`

// Limit sets how many connections may be open at once, three of four of them for
// changes. Fewer than 2 count as 2.
func (db *DB) Limit(connections int) {
	reading := max(1, connections/4)
	for pool, size := range map[*sql.DB]int{db.Read: reading, db.Write: max(1, connections-reading)} {
		pool.SetMaxOpenConns(size)
		pool.SetMaxIdleConns(size)
	}
}

// Close waits for running calls and closes the pools.
func (db *DB) Close() error { return errors.Join(db.Read.Close(), db.Write.Close()) }

// Ready returns nil if the database takes the changes that the program's work needs:
// it asks for the rights that a change to each of the tables needs, waits for what
// that would wait for, and changes nothing. It does not wait for a connection of
// Write: that all of them are busy is no reason to send the calls elsewhere.
func (db *DB) Ready(ctx context.Context, tables ...string) error {
	tx, err := db.Read.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	_, err = tx.ExecContext(ctx, `LOCK TABLE `+strings.Join(tables, `, `)+` IN ROW EXCLUSIVE MODE`)
	return err
}
