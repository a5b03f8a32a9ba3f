package sqlreplay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/internal/remote"
)

// The table has the marks and, in the rows with a text, the epoch (whose mark is empty)
// and the numbers of trust lists: in one table, so that who empties it empties all.
// Times are Unix milliseconds.
const (
	schemaTable = `CREATE TABLE IF NOT EXISTS {table} (mark bytea PRIMARY KEY, expires bigint NOT NULL, kept text)`
	schemaIndex = `CREATE INDEX IF NOT EXISTS {name}_expires ON {table} (expires)`
)

// redeem marks a token ($1), which expires ($2) and was issued ($3, less the skew),
// unless it is marked. It does so only in the epoch's own server, in its own run and
// on its own timeline, which a promoted standby has left; and only if that keeps what
// it commits. It tells when the epoch began, up to when marks were removed, and when
// it made the mark. All is null in another server.
const redeem = `
WITH epoch AS (
	SELECT split_part(kept, ' ', 1)::bigint AS began, split_part(kept, ' ', 2)::bigint AS removed
	FROM {table}
	WHERE mark = ''::bytea
		AND split_part(kept, ' ', 3) = ` + startTime + `::text
		AND split_part(kept, ' ', 4) = ` + timeline + `
		AND current_setting('fsync') <> 'off'
		AND current_setting('synchronous_commit') <> 'off'
		AND current_setting('full_page_writes') <> 'off'
), made AS (
	INSERT INTO {table} (mark, expires)
	SELECT $1::bytea, $2::bigint FROM epoch WHERE $3::bigint > began AND $2::bigint > removed
	ON CONFLICT DO NOTHING
	RETURNING ` + clock + ` AS at
)
SELECT (SELECT began FROM epoch), (SELECT removed FROM epoch), (SELECT at FROM made)`

// What a server says of itself.
const (
	clock     = `(extract(epoch FROM clock_timestamp()) * 1000)::bigint`
	startTime = `(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint`
	timeline  = `substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)`
)

var (
	errTimePassed = errors.New("the token's time has passed, and its mark may have been removed")
	errEpoch      = errors.New("this PostgreSQL is not the one that has kept the marks, or does not keep what it commits")
)

// Redeem implements handoff.Store. Every error but handoff.ErrReplayed and
// handoff.ErrIssuedBeforeStart leaves open whether the token is spent.
func (s *Store) Redeem(ctx context.Context, r handoff.Redemption) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	if err := s.takes(ctx, r); err != nil {
		return err
	}
	// A connection of its own: sql.DB runs a statement again whose connection broke,
	// and the second run would find the first one's mark.
	conn, err := s.config.DB.Conn(ctx)
	if err != nil {
		s.look()
		return fmt.Errorf("no connection for the redemption: %w", err)
	}
	defer conn.Close()
	return s.spend(ctx, conn, r)
}

// takes refuses what need not be asked.
func (s *Store) takes(ctx context.Context, r handoff.Redemption) error {
	if err := s.bounds().Takes(ctx, r); err != nil {
		return err
	}
	if err := s.status.Load().err; err != nil {
		return fmt.Errorf("the PostgreSQL cannot be used: %w", err)
	}
	return nil
}

// asker is a connection, or a transaction.
type asker interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// spend makes the mark. Scan has read all of the answer when it returns: also that
// the server has committed, where the statement is a transaction of its own.
func (s *Store) spend(ctx context.Context, in asker, r handoff.Redemption) error {
	mark, expires, issued := remote.Mark(r.Issuer, r.ID), r.Expires.UnixMilli(), r.IssuedAt.Add(-s.config.Skew).UnixMilli()
	var began, removed, at sql.NullInt64
	if err := in.QueryRowContext(ctx, s.statement, mark[:], expires, issued).Scan(&began, &removed, &at); err != nil {
		s.look()
		return fmt.Errorf("redeeming: %w", err)
	}
	switch {
	case !began.Valid:
		s.look()
		return errEpoch
	case at.Valid && at.Int64 > expires+s.keep().Milliseconds():
		return errTimePassed // an older mark may have been removed while the statement waited
	case at.Valid:
		return nil
	case issued <= began.Int64:
		return handoff.ErrIssuedBeforeStart
	case expires <= removed.Int64:
		return errTimePassed
	}
	return handoff.ErrReplayed
}
