package database

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/handoff-auth/handoff/shared/trust"
)

// MaxRevoked is how many handoffs that can still be alive one user can have taken
// back one by one: every audience reads each. Signing out, or a cut-off, takes back
// all by one entry.
const MaxRevoked = 100

// RevokeHandoff takes back one handoff, by its id (jti), for its user. It returns
// ErrNotFound if the user was never issued it, and ErrTooMany after MaxRevoked. An
// empty userID stands for an operator, who can take back any. To take back one
// twice, or one that has expired, changes nothing.
func (db *DB) RevokeHandoff(ctx context.Context, userID, handoffID string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		const find = `SELECT user_id, COALESCE(session, ''), expires_at FROM audit WHERE handoff_id = $1 AND ` + isIssued
		var (
			e       = event{kind: eventHandoffRevoked, at: now, handoff: handoffID}
			expires int64
		)
		err := tx.QueryRowContext(ctx, find, handoffID).Scan(&e.user, &e.session, &expires)
		if err != nil {
			return wrap("reading a handoff", err)
		}
		if userID != "" && userID != e.user {
			return ErrNotFound
		}
		if _, err := db.lockUser(ctx, tx, "id", e.user); err != nil {
			return err
		}
		terms, err := readTerms(ctx, tx, now)
		if err != nil {
			return err
		}
		entry, err := terms.Token(handoffID, fromMillis(expires))
		if err != nil {
			return err
		}
		if added, err := takeBack(ctx, tx, e.user, entry); err != nil || !added {
			return err
		}
		if userID != "" {
			if tooMany, err := tooManyRevoked(ctx, tx, e.user, trust.KindToken, now); err != nil || tooMany {
				return cmp.Or(err, ErrTooMany)
			}
		}
		return record(ctx, tx, e)
	})
}

// tooManyRevoked reports whether more than MaxRevoked handoffs or sessions of a user that
// is held are listed.
func tooManyRevoked(ctx context.Context, tx *transaction, userID string, kind trust.Kind, now time.Time) (bool, error) {
	const live = `SELECT COUNT(*) FROM revocations WHERE user_id = $1 AND kind = $2 AND ends_at > $3`
	var n int
	err := tx.QueryRowContext(ctx, live, userID, string(kind), toMillis(now)).Scan(&n)
	return n > MaxRevoked, wrap("counting revocations", err)
}

// longAgo is how long ago everything was issued that can be alive: no visit lives for
// half as long.
const longAgo = 2 * time.Hour

// RevokeSession ends a session, or withdraws a grant, by the id that its handoffs carry
// (sid), and takes them back. A grant is found by an id that its handoffs carried before,
// too. It returns ErrNotFound if there is neither such a session or grant nor a handoff
// of it that can still be alive.
func (db *DB) RevokeSession(ctx context.Context, handoffID string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		userID, grantID, err := ownerOf(ctx, tx, handoffID, now)
		if err != nil {
			return err
		}
		u, err := db.lockUser(ctx, tx, "id", userID)
		if err != nil {
			return err
		}
		if grantID != "" { // before anything is listed: a grant is held first
			if err := withdraw(ctx, tx, u, grantID, now); err != nil && !errors.Is(err, ErrNoGrant) { // it may be gone
				return err
			}
		}
		if err := endSession(ctx, tx, u, handoffID, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventSessionRevoked, at: now, user: u.id, session: handoffID, grant: grantID})
	})
}

// ownerOf finds whose session or grant it is or, if that has ended, was. grantID is empty
// of a session.
func ownerOf(ctx context.Context, tx *transaction, handoffID string, now time.Time) (userID, grantID string, err error) {
	const (
		open    = `SELECT user_id, '' FROM sessions WHERE handoff_id = $1`
		granted = `SELECT user_id, id FROM grants WHERE handoff_id = $1`
		ended   = `SELECT user_id, COALESCE(grant_id, '') FROM audit WHERE session = $1 AND occurred_at > $2 AND ` + isIssued + ` LIMIT 1`
	)
	for _, look := range []struct {
		query string
		args  []any
	}{{open, []any{handoffID}}, {granted, []any{handoffID}}, {ended, []any{handoffID, toMillis(now.Add(-longAgo))}}} {
		err = tx.QueryRowContext(ctx, look.query, look.args...).Scan(&userID, &grantID)
		if !errors.Is(err, sql.ErrNoRows) {
			break
		}
	}
	return userID, grantID, wrap("reading a session", err)
}

// CutOffUser takes back all handoffs that a user, or a client, has been issued, a client
// those for others too, and leaves the sessions and grants. It returns ErrNotFound if there is no user with the id. On SQLite, by a
// clock that is ahead, the user gets no handoff until the time has come that it said.
func (db *DB) CutOffUser(ctx context.Context, userID string, now time.Time) error {
	err := db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		u, err := db.lockUser(ctx, tx, "id", userID)
		if err != nil {
			return err
		}
		if err := cutOff(ctx, tx, u, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventUserCutOff, at: now, user: u.id})
	})
	if err != nil {
		return err
	}
	return db.takeBackGrants(ctx, userID, now)
}

// changeList makes a change of what the trust list states, and signals it once it
// is on disk.
func (db *DB) changeList(ctx context.Context, do func(context.Context, *transaction) error) error {
	err := db.changeFirst(ctx, do)
	if err == nil {
		db.tell()
	}
	return err
}

// takeBackSession takes back the handoffs of a session, or a grant, whose user is held.
// The last of them ends at ends.
func takeBackSession(ctx context.Context, tx *transaction, u standing, handoffID string, ends, now time.Time) error {
	terms, err := readTerms(ctx, tx, now)
	if errors.Is(err, ErrNoIssuer) {
		return nil // and no handoffs
	}
	if err != nil {
		return err
	}
	entry, err := terms.Session(handoffID, now)
	if err != nil {
		return err
	}
	added, err := takeBackUntil(ctx, tx, u, entry, ends, terms)
	if err != nil || !added {
		return err
	}
	// Signing out is cheap, and the list is everybody's: one cut-off stands for many
	// sessions, and takes back no less.
	if tooMany, err := tooManyRevoked(ctx, tx, u.id, trust.KindSession, now); err != nil || !tooMany {
		return err
	}
	return cutOff(ctx, tx, u, now)
}

// takeBackUntil lists an entry of a user that is held until the last handoff that it
// touches is dead, which ends at ends. It is the recorded end that counts, not this clock:
// by a wrong one the entry would be left out, or leave too early, and nobody would
// notice.
func takeBackUntil(ctx context.Context, tx *transaction, u standing, e trust.Entry, ends time.Time, terms trust.Terms) (added bool, err error) {
	if ends.IsZero() {
		return false, nil // there never was one
	}
	e.Until = ends.Add(terms.Skew)
	return takeBack(ctx, tx, u.id, e)
}

// cutOff takes back all handoffs of a user that is held, and has RecordHandoff
// refuse those that are being signed.
func cutOff(ctx context.Context, tx *transaction, u standing, now time.Time) error {
	terms, err := readTerms(ctx, tx, now)
	if err != nil && !errors.Is(err, ErrNoIssuer) {
		return err
	}
	latest := now
	if u.latestIssue.After(latest) {
		latest = u.latestIssue
	}
	const later = `UPDATE users SET cut_off_at = $1 WHERE id = $2 AND cut_off_at < $1`
	if _, err := tx.ExecContext(ctx, later, toMillis(latest.Truncate(time.Second)), u.id); err != nil {
		return wrap("cutting a user off", err)
	}
	if err != nil {
		return nil // there are no handoffs yet
	}
	entry, err := terms.Subject(u.id, latest)
	if err != nil {
		return err
	}
	if _, err = takeBackUntil(ctx, tx, u, entry, u.handoffsExpire, terms); err != nil {
		return err
	}
	// Each handoff that these take back has an iat up to the cut-off.
	const covered = `DELETE FROM revocations WHERE user_id = $1 AND kind <> $2`
	_, err = tx.ExecContext(ctx, covered, u.id, string(trust.KindSubject))
	return wrap("cutting a user off", err)
}

// onRelisted is what becomes of an entry that is listed already: it reaches as far, and
// stays as long, as either says.
const onRelisted = `
	ON CONFLICT (kind, id) DO UPDATE SET
		cut_off_at = CASE WHEN excluded.cut_off_at > revocations.cut_off_at THEN excluded.cut_off_at ELSE revocations.cut_off_at END,
		ends_at    = CASE WHEN excluded.ends_at    > revocations.ends_at    THEN excluded.ends_at    ELSE revocations.ends_at    END
	WHERE excluded.cut_off_at > revocations.cut_off_at OR excluded.ends_at > revocations.ends_at`

// takeBack lists an entry. Its readers leave out what is over by their own
// clock. added is false where the entry changes nothing.
func takeBack(ctx context.Context, tx *transaction, userID string, e trust.Entry) (added bool, err error) {
	const upsert = `INSERT INTO revocations (kind, id, user_id, cut_off_at, ends_at) VALUES ($1, $2, $3, $4, $5)` + onRelisted
	n, err := affected(tx.ExecContext(ctx, upsert, string(e.Kind), e.ID, userID, toMillis(e.Cutoff), toMillis(e.Until)))
	if err != nil || n == 0 {
		return false, wrap("taking back", err)
	}
	tx.listed = true
	return true, nil
}

// noteChange makes the change show in Changes. Its steps are random: a database that
// has lost a change, as a standby can that becomes the primary, comes to another sum by
// the next.
func noteChange(ctx context.Context, tx *transaction) error {
	const shards, step = 8, 1 << 30 // room for 17 billion changes
	_, err := tx.ExecContext(ctx, `UPDATE changes SET n = n + $1 WHERE shard = $2`, 1+rand.Int64N(step), rand.IntN(shards))
	return wrap("noting a change", err)
}

// Changes returns a number that is another after each change of what the trust
// list states, whichever process made it.
func (db *DB) Changes(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := db.checkClock(ctx, db.read); err != nil {
		return 0, err
	}
	err = db.read.QueryRowContext(ctx, `SELECT CAST(SUM(n) AS BIGINT) FROM changes`).Scan(&n)
	return n, wrap("looking for changes", err)
}
