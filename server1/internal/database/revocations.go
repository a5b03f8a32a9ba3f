package database

import (
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
	return db.changeList(ctx, func(ctx context.Context, tx *sql.Tx) error {
		const find = `SELECT user_id, session, expires_at FROM audit WHERE handoff_id = $1 AND event = $2`
		var (
			e       = event{kind: eventHandoffRevoked, at: now, handoff: handoffID}
			expires int64
		)
		err := tx.QueryRowContext(ctx, find, handoffID, eventHandoffIssued).Scan(&e.user, &e.session, &expires)
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
			if err := boundRevoked(ctx, tx, e.user, now); err != nil {
				return err
			}
		}
		return record(ctx, tx, e)
	})
}

// boundRevoked refuses one revocation too many of a user that is held.
func boundRevoked(ctx context.Context, tx *sql.Tx, userID string, now time.Time) error {
	const live = `SELECT COUNT(*) FROM revocations WHERE user_id = $1 AND kind = $2 AND ends_at > $3`
	var n int
	if err := tx.QueryRowContext(ctx, live, userID, string(trust.KindToken), toMillis(now)).Scan(&n); err != nil {
		return wrap("counting revocations", err)
	}
	if n > MaxRevoked {
		return ErrTooMany
	}
	return nil
}

// RevokeSession ends a session, by the id that its handoffs carry (sid), and takes
// them back. It returns ErrNotFound if there is neither such a session nor a
// handoff of it that can still be alive.
func (db *DB) RevokeSession(ctx context.Context, handoffID string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *sql.Tx) error {
		userID, err := userOfSession(ctx, tx, handoffID, now)
		if err != nil {
			return err
		}
		u, err := db.lockUser(ctx, tx, "id", userID)
		if err != nil {
			return err
		}
		if err := endSession(ctx, tx, u, handoffID, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventSessionRevoked, at: now, user: u.id, session: handoffID})
	})
}

// userOfSession finds whose session it is or, if that has ended, was.
func userOfSession(ctx context.Context, tx *sql.Tx, handoffID string, now time.Time) (userID string, err error) {
	const (
		open  = `SELECT user_id FROM sessions WHERE handoff_id = $1`
		ended = `SELECT user_id FROM audit WHERE occurred_at > $1 AND session = $2 AND event = $3 LIMIT 1`
	)
	err = tx.QueryRowContext(ctx, open, handoffID).Scan(&userID)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRowContext(ctx, ended, toMillis(now.Add(-longAgo)), handoffID, eventHandoffIssued).Scan(&userID)
	}
	return userID, wrap("reading a session", err)
}

// CutOffUser takes back all handoffs that a user has been issued, and leaves the
// sessions. It returns ErrNotFound if there is no user with the id. On SQLite, by a
// clock that is ahead, the user gets no handoff until the time has come that it said.
func (db *DB) CutOffUser(ctx context.Context, userID string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, err := db.lockUser(ctx, tx, "id", userID)
		if err != nil {
			return err
		}
		if err := cutOff(ctx, tx, u, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventUserCutOff, at: now, user: u.id})
	})
}

// changeList makes a change of what the trust list states, and signals it once it
// is on disk.
func (db *DB) changeList(ctx context.Context, do func(context.Context, *sql.Tx) error) error {
	err := db.change(ctx, do)
	if err == nil {
		db.tell()
	}
	return err
}

// takeBackSession takes back the handoffs of a session whose user is held.
func takeBackSession(ctx context.Context, tx *sql.Tx, u standing, handoffID string, now time.Time) error {
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
	added, err := takeBackUser(ctx, tx, u, entry, terms)
	if err != nil || !added {
		return err
	}
	// Signing out is cheap, and the list is everybody's: one cut-off stands for many
	// sessions, and takes back no less.
	const live = `SELECT COUNT(*) FROM revocations WHERE user_id = $1 AND kind = $2 AND ends_at > $3`
	var n int
	if err := tx.QueryRowContext(ctx, live, u.id, string(trust.KindSession), toMillis(now)).Scan(&n); err != nil {
		return wrap("counting revocations", err)
	}
	if n > MaxRevoked {
		return cutOff(ctx, tx, u, now)
	}
	return nil
}

// takeBackUser lists an entry of a user that is held until the last of the user's
// handoffs is dead. Their recorded ends count, not this clock: by a wrong one the
// entry would be left out, or leave too early, and nobody would notice.
func takeBackUser(ctx context.Context, tx *sql.Tx, u standing, e trust.Entry, terms trust.Terms) (added bool, err error) {
	if !u.handoffsExpire.After(fromMillis(0)) {
		return false, nil // the user never had one
	}
	e.Until = u.handoffsExpire.Add(terms.Skew)
	return takeBack(ctx, tx, u.id, e)
}

// cutOff takes back all handoffs of a user that is held, and has RecordHandoff
// refuse those that are being signed. It is never refused: where the database has a
// clock of its own, one that is ahead counts as the latest by which it lets a handoff
// be recorded, or the user would get none until the time has come that it says.
func cutOff(ctx context.Context, tx *sql.Tx, u standing, now time.Time) error {
	by := now
	if !u.clock.IsZero() {
		by = u.clock
	}
	terms, err := readTerms(ctx, tx, by)
	if err != nil && !errors.Is(err, ErrNoIssuer) {
		return err
	}
	latest := now
	if most := by.Add(terms.Skew); now.After(most) {
		latest = most
	}
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
	if _, err = takeBackUser(ctx, tx, u, entry, terms); err != nil {
		return err
	}
	// Each handoff that these take back has an iat up to the cut-off.
	const covered = `DELETE FROM revocations WHERE user_id = $1 AND kind <> $2`
	_, err = tx.ExecContext(ctx, covered, u.id, string(trust.KindSubject))
	return wrap("cutting a user off", err)
}

// takeBack lists an entry. Whoever reads it leaves out what is over by their own
// clock. added is false where the entry changes nothing.
func takeBack(ctx context.Context, tx *sql.Tx, userID string, e trust.Entry) (added bool, err error) {
	const upsert = `INSERT INTO revocations (kind, id, user_id, cut_off_at, ends_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, id) DO UPDATE SET
			cut_off_at = CASE WHEN excluded.cut_off_at > revocations.cut_off_at THEN excluded.cut_off_at ELSE revocations.cut_off_at END,
			ends_at    = CASE WHEN excluded.ends_at    > revocations.ends_at    THEN excluded.ends_at    ELSE revocations.ends_at    END
		WHERE excluded.cut_off_at > revocations.cut_off_at OR excluded.ends_at > revocations.ends_at`
	result, err := tx.ExecContext(ctx, upsert, string(e.Kind), e.ID, userID, toMillis(e.Cutoff), toMillis(e.Until))
	if err != nil {
		return false, wrap("taking back", err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return false, wrap("taking back", err)
	}
	return true, noteChange(ctx, tx)
}

// noteChange makes the change show in Changes.
func noteChange(ctx context.Context, tx *sql.Tx) error {
	const shards = 8
	_, err := tx.ExecContext(ctx, `UPDATE changes SET n = n + 1 WHERE shard = $1`, rand.IntN(shards))
	return wrap("noting a change", err)
}

// Changes returns a number that is another after each change of what the trust
// list states, whichever process made it.
func (db *DB) Changes(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = db.read.QueryRowContext(ctx, `SELECT CAST(SUM(n) AS BIGINT) FROM changes`).Scan(&n)
	return n, wrap("looking for changes", err)
}

// Sweep forgets the sessions and the revocations that have been over for a day. A
// clock that is ahead takes nothing back from what can be alive: where the database
// has a clock of its own, they are over by both. On SQLite, the machine's clock may
// have been set since the database was opened, and counts as if it had not; where it
// was ahead by then, only sessions are lost, which are over by it in any case.
func (db *DB) Sweep(ctx context.Context, now time.Time) error {
	return db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		sure, err := db.vouched(ctx, tx, now)
		if err != nil {
			return err
		}
		by := sure - (24 * time.Hour).Milliseconds()
		for _, over := range []string{
			`DELETE FROM sessions WHERE id_sha256 IN (SELECT id_sha256 FROM sessions WHERE idle_expires_at <= $1` + db.dialect.holdFree + `)`,
			`DELETE FROM revocations WHERE (kind, id) IN (SELECT kind, id FROM revocations WHERE ends_at <= $1` + db.dialect.holdFree + `)`,
		} {
			if _, err := tx.ExecContext(ctx, over, by); err != nil {
				return wrap("sweeping", err)
			}
		}
		return nil
	})
}
