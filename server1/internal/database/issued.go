package database

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Assertion is a client's, by which it asks for one handoff.
type Assertion struct {
	Client User
	Kid    string // of the key that has signed it
	ID     string // its jti
	Grant  *Grant // by which the client acts for somebody; nil: for itself
	For    User   // whom it acts for, by Grant
}

// issued is a handoff or a visit that is to be recorded: a session's or, where by is not nil, a
// client's.
type issued struct {
	session Session
	by      *Assertion
	claims  *handoff.Claims
	most    int // visits that the user can have standing; of a visit only
	now     time.Time
}

// owner returns whose handoff it is.
func (h issued) owner() User {
	switch {
	case h.by == nil:
		return h.session.User
	case h.by.Grant != nil:
		return h.by.For
	}
	return h.by.Client
}

// event is the kind of the audited event.
func (h issued) event() string {
	if h.claims.Kind() == handoff.KindVisit {
		return eventVisitIssued
	}
	return eventHandoffIssued
}

// methods are those that the token names, with spaces between.
func (h issued) methods() string {
	if h.claims.Kind() == handoff.KindVisit {
		return strings.Join(h.claims.Methods, " ")
	}
	return h.claims.Method
}

// roles are those by which its owner was permitted it, as the database has them.
func (h issued) roles() string { return strings.Join(h.owner().Roles, " ") }

// recordHandoff adds the row of a handoff whose session lives and whose user is
// neither disabled nor cut off since the token's iat, and has those roles: what they
// permit was decided before.
const recordHandoff = `INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at)
	SELECT $1, $2, users.id, sessions.handoff_id, $3, $4, $5, CAST($6 AS BIGINT)
	FROM sessions JOIN users ON users.id = sessions.user_id
	WHERE sessions.id_sha256 = $7 AND sessions.idle_expires_at > $1 AND sessions.expires_at > $1
		AND users.disabled_at IS NULL AND users.cut_off_at < $8 AND users.roles = $9`

// recordByClient adds the row of a handoff whose client has the key and has not spent the
// assertion, is neither disabled nor cut off since the token's iat, and has those roles.
const recordByClient = `INSERT INTO audit (occurred_at, event, user_id, handoff_id, audience, method, expires_at, assertion)
	SELECT $1, $2, users.id, $3, $4, $5, CAST($6 AS BIGINT), CAST($10 AS TEXT)
	FROM client_keys JOIN users ON users.id = client_keys.client_id
	WHERE client_keys.kid = $7 AND users.id = $9 AND users.disabled_at IS NULL AND users.cut_off_at < $8 AND users.roles = $11
	` + unlessSpent

// unlessSpent ends a statement that spends an assertion: it adds no row where another row
// has spent it.
const unlessSpent = `ON CONFLICT (assertion) WHERE assertion IS NOT NULL DO NOTHING`

// spends is how the audit names the assertion that is spent on the handoff; empty: none is.
func (h issued) spends() string {
	if h.by == nil {
		return ""
	}
	return h.by.Client.ID + " " + h.by.ID
}

// noteHandoff moves what is known of the user's latest handoffs, where it moves: most
// of one second's have the same ends.
const noteHandoff = `UPDATE users
	SET issued_at = CASE WHEN issued_at < $2 THEN $2 ELSE issued_at END,
		handoffs_expire_at = CASE WHEN handoffs_expire_at < $3 THEN $3 ELSE handoffs_expire_at END
	WHERE id = $1 AND (issued_at < $2 OR handoffs_expire_at < $3)`

// RecordHandoff records a token, a handoff or a visit, that was signed for a session and is about to be
// handed out. It returns ErrNotFound if the session is over at now, ErrRoles if the user
// has other roles than s.User, a *CutOffError if the user has been cut off since the
// token's iat. Then the token must not be handed out.
func (db *DB) RecordHandoff(ctx context.Context, s Session, claims *handoff.Claims, now time.Time) error {
	return db.recordIssued(ctx, issued{session: s, claims: claims, now: now})
}

// RecordVisit records a visit as RecordHandoff does. It also returns ErrTooMany if as
// many of the user's stand as may.
func (db *DB) RecordVisit(ctx context.Context, s Session, claims *handoff.Claims, most int, now time.Time) error {
	return db.recordIssued(ctx, issued{session: s, claims: claims, most: most, now: now})
}

// RecordByClient records a token that was signed for a client and is about to be handed
// out, and spends the client's assertion. It returns ErrSpent if that was spent before,
// ErrNotFound if the client is disabled or no longer has the key, ErrNoGrant if the
// grant does not stand for as long as the token lives, ErrRoles if the token's subject has
// other roles than by says, a *CutOffError if it or the client has been cut off since the
// token's iat. Then the token must not be handed out, and the assertion is not spent.
func (db *DB) RecordByClient(ctx context.Context, by Assertion, claims *handoff.Claims, now time.Time) error {
	return db.recordIssued(ctx, issued{by: &by, claims: claims, now: now})
}

func (db *DB) recordIssued(ctx context.Context, h issued) error {
	// What is counted is recorded by itself, with its user held.
	if db.together != nil && h.most == 0 {
		recorded, err := db.together.answer(ctx, h)
		if err != nil || recorded {
			return err
		}
		// It is refused, as it seems: a change of its own tells why.
	}
	return db.writer.ChangeOrNothing(ctx, db.inTime(func(ctx context.Context, tx *transaction) error {
		return db.record(ctx, tx, h)
	}))
}

// record records a handoff. Where it returns an answer, it has changed nothing.
func (db *DB) record(ctx context.Context, tx *transaction, h issued) error {
	if db.dialect.hold != "" {
		ids := []string{h.owner().ID}
		if h.by != nil {
			ids = append(ids, h.by.Client.ID)
		}
		if err := db.holdAll(ctx, tx, ids...); err != nil {
			return err
		}
	}
	if h.most > 0 {
		if err := roomForVisit(ctx, tx, h); err != nil {
			return err
		}
	}
	switch n, err := affected(db.insert(ctx, tx, h)); {
	case err != nil:
		return wrap("recording a handoff", err)
	case n == 0:
		return whyNot(ctx, tx, h)
	}
	if h.by != nil && h.by.Grant != nil {
		if _, err := db.exec(ctx, tx, noteGrant, h.by.Grant.ID, toMillis(h.claims.Expires)); err != nil {
			return wrap("noting a grant", err)
		}
	}
	_, err := db.exec(ctx, tx, noteHandoff, h.owner().ID, toMillis(h.claims.IssuedAt), toMillis(h.claims.Expires))
	return wrap("noting a handoff", err)
}

// insert adds the row of a handoff, if all that it takes is so.
func (db *DB) insert(ctx context.Context, tx *transaction, h issued) (sql.Result, error) {
	args := []any{
		toMillis(h.now), h.event(), h.claims.ID, h.claims.Audience, h.methods(), toMillis(h.claims.Expires),
	}
	if h.by != nil {
		args = append(args, h.by.Kid, toMillis(h.claims.IssuedAt), h.by.Client.ID, h.spends(), h.roles())
		if h.by.Grant != nil {
			return db.exec(ctx, tx, recordByGrant, append(args, h.by.Grant.ID, h.by.Grant.HandoffID)...)
		}
		return db.exec(ctx, tx, recordByClient, args...)
	}
	return db.exec(ctx, tx, recordHandoff, append(args, h.session.IDSHA256, toMillis(h.claims.IssuedAt), h.roles())...)
}

// whyNot returns why a handoff is not recorded.
func whyNot(ctx context.Context, tx *transaction, h issued) error {
	if err := stillGood(ctx, tx, h); err != nil {
		return err
	}
	caller := h.owner().ID
	if h.by != nil {
		caller = h.by.Client.ID
	}
	var cutOff int64
	var roles string
	const find = `SELECT roles, (SELECT MAX(cut_off_at) FROM users WHERE id IN ($1, $2)) FROM users WHERE id = $1`
	err := tx.QueryRowContext(ctx, find, h.owner().ID, caller).Scan(&roles, &cutOff)
	switch {
	case err != nil:
		return wrap("reading a user", err)
	case cutOff >= toMillis(h.claims.IssuedAt):
		return &CutOffError{At: fromMillis(cutOff)}
	case roles != h.roles():
		return ErrRoles
	}
	return wrap("recording a handoff", errors.New("it was not, for no reason that is known"))
}

// stillGood returns ErrNotFound or ErrSpent unless what the handoff is asked by is good.
func stillGood(ctx context.Context, tx *transaction, h issued) error {
	if h.by == nil {
		return stillLive(ctx, tx, h.session, h.now)
	}
	var jwk string
	client, err := scanUser(tx.QueryRowContext(ctx, selectClient, h.by.Kid), &jwk)
	switch {
	case err != nil:
		return wrap("reading a client", err)
	case client.ID != h.by.Client.ID:
		return ErrNotFound
	}
	var spent bool
	const find = `SELECT EXISTS (SELECT 1 FROM audit WHERE assertion = $1)`
	if err := tx.QueryRowContext(ctx, find, h.spends()).Scan(&spent); err != nil {
		return wrap("reading an assertion", err)
	}
	switch {
	case spent:
		return ErrSpent
	case h.by.Grant != nil:
		return stillGranted(ctx, tx, h)
	}
	return nil
}

// exec runs a statement, prepared where that was done.
func (db *DB) exec(ctx context.Context, tx *transaction, statement string, args ...any) (sql.Result, error) {
	if prepared, ok := db.prepared[statement]; ok {
		// The driver starts a goroutine for each statement that can be interrupted. This one is
		// short, and once it has ended the transaction ends with ctx.
		return tx.StmtContext(ctx, prepared).ExecContext(context.WithoutCancel(ctx), args...)
	}
	return tx.ExecContext(ctx, statement, args...) // pgx keeps statements itself
}
