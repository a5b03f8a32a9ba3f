package sqlreplay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/handoff-auth/handoff/shared/replay"
)

const (
	checkEvery  = 2 * time.Second
	retryEvery  = 250 * time.Millisecond
	removeEvery = 10 * time.Second
	// margin is how much longer than twice the skew a mark stays.
	margin = time.Second
	// removeAtOnce is how many marks one statement removes.
	removeAtOnce = 1000
)

// ErrNoTable means that Create has not been called, or the table is gone.
var ErrNoTable = errors.New("there is no table of redemptions, as sqlreplay.Create makes it")

var errStartedOver = errors.New("the PostgreSQL is new, was emptied, failed over or restored, was set up to lose marks, or its clock was set back")

// keep is how long a mark stays after its token has expired, at least, and how late a
// redemption may be made.
func (s *Store) keep() time.Duration { return 2 * s.config.Skew }

// report is what a server says about itself, as far as it matters here.
type report struct {
	standby                                       bool
	readOnly, fsync, synchronous, pages, persists string
	now, start, system, lsn                       int64
	timeline                                      string
	kept                                          sql.NullString // the epoch's text
}

// inspect asks a server. What only a primary can tell is empty at a standby.
const inspect = `
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('fsync'),
	current_setting('synchronous_commit'), current_setting('full_page_writes'),
	(SELECT relpersistence::text FROM pg_class WHERE oid = '{table}'::regclass),
	` + clock + `, ` + startTime + `, (SELECT system_identifier FROM pg_control_system()),
	CASE WHEN pg_is_in_recovery() THEN 0 ELSE (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint END,
	CASE WHEN pg_is_in_recovery() THEN '' ELSE ` + timeline + ` END,
	(SELECT kept FROM {table} WHERE mark = ''::bytea)`

func (s *Store) inspect(ctx context.Context) (r report, err error) {
	err = s.config.DB.QueryRowContext(ctx, inTable(inspect, s.config.Table)).Scan(
		&r.standby, &r.readOnly, &r.fsync, &r.synchronous, &r.pages, &r.persists, &r.now, &r.start, &r.system, &r.lsn, &r.timeline, &r.kept)
	return r, err
}

// loses is why marks may be lost that were made before.
func (r *report) loses() (problems []string) {
	if r.fsync == "off" {
		problems = append(problems, "fsync is off: a crash loses redemptions")
	}
	if r.pages == "off" {
		problems = append(problems, "full_page_writes is off: a crash can lose redemptions")
	}
	if r.persists != "p" {
		problems = append(problems, "the table is unlogged: a crash empties it")
	}
	return problems
}

// unfit is why no redemption can be made now.
func (r *report) unfit(now time.Time, skew time.Duration) (problems []string) {
	if r.standby {
		problems = append(problems, "it is a standby: it takes no changes, and what it has may be behind its primary")
	} else if r.readOnly != "off" {
		problems = append(problems, "default_transaction_read_only is on: it takes no changes")
	}
	if r.synchronous == "off" {
		problems = append(problems, "synchronous_commit is off: a crash loses the last redemptions")
	}
	if apart := now.Sub(time.UnixMilli(r.now)).Abs(); apart > skew {
		problems = append(problems, fmt.Sprintf("its clock and this machine's are %s apart: more than the skew", apart.Round(time.Millisecond)))
	}
	return problems
}

// epoch is since when, and where, every mark has been kept. Its text stands in the
// table of the marks itself, so that who loses them loses it.
type epoch struct {
	began, removed int64 // removed: up to when marks may be gone
	start          int64 // of the server's run
	timeline       string
	system         int64
}

func (e epoch) String() string {
	return fmt.Sprintf("%d %d %d %s %d", e.began, e.removed, e.start, e.timeline, e.system)
}

func parseEpoch(text string) (e epoch, ok bool) {
	n, err := fmt.Sscanf(text, "%d %d %d %s %d", &e.began, &e.removed, &e.start, &e.timeline, &e.system)
	return e, n == 5 && err == nil && e.String() == text
}

// next is the epoch after a check: the one that was, or a new one where the server may
// not have all its marks.
func (r *report) next(text string, now time.Time, lost bool, skew time.Duration) (e epoch, over bool) {
	early, late := r.now, now.UnixMilli()
	if late < early {
		early, late = late, early
	}
	ended := early - (2*skew + margin).Milliseconds()
	was, ok := parseEpoch(text)
	over = !ok || lost || was.system != r.system || was.timeline != r.timeline || was.removed >= early
	e = epoch{was.began, max(was.removed, ended), r.start, r.timeline, r.system}
	if over {
		e.began, e.removed = max(was.began, late), ended
	}
	return e, over
}

// check asks the server, keeps the epoch up to date, and makes known what it finds.
// Only Open and watch call it.
func (s *Store) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(maxTimeout, s.config.Timeout))
	defer cancel()
	began, err := s.examine(ctx)
	was := s.status.Load()
	if err != nil {
		began = was.began
	}
	s.status.Store(&status{began, err})
	switch {
	case err != nil && was.err == nil && !was.began.IsZero():
		s.config.Observe(replay.Event{Kind: replay.Failed, Err: err})
	case err == nil && was.err != nil:
		s.config.Observe(replay.Event{Kind: replay.Resumed})
	}
	return err
}

func (s *Store) examine(ctx context.Context) (began time.Time, err error) {
	r, err := s.inspect(ctx)
	if err != nil {
		if codeOf(err) == undefinedTable {
			return began, fmt.Errorf("%w: %w", ErrNoTable, err)
		}
		return began, fmt.Errorf("asking the PostgreSQL: %w", err)
	}
	now := s.config.Now()
	loses, unfit := r.loses(), r.unfit(now, s.config.Skew)
	// A restored copy of the disk has the same system, and goes on from an older place.
	same := !r.standby && r.system == s.seen.system && r.timeline == s.seen.timeline
	if len(loses) > 0 || same && r.lsn < s.seen.lsn {
		s.lossy = true
	}
	if problems := append(loses, unfit...); len(problems) > 0 {
		return began, &UnfitError{problems}
	}
	e, over := r.next(r.kept.String, now, s.lossy, s.config.Skew)
	if was, _ := parseEpoch(r.kept.String); over || e.start != was.start || e.removed-was.removed > removeEvery.Milliseconds() {
		if e, over, err = s.advance(ctx, &r, now); err != nil {
			return began, fmt.Errorf("keeping the epoch: %w", err)
		}
		s.remove(e.removed)
	} else {
		e = was
	}
	s.lossy, s.seen = false, r
	if over {
		s.config.Observe(replay.Event{Kind: replay.StartedOver, Err: errStartedOver})
	}
	return time.UnixMilli(e.began), nil
}

// advance writes the next epoch, one store at a time. Its answer must be certain: a
// mark is only removed once the epoch says so on the disk.
func (s *Store) advance(ctx context.Context, r *report, now time.Time) (e epoch, over bool, err error) {
	tx, err := s.config.DB.BeginTx(ctx, nil)
	if err != nil {
		return e, false, err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, inTable(`INSERT INTO {table} VALUES (''::bytea, $1, '') ON CONFLICT DO NOTHING`, s.config.Table), int64(math.MaxInt64)); err != nil {
		return e, false, err
	}
	var text, start, timelineNow string
	err = tx.QueryRowContext(ctx, inTable(`SELECT kept, `+startTime+`::text, `+timeline+` FROM {table} WHERE mark = ''::bytea FOR UPDATE`, s.config.Table)).
		Scan(&text, &start, &timelineNow)
	if err != nil {
		return e, false, err
	}
	if start != fmt.Sprint(r.start) || timelineNow != r.timeline {
		return e, false, errEpoch // another server than the one that has reported
	}
	e, over = r.next(text, now, s.lossy, s.config.Skew)
	if _, err := tx.ExecContext(ctx, inTable(`UPDATE {table} SET kept = $1 WHERE mark = ''::bytea`, s.config.Table), e.String()); err != nil {
		return e, false, err
	}
	return e, over, tx.Commit()
}

// watch checks the server every so often, and when a redemption meets with doubt.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTimer(checkEvery)
	defer tick.Stop()
	checked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.doubts:
			if wait := retryEvery - time.Since(checked); wait > 0 {
				tick.Reset(wait)
				continue
			}
		}
		wait := checkEvery
		if s.check(ctx) != nil {
			wait = retryEvery
		}
		tick.Reset(wait)
		checked = time.Now()
	}
}

// look has the server checked now.
func (s *Store) look() {
	select {
	case s.doubts <- struct{}{}:
	default:
	}
}

// remove has the marks removed of tokens that expired up to a time.
func (s *Store) remove(upTo int64) {
	select {
	case s.expired <- upTo:
	default: // clean is at work, and will be told of a later time
	}
}

// clean removes marks, a bounded number at a time. Of several replicas, those that come
// later leave out what one is at.
func (s *Store) clean(ctx context.Context) {
	statement := inTable(`DELETE FROM {table} WHERE mark IN (
		SELECT mark FROM {table} WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED)`, s.config.Table)
	for {
		select {
		case <-ctx.Done():
			return
		case upTo := <-s.expired:
			for removed := int64(removeAtOnce); removed == removeAtOnce; {
				result, err := s.config.DB.ExecContext(ctx, statement, upTo, removeAtOnce)
				if err == nil {
					removed, err = result.RowsAffected()
				}
				if err != nil {
					if ctx.Err() == nil {
						s.config.Observe(replay.Event{Kind: replay.Overdue, Err: fmt.Errorf("removing marks: %w", err)})
					}
					break
				}
			}
		}
	}
}
