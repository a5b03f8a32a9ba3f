package issuing

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// numbers are i from 0 to $1 * 1,000 - 1, to the SELECT that follows, on both databases.
const numbers = `WITH RECURSIVE few(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM few WHERE i < 999),
	many(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM many WHERE i < $1 - 1),
	k(i) AS (SELECT 1000 * CAST(many.i AS BIGINT) + few.i FROM many CROSS JOIN few)`

// idOf is SQL that makes an id of a number below 64^4: different ones of different
// numbers, in the order of the numbers, and spread over all ids where the numbers are
// spread. length is that of the id.
func idOf(number string, length int) string {
	id := ""
	for _, shift := range []int{18, 12, 6, 0} {
		id += fmt.Sprintf(`substr('-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz', CAST(1 + ((%s >> %d) & 63) AS INTEGER), 1) || `, number, shift)
	}
	return id + fmt.Sprintf("'%0*d'", length-4, 0)
}

// audited adds n rows to the audit, of handoffs of the last 80 days.
func audited(ctx context.Context, db *sql.DB, n int, say func(string, ...any)) error {
	const most = 1_000_000 // a statement: so nobody waits in silence
	began := time.Now().Add(-80 * 24 * time.Hour).UnixMilli()
	for from := 0; from < n; from += most {
		say("%s of %s rows", measure.Grouped(float64(from)), measure.Grouped(float64(n)))
		statement := fmt.Sprintf(numbers+` INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at)
			SELECT $2 + (i + %d) * %d, 'handoff_issued', $3, $4, %s, $5, $6, $2 + (i + %d) * %d + 60000 FROM k`,
			from, 80*24*time.Hour.Milliseconds()/int64(n), idOf(fmt.Sprintf("((i + %d) * %d)", from, 64*64*64*64/n), 22),
			from, 80*24*time.Hour.Milliseconds()/int64(n))
		_, err := db.ExecContext(ctx, statement, min(most, n-from)/1000, began, handoff.NewID(), handoff.NewID(), pair.Audience, "/handoff.server2.v1.InvoiceService/PayInvoice")
		if err != nil {
			return fmt.Errorf("adding to the audit: %w", err)
		}
	}
	return nil
}

// expired adds n sessions that were over two days ago, of all users in turns. As in life,
// they end in the order in which they began, and their ids are random.
func expired(ctx context.Context, db *sql.DB, n int) error {
	statement := fmt.Sprintf(numbers+`, owner AS (SELECT id, ROW_NUMBER() OVER (ORDER BY id) - 1 AS k FROM users)
		INSERT INTO sessions (id_sha256, handoff_id, user_id, created_at, idle_expires_at, expires_at)
		SELECT %s, %s, owner.id, $2, $2 + i * 1000, $2 + i * 1000
		FROM k JOIN owner ON owner.k = i * 7919 %% (SELECT COUNT(*) FROM users)`, idOf("(i * 1299709 % 16777216)", 43), idOf("(i * 104729 % 16777216)", 22))
	over := time.Now().Add(-time.Duration(n)*time.Second - 48*time.Hour).UnixMilli()
	if _, err := db.ExecContext(ctx, statement, n/1000, over); err != nil {
		return fmt.Errorf("adding sessions: %w", err)
	}
	return nil
}

// whileStopped adds rows to the database while SERVER1 is stopped, and starts it again.
func (s *shop) whileStopped(ctx context.Context, add func(*sql.DB) error) error {
	if err := s.Server1.Stop(); err != nil {
		return err
	}
	db, err := s.open("journal_mode(OFF)", "synchronous(OFF)", "cache_size(-300000)") // what is lost here, is made again
	if err != nil {
		return err
	}
	defer db.Close()
	if err := add(db); err != nil {
		return err
	}
	if s.postgres != nil { // as it does by itself sooner or later
		if _, err := db.ExecContext(ctx, `VACUUM ANALYZE`); err != nil {
			return err
		}
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := s.StartServer1(ctx); err != nil {
		return err
	}
	return s.dial(ctx)
}
