package database

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handoff-auth/handoff/shared/serving/migration"
	"github.com/handoff-auth/handoff/shared/serving/postgres"
)

func openPostgres(ctx context.Context, u *url.URL) (*DB, error) {
	pools, err := postgres.Open(ctx, u, "handoff-server1")
	if err != nil {
		return nil, err
	}
	writer := &committer{DB: pools, ordinary: ordinary(pools)}
	opening, cancel := context.WithTimeout(ctx, 10*patience)
	defer cancel()
	err = migration.Apply(opening, migration.Config{
		Files: migrations, Read: pools.Read, Change: writer.transact,
		Lock: postgres.MigrationLock, InOrder: `BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY`,
	})
	if err != nil {
		return nil, errors.Join(err, pools.Close())
	}
	db := &DB{
		Now: time.Now, read: pools.Read, writer: writer, changed: make(chan struct{}, 1),
		dialect: dialect{
			hold: ` FOR UPDATE`, holdInOrder: ` ORDER BY id COLLATE "C" FOR UPDATE`, holdFree: ` FOR UPDATE SKIP LOCKED`,
			clock:       `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`,
			snapshot:    &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
			isDuplicate: isUniqueViolation,
		},
	}
	db.live = reader("reading sessions", db.asked(selectAllLive).sessions)
	db.client = reader("reading clients", db.asked(selectAllClients).clients)
	db.together = &group[issued, bool]{what: "recording handoffs", ask: db.recordTogether, asking: make(chan struct{}, 1)}
	return db, nil
}

// What is asked for many is found as it is for one: by its key. An OFFSET 0 keeps PostgreSQL
// from making a join of the LATERAL subquery, which it might answer by reading the whole
// table: it would before it has any statistics.
const (
	selectAllLive = `SELECT asked.place, ` + sessionColumns + ` FROM unnest($1::text[]) WITH ORDINALITY AS asked (id, place)
		CROSS JOIN LATERAL (SELECT * FROM sessions WHERE id_sha256 = asked.id OFFSET 0) AS sessions
		CROSS JOIN LATERAL (SELECT * FROM users WHERE id = sessions.user_id OFFSET 0) AS users
		WHERE users.disabled_at IS NULL`
	selectAllClients = `SELECT asked.place, client_keys.jwk, ` + userColumns + ` FROM unnest($1::text[]) WITH ORDINALITY AS asked (kid, place)
		CROSS JOIN LATERAL (SELECT * FROM client_keys WHERE kid = asked.kid OFFSET 0) AS client_keys
		CROSS JOIN LATERAL (SELECT * FROM users WHERE id = client_keys.client_id OFFSET 0) AS users
		WHERE users.disabled_at IS NULL`
)

func (db *DB) asked(statement string) many {
	return func(ctx context.Context, ids []string) (*sql.Rows, error) {
		return db.read.QueryContext(ctx, statement, ids)
	}
}

func isUniqueViolation(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23505"
}

// committer is PostgreSQL's changer: each change is a transaction of its own.
type committer struct {
	*postgres.DB
	ordinary chan struct{} // held by the changes that do not go first
}

// kept are the connections that only changes which go first can have.
const kept = 2

func ordinary(pools *postgres.DB) chan struct{} {
	return make(chan struct{}, max(1, pools.Write.Stats().MaxOpenConnections-kept))
}

func (c *committer) ready(ctx context.Context) error {
	return c.Ready(ctx, neededTables...)
}

func (c *committer) limit(connections int) {
	c.Limit(connections)
	c.ordinary = ordinary(c.DB)
}

func (c *committer) Change(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case c.ordinary <- struct{}{}:
		defer func() { <-c.ordinary }()
	case <-ctx.Done():
		return wrap("waiting to write", ctx.Err())
	}
	return c.settle(ctx, do)
}

func (c *committer) ChangeOrNothing(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	return c.Change(ctx, do)
}

func (c *committer) ChangeFirst(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.settle(ctx, do)
}

// deadlockDetected is the SQLSTATE of a change that the server has undone, as it and
// others waited for each other.
const deadlockDetected = "40P01"

// settle is transact, again where changes have waited for each other: whichever the
// server ends of them is undone as a whole. They hold rows in one order, so that this is
// for what nobody has thought of.
func (c *committer) settle(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	for {
		err := c.transact(ctx, do)
		var answer *pgconn.PgError
		if !errors.As(err, &answer) || answer.Code != deadlockDetected || ctx.Err() != nil {
			return err
		}
	}
}

func (c *committer) transact(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	tx, err := c.Write.BeginTx(ctx, nil)
	if err != nil {
		return wrap("beginning", err)
	}
	defer tx.Rollback() // does nothing once it is committed
	if err := do(ctx, tx); err != nil {
		return err
	}
	return wrap("committing", tx.Commit())
}
