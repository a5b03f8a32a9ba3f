package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"

	"github.com/handoff-auth/handoff/shared/serving"
)

// Grant is what a user lets an API client do for them.
type Grant struct {
	ID         string // 128 random bits in base64url
	HandoffID  string // the `sid` of its handoffs, until they are taken back
	UserID     string
	ClientID   string
	ClientName string
	Audience   string
	Methods    []string // in order
	Created    time.Time
	Expires    time.Time
}

const grantColumns = `grants.id, grants.handoff_id, grants.user_id, grants.client_id, client.name, grants.audience, grants.methods,
	grants.created_at, grants.expires_at`

// AddGrant adds a grant of the session's user. It returns ErrNotFound if the session is
// over, ErrNoClient if there is no such client or it is disabled, ErrTooMany if the user
// has most grants. One that has expired gives its place up.
func (db *DB) AddGrant(ctx context.Context, s Session, g Grant, most int) error {
	return db.change(ctx, func(ctx context.Context, tx *transaction) error {
		if err := isClient(ctx, tx, g.ClientID); err != nil { // before anybody's row is held
			return err
		}
		if err := db.holdAll(ctx, tx, s.User.ID, g.ClientID); err != nil {
			return err
		}
		if err := errors.Join(stillLive(ctx, tx, s, g.Created), isClient(ctx, tx, g.ClientID)); err != nil {
			return err
		}
		if err := db.makeRoomForGrant(ctx, tx, s.User.ID, most, g.Created); err != nil {
			return err
		}
		const insert = `INSERT INTO grants (id, handoff_id, user_id, client_id, audience, methods, created_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
		_, err := tx.ExecContext(ctx, insert, g.ID, g.HandoffID, s.User.ID, g.ClientID, g.Audience,
			strings.Join(g.Methods, " "), toMillis(g.Created), toMillis(g.Expires))
		if err != nil {
			return wrap("adding a grant", err)
		}
		return record(ctx, tx, event{
			kind: eventGrantCreated, at: g.Created, user: s.User.ID, session: g.HandoffID, audience: g.Audience, client: g.ClientID, grant: g.ID,
		})
	})
}

// isClient returns ErrNoClient unless there is such a client and it is not disabled.
func isClient(ctx context.Context, tx *transaction, id string) error {
	var active bool
	const find = `SELECT EXISTS (SELECT 1 FROM users WHERE id = $1 AND kind = $2 AND disabled_at IS NULL)`
	if err := tx.QueryRowContext(ctx, find, id, kindClient).Scan(&active); err != nil {
		return wrap("reading a client", err)
	}
	if !active {
		return ErrNoClient
	}
	return nil
}

// makeRoomForGrant returns ErrTooMany if a user that is held has most grants that stand.
// The rows of others stay for a day (upkeep sweeps them): where they are in the way they
// go now, so that a user has most rows at any time. What was issued by them is dead as
// they are.
func (db *DB) makeRoomForGrant(ctx context.Context, tx *transaction, userID string, most int, now time.Time) error {
	count := func() (have int, err error) {
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM grants WHERE user_id = $1`, userID).Scan(&have)
		return have, wrap("counting grants", err)
	}
	have, err := count()
	if err != nil || have < most {
		return err
	}
	const over = `user_id = $1 AND expires_at <= $2`
	if _, err := db.heldGrants(ctx, tx, over, "", userID, toMillis(now)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE `+over, userID, toMillis(now)); err != nil {
		return wrap("deleting grants", err)
	}
	if have, err = count(); err == nil && have >= most {
		err = ErrTooMany
	}
	return err
}

// Grants returns the grants of a user that have not expired at now, the newest first.
func (db *DB) Grants(ctx context.Context, userID string, now time.Time) (grants []Grant, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const find = `SELECT ` + grantColumns + ` FROM grants JOIN users AS client ON client.id = grants.client_id
		WHERE grants.user_id = $1 AND grants.expires_at > $2 ORDER BY grants.created_at DESC, grants.id`
	rows, err := db.read.QueryContext(ctx, find, userID, toMillis(now))
	grants, err = serving.Rows(rows, err, func() (Grant, error) { return scanGrant(rows) })
	return grants, wrap("reading grants", err)
}

// GrantOf returns a client's grant with its user, or ErrNotFound if the client has none
// with this id that stands at now.
func (db *DB) GrantOf(ctx context.Context, clientID, grantID string, now time.Time) (g Grant, user User, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const find = `SELECT ` + grantColumns + ` FROM grants JOIN users AS client ON client.id = grants.client_id
		WHERE grants.id = $1 AND grants.client_id = $2 AND grants.expires_at > $3`
	if g, err = scanGrant(db.read.QueryRowContext(ctx, find, grantID, clientID, toMillis(now))); err != nil {
		return g, user, wrap("reading a grant", err)
	}
	user, err = scanUser(db.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = $1 AND disabled_at IS NULL`, g.UserID))
	return g, user, wrap("reading a user", err)
}

// DeleteGrant withdraws a grant of the session's user, and takes back its handoffs. It
// returns ErrNotFound if the session is over, ErrNoGrant if the user has no such grant.
func (db *DB) DeleteGrant(ctx context.Context, s Session, grantID string, now time.Time) error {
	return db.changeAs(ctx, s, now, func(ctx context.Context, tx *transaction, u standing) error {
		return withdraw(ctx, tx, u, grantID, now)
	})
}

// withdraw deletes a grant of a user that is held, and takes back its handoffs. It returns
// ErrNoGrant if the user has no such grant.
func withdraw(ctx context.Context, tx *transaction, u standing, grantID string, now time.Time) error {
	const remove = `DELETE FROM grants WHERE id = $1 AND user_id = $2 RETURNING handoff_id, client_id, audience, handoffs_expire_at`
	e := event{kind: eventGrantDeleted, at: now, user: u.id, grant: grantID}
	var ends int64
	err := tx.QueryRowContext(ctx, remove, grantID, u.id).Scan(&e.session, &e.client, &e.audience, &ends)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNoGrant
	}
	if err != nil {
		return wrap("deleting a grant", err)
	}
	if err := takeBackSession(ctx, tx, u, e.session, fromMillis(ends), now); err != nil {
		return err
	}
	return record(ctx, tx, e)
}

// withdrawAll deletes all grants of a user that is held. To take back what was issued by
// them is the caller's.
func (db *DB) withdrawAll(ctx context.Context, tx *transaction, u standing, now time.Time) error {
	if _, err := db.heldGrants(ctx, tx, `user_id = $1`, "", u.id); err != nil {
		return err
	}
	const stood = `user_id = $3 AND expires_at > $4`
	if _, err := tx.ExecContext(ctx, recordGrants+stood, toMillis(now), eventGrantDeleted, u.id, toMillis(now)); err != nil {
		return wrap("recording "+eventGrantDeleted, err)
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE user_id = $1`, u.id)
	return wrap("deleting grants", err)
}

// recordGrants records an event of each grant for which the condition holds that it ends
// in, whose arguments are $3 and on.
const recordGrants = `INSERT INTO audit (occurred_at, event, user_id, session, audience, client_id, grant_id)
	SELECT CAST($1 AS BIGINT), CAST($2 AS TEXT), user_id, handoff_id, audience, client_id, id FROM grants WHERE `

// takeBackGrants takes back what a client was issued for others. Its grants stay, and what
// is issued by them from now on has another `sid`. A client can have so many that they are
// too much for one transaction, in which others would wait for it, too: each takes some.
// The client was cut off before. If this fails half-way, another try goes on.
func (db *DB) takeBackGrants(ctx context.Context, clientID string, now time.Time) error {
	for {
		var some []string
		err := db.changeList(ctx, func(ctx context.Context, tx *transaction) (err error) {
			if _, err = db.lockUser(ctx, tx, "id", clientID); err != nil {
				return err
			}
			some, err = db.takeBackSome(ctx, tx, clientID, now)
			return err
		})
		if err != nil || len(some) < together {
			return err
		}
	}
}

// together is how many grants are taken back at once: an id and a `sid` each, and a
// statement takes 32,766 arguments.
const together = 1000

func (db *DB) takeBackSome(ctx context.Context, tx *transaction, clientID string, now time.Time) (ids []string, err error) {
	terms, err := readTerms(ctx, tx, now)
	if errors.Is(err, ErrNoIssuer) {
		return nil, nil // and no handoffs
	}
	if err != nil {
		return nil, err
	}
	// By a wrong clock a handoff that lives can look dead: all that ever issued are listed, but
	// for what was over long before.
	since := toMillis(now.Add(-longAgo))
	ids, err = db.heldGrants(ctx, tx, `client_id = $1 AND handoffs_expire_at > $2`, fmt.Sprintf(` LIMIT %d`, together), clientID, since)
	if err != nil || len(ids) == 0 {
		return ids, err
	}
	list, args := `INSERT INTO revocations (kind, id, user_id, cut_off_at, ends_at)
		SELECT $1, handoff_id, user_id, 0, handoffs_expire_at + CAST($2 AS BIGINT) FROM grants WHERE `, []any{string(trust.KindSession), terms.Skew.Milliseconds()}
	if _, err := tx.ExecContext(ctx, list+oneOf(ids, len(args))+onRelisted, withIDs(args, ids)...); err != nil {
		return nil, wrap("taking back", err)
	}
	tx.listed = true
	args = []any{toMillis(now), eventGrantTakenBack}
	if _, err := tx.ExecContext(ctx, recordGrants+oneOf(ids, len(args)), withIDs(args, ids)...); err != nil {
		return nil, wrap("recording "+eventGrantTakenBack, err)
	}
	return ids, renew(ctx, tx, ids)
}

// oneOf is the condition that a grant is one of ids, which are the arguments after the
// first few.
func oneOf(ids []string, after int) string {
	places := make([]string, len(ids))
	for i := range ids {
		places[i] = fmt.Sprintf(`$%d`, after+i+1)
	}
	return `id IN (` + strings.Join(places, `, `) + `)`
}

func withIDs(args []any, ids []string) []any {
	for _, id := range ids {
		args = append(args, id)
	}
	return args
}

// renew gives each of the grants, which are held, another `sid`, by which nothing was
// issued yet.
func renew(ctx context.Context, tx *transaction, ids []string) error {
	var values []string
	var args []any
	for i, id := range ids {
		values = append(values, fmt.Sprintf(`($%d, $%d)`, 2*i+1, 2*i+2))
		args = append(args, id, handoff.NewID())
	}
	// The columns of VALUES have these names in both dialects.
	update := `UPDATE grants SET handoff_id = other.column2, handoffs_expire_at = 0 FROM (VALUES ` + strings.Join(values, `, `) + `) AS other WHERE grants.id = other.column1`
	_, err := tx.ExecContext(ctx, update, args...)
	return wrap("changing grants", err)
}

// heldGrants returns the ids of the grants for which the condition holds, and holds them.
// Their user or their client is held. most is empty, or bounds how many.
func (db *DB) heldGrants(ctx context.Context, tx *transaction, condition, most string, args ...any) (ids []string, err error) {
	ids, err = texts(tx.QueryContext(ctx, `SELECT id FROM grants WHERE `+condition+db.dialect.holdInOrder+most, args...))
	return ids, wrap("reading grants", err)
}

// scanGrant reads grantColumns.
func scanGrant(row interface{ Scan(...any) error }) (g Grant, err error) {
	var methods string
	var created, expires int64
	err = row.Scan(&g.ID, &g.HandoffID, &g.UserID, &g.ClientID, &g.ClientName, &g.Audience, &methods, &created, &expires)
	g.Methods, g.Created, g.Expires = strings.Fields(methods), fromMillis(created), fromMillis(expires)
	return g, err
}

// holdAll holds the rows of some users, of which clients are some, in the order in which
// everybody holds several: of the bytes of their ids. It returns ErrNotFound if one of
// them is not there.
func (db *DB) holdAll(ctx context.Context, tx *transaction, ids ...string) error {
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if _, err := db.lockUser(ctx, tx, "id", id); err != nil {
			return err
		}
	}
	return nil
}

// recordByGrant is recordByClient for a client that acts for the grant's user, who has
// those roles. Neither is disabled, or cut off since the token's iat, and the grant
// stands for as long as the token lives.
const recordByGrant = `INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at, client_id, grant_id, assertion)
	SELECT $1, $2, users.id, grants.handoff_id, $3, $4, $5, CAST($6 AS BIGINT), client.id, grants.id, CAST($10 AS TEXT)
	FROM grants JOIN users ON users.id = grants.user_id JOIN users AS client ON client.id = grants.client_id
		JOIN client_keys ON client_keys.client_id = client.id
	WHERE client_keys.kid = $7 AND client.id = $9 AND client.disabled_at IS NULL
		AND grants.id = $12 AND grants.handoff_id = $13 AND grants.expires_at > $1 AND grants.expires_at >= CAST($6 AS BIGINT)
		AND users.disabled_at IS NULL AND users.cut_off_at < $8 AND client.cut_off_at < $8 AND users.roles = $11
	` + unlessSpent

const noteGrant = `UPDATE grants SET handoffs_expire_at = $2 WHERE id = $1 AND handoffs_expire_at < $2`

// stillGranted returns ErrNoGrant unless the grant stands, for as long as the token.
func stillGranted(ctx context.Context, tx *transaction, h issued) error {
	var stands bool
	const find = `SELECT EXISTS (SELECT 1 FROM grants JOIN users ON users.id = grants.user_id
		WHERE grants.id = $1 AND grants.handoff_id = $2 AND grants.expires_at > $3 AND grants.expires_at >= $4 AND users.disabled_at IS NULL)`
	err := tx.QueryRowContext(ctx, find, h.by.Grant.ID, h.by.Grant.HandoffID, toMillis(h.now), toMillis(h.claims.Expires)).Scan(&stands)
	if err != nil {
		return wrap("reading a grant", err)
	}
	if !stands {
		return ErrNoGrant
	}
	return nil
}
