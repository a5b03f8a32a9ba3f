package database

import (
	"context"
	"time"
)

// Session is a user's session. Its id is kept nowhere; the digest finds it.
type Session struct {
	IDSHA256    string // of the session id, in base64url
	HandoffID   string // 128 random bits in base64url, derived from nothing: the `sid`
	User        User
	Created     time.Time
	IdleExpires time.Time // never after Expires
	Expires     time.Time
}

const sessionColumns = `sessions.handoff_id, sessions.created_at, sessions.idle_expires_at, sessions.expires_at, ` + userColumns

const selectLive = `SELECT ` + sessionColumns + `
	FROM sessions JOIN users ON users.id = sessions.user_id
	WHERE sessions.id_sha256 = $1 AND sessions.idle_expires_at > $2 AND sessions.expires_at > $2 AND users.disabled_at IS NULL`

// MaxSessions is how many sessions one user can have.
const MaxSessions = 100

// StartSession keeps a new session. Where the user has MaxSessions, it ends the one
// that has not been used for the longest time, and takes its handoffs back: to refuse
// would let anyone with the password keep its user out. It returns ErrNotFound if
// the user is disabled, or has another password than s.User says, by now.
func (db *DB) StartSession(ctx context.Context, s Session) error {
	ended := 0
	err := db.change(ctx, func(ctx context.Context, tx *transaction) error {
		u, err := db.lockUser(ctx, tx, "id", s.User.ID)
		if err != nil {
			return err
		}
		if u.disabled || u.passwordHash != s.User.PasswordHash {
			return ErrNotFound
		}
		if ended, err = makeRoom(ctx, tx, u, s.Created); err != nil {
			return err
		}
		const insert = `INSERT INTO sessions (id_sha256, handoff_id, user_id, created_at, idle_expires_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6)`
		_, err = tx.ExecContext(ctx, insert, s.IDSHA256, s.HandoffID, s.User.ID,
			toMillis(s.Created), toMillis(s.IdleExpires), toMillis(s.Expires))
		if err != nil {
			return wrap("starting a session", err)
		}
		return record(ctx, tx, event{kind: eventSignedIn, at: s.Created, user: s.User.ID, session: s.HandoffID})
	})
	if err == nil && ended > 0 {
		db.tell()
	}
	return err
}

// makeRoom ends sessions of a user that is held, so that there is room for one more,
// and says how many. Whether one is over is not asked: by another clock it may live,
// or its handoffs.
func makeRoom(ctx context.Context, tx *transaction, u standing, now time.Time) (ended int, err error) {
	tooMany, err := leastUsed(ctx, tx, u)
	if err != nil {
		return 0, err
	}
	for _, handoffID := range tooMany {
		if err := endSession(ctx, tx, u, handoffID, now); err != nil {
			return 0, err
		}
		if err := record(ctx, tx, event{kind: eventSessionReplaced, at: now, user: u.id, session: handoffID}); err != nil {
			return 0, err
		}
	}
	return len(tooMany), nil
}

// leastUsed returns which sessions of a user are too many for one more, by the id that
// their handoffs carry: one, except where there was no bound before.
func leastUsed(ctx context.Context, tx *transaction, u standing) (tooMany []string, err error) {
	const find = `SELECT handoff_id FROM sessions WHERE user_id = $1
		ORDER BY idle_expires_at DESC, created_at DESC, handoff_id LIMIT $2 OFFSET $3`
	tooMany, err = texts(tx.QueryContext(ctx, find, u.id, MaxSessions, MaxSessions-1))
	return tooMany, wrap("reading sessions", err)
}

// LiveSession returns the session with this digest of its id, or ErrNotFound if
// it is not there, has expired at now, or is a disabled user's.
func (db *DB) LiveSession(ctx context.Context, idSHA256 string, now time.Time) (Session, error) {
	if db.wrong.Load() {
		return Session{}, ErrClock
	}
	s, err := db.live(ctx, sessionAt{idSHA256, now})
	s.IDSHA256 = idSHA256
	return s, err
}

// KeepSession moves a live session's idle expiry to until. It never moves it
// back, and wakes no session that is over at now.
func (db *DB) KeepSession(ctx context.Context, s Session, now, until time.Time) error {
	return db.change(ctx, func(ctx context.Context, tx *transaction) error {
		const update = `UPDATE sessions SET idle_expires_at = $1
			WHERE id_sha256 = $2 AND idle_expires_at > $3 AND idle_expires_at < $1 AND expires_at >= $1`
		_, err := tx.ExecContext(ctx, update, toMillis(until), s.IDSHA256, toMillis(now))
		return wrap("keeping a session", err)
	})
}

// EndSession ends a session for good and takes back its handoffs. It returns
// ErrNotFound if there is no such live session.
func (db *DB) EndSession(ctx context.Context, s Session, now time.Time) error {
	return db.changeAs(ctx, s, now, func(ctx context.Context, tx *transaction, u standing) error {
		if err := endSession(ctx, tx, u, s.HandoffID, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventSignedOut, at: now, user: u.id, session: s.HandoffID})
	})
}

// EndSessions ends all sessions of the session's user and takes back all handoffs
// of the user. It returns ErrNotFound if there is no such live session.
func (db *DB) EndSessions(ctx context.Context, s Session, now time.Time) error {
	return db.changeAs(ctx, s, now, func(ctx context.Context, tx *transaction, u standing) error {
		if err := db.endSessionsOf(ctx, tx, u, "", now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventSignedOutEverywhere, at: now, user: u.id, session: s.HandoffID})
	})
}

// endSession ends one session of a user that is held, and takes back its handoffs.
func endSession(ctx context.Context, tx *transaction, u standing, handoffID string, now time.Time) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE handoff_id = $1`, handoffID); err != nil {
		return wrap("ending a session", err)
	}
	return takeBackSession(ctx, tx, u, handoffID, u.handoffsExpire, now)
}

// endSessionsOf ends the sessions of a user that is held, except one, withdraws the
// user's grants, and takes back all handoffs of the user.
func (db *DB) endSessionsOf(ctx context.Context, tx *transaction, u standing, exceptSHA256 string, now time.Time) error {
	const all = `DELETE FROM sessions WHERE user_id = $1 AND id_sha256 <> $2`
	if _, err := tx.ExecContext(ctx, all, u.id, exceptSHA256); err != nil {
		return wrap("ending sessions", err)
	}
	if err := db.withdrawAll(ctx, tx, u, now); err != nil {
		return err
	}
	return cutOff(ctx, tx, u, now)
}

// changeAs makes a change for the user of a session, who is held. It returns ErrNotFound
// if the session is over.
func (db *DB) changeAs(ctx context.Context, s Session, now time.Time, change func(context.Context, *transaction, standing) error) error {
	return db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		u, err := db.lockUser(ctx, tx, "id", s.User.ID)
		if err != nil {
			return err
		}
		if err := stillLive(ctx, tx, s, now); err != nil {
			return err
		}
		return change(ctx, tx, u)
	})
}

// stillLive returns ErrNotFound unless the session lives at now.
func stillLive(ctx context.Context, tx *transaction, s Session, now time.Time) error {
	_, err := scanSession(tx.QueryRowContext(ctx, selectLive, s.IDSHA256, toMillis(now)))
	return wrap("reading a session", err)
}

// scanSession reads sessionColumns, after the columns that before takes.
func scanSession(row interface{ Scan(...any) error }, before ...any) (Session, error) {
	var (
		s                      Session
		created, idle, expires int64
		err                    error
	)
	s.User, err = scanUser(row, append(before, &s.HandoffID, &created, &idle, &expires)...)
	s.Created, s.IdleExpires, s.Expires = fromMillis(created), fromMillis(idle), fromMillis(expires)
	return s, err
}
