package database

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// sessionAt asks for a session that lives at a time.
type sessionAt struct {
	idSHA256 string
	at       time.Time
}

// clientWithKey is a client and one of its keys.
type clientWithKey struct {
	client User
	key    ClientKey
}

// many is a statement that reads for many: it returns what there is of ids, each row with
// the place of its id, counted from 1.
type many func(ctx context.Context, ids []string) (*sql.Rows, error)

// sessions returns the sessions that are asked for; nil for one that is not live.
func (read many) sessions(ctx context.Context, all []sessionAt) ([]*Session, error) {
	ids := make([]string, len(all))
	for i, asked := range all {
		ids[i] = asked.idSHA256
	}
	rows, err := read(ctx, ids)
	live, err := inPlaces(len(all), rows, err, func(place *int) (Session, error) { return scanSession(rows, place) })
	for i, s := range live {
		if at := all[i].at; s != nil && !(s.IdleExpires.After(at) && s.Expires.After(at)) {
			live[i] = nil
		}
	}
	return live, wrap("reading sessions", err)
}

// clients returns the clients with these keys; nil where none has it, or it is disabled.
func (read many) clients(ctx context.Context, kids []string) ([]*clientWithKey, error) {
	rows, err := read(ctx, kids)
	clients, err := inPlaces(len(kids), rows, err, func(place *int) (c clientWithKey, err error) {
		c.client, err = scanUser(rows, place, &c.key.JWK)
		return c, err
	})
	return clients, wrap("reading clients", err)
}

// inPlaces returns n answers, each what scan makes of the row with its place, which are
// counted from 1; nil where there is no such row.
func inPlaces[T any](n int, rows *sql.Rows, err error, scan func(place *int) (T, error)) ([]*T, error) {
	answers := make([]*T, n)
	_, err = serving.Rows(rows, err, func() (place int, err error) {
		one, err := scan(&place)
		if err == nil {
			answers[place-1] = &one
		}
		return place, err
	})
	return answers, err
}

const holdUsers = `SELECT COUNT(*) FROM (SELECT id FROM users WHERE id = ANY($1) ORDER BY id COLLATE "C" FOR UPDATE) AS held`

// recordHandoffs finds rows as selectAllLive does (postgres.go).
const recordHandoffs = `WITH asked AS (
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
			$10::text[], $11::text[], $12::text[], $8::text[], $13::text[], $9::text[], $14::text[], $15::text[])
			AS a (session, id, audience, method, iat, exp, at, client, kid, assertion, event, roles, user_id, grant_id, sid)
	), good AS MATERIALIZED (
		SELECT asked.*, session.handoff_id
		FROM asked CROSS JOIN LATERAL (SELECT * FROM sessions WHERE id_sha256 = asked.session OFFSET 0) AS session
		WHERE asked.client = '' AND session.user_id = asked.user_id AND session.idle_expires_at > asked.at AND session.expires_at > asked.at
		UNION ALL
		SELECT asked.*, NULL
		FROM asked CROSS JOIN LATERAL (SELECT * FROM client_keys WHERE kid = asked.kid OFFSET 0) AS key
		WHERE key.client_id = asked.client AND key.client_id = asked.user_id
		UNION ALL
		SELECT asked.*, given.handoff_id
		FROM asked CROSS JOIN LATERAL (SELECT * FROM grants WHERE id = asked.grant_id OFFSET 0) AS given
			CROSS JOIN LATERAL (SELECT * FROM client_keys WHERE kid = asked.kid OFFSET 0) AS key
			CROSS JOIN LATERAL (SELECT * FROM users WHERE id = asked.client OFFSET 0) AS client
		WHERE asked.grant_id <> '' AND given.handoff_id = asked.sid AND given.user_id = asked.user_id AND given.client_id = asked.client
			AND given.expires_at > asked.at AND given.expires_at >= asked.exp AND key.client_id = asked.client
			AND client.disabled_at IS NULL AND client.cut_off_at < asked.iat
	), recorded AS (
		INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at, client_id, grant_id, assertion)
		SELECT good.at, good.event, owner.id, good.handoff_id, good.id, good.audience, good.method, good.exp,
			CASE WHEN good.grant_id <> '' THEN good.client END, NULLIF(good.grant_id, ''), NULLIF(good.assertion, '')
		FROM good CROSS JOIN LATERAL (SELECT * FROM users WHERE id = good.user_id OFFSET 0) AS owner
		WHERE owner.disabled_at IS NULL AND owner.cut_off_at < good.iat AND owner.roles = good.roles
		` + unlessSpent + `
		RETURNING handoff_id, user_id
	), latest AS (
		SELECT recorded.user_id, MAX(asked.iat) AS iat, MAX(asked.exp) AS exp
		FROM recorded JOIN asked ON asked.id = recorded.handoff_id GROUP BY recorded.user_id
	), noted AS (
		UPDATE users SET issued_at = GREATEST(issued_at, latest.iat), handoffs_expire_at = GREATEST(handoffs_expire_at, latest.exp)
		FROM latest WHERE users.id = latest.user_id AND (issued_at < latest.iat OR handoffs_expire_at < latest.exp)
	), latest_by_grant AS (
		SELECT asked.grant_id, MAX(asked.exp) AS exp
		FROM recorded JOIN asked ON asked.id = recorded.handoff_id WHERE asked.grant_id <> '' GROUP BY asked.grant_id
	), noted_grants AS (
		UPDATE grants SET handoffs_expire_at = latest_by_grant.exp
		FROM latest_by_grant WHERE grants.id = latest_by_grant.grant_id AND handoffs_expire_at < latest_by_grant.exp
	)
	SELECT handoff_id FROM recorded`

// recordTogether records handoffs in one change, and says which.
func (db *DB) recordTogether(ctx context.Context, all []issued) (recorded []bool, err error) {
	err = db.change(ctx, func(ctx context.Context, tx *transaction) error {
		recorded, err = recordAll(ctx, tx, all)
		return err
	})
	return recorded, err
}

// recordAll records handoffs, and returns which were recorded, but not why others were
// not. The first statement holds the rows of users and clients, in the order of their ids;
// the second, which so sees every sign-out and cut-off that was acknowledged before, adds
// what may be added.
func recordAll(ctx context.Context, tx *transaction, all []issued) ([]bool, error) {
	var users, sessions, ids, audiences, methods, events, clients, kids, assertions, roles, grants, sids []string
	var iats, exps, ats []int64
	places := map[string]int{} // in all, by the handoffs' ids
	spent := map[string]bool{}
	for i, m := range all {
		if assertion := m.spends(); assertion != "" && spent[assertion] {
			continue // of those that have one assertion between them, the first
		}
		spent[m.spends()] = true
		places[m.claims.ID] = i
		users = append(users, m.owner().ID)
		var by Assertion
		var grant Grant
		if m.by != nil {
			by = *m.by
		}
		if by.Grant != nil {
			grant = *by.Grant
		}
		grants = append(grants, grant.ID)
		sids = append(sids, grant.HandoffID)
		clients = append(clients, by.Client.ID)
		kids = append(kids, by.Kid)
		assertions = append(assertions, m.spends())
		sessions = append(sessions, m.session.IDSHA256)
		ids = append(ids, m.claims.ID)
		audiences = append(audiences, m.claims.Audience)
		methods = append(methods, m.methods())
		events = append(events, m.event())
		iats = append(iats, toMillis(m.claims.IssuedAt))
		exps = append(exps, toMillis(m.claims.Expires))
		ats = append(ats, toMillis(m.now))
		roles = append(roles, m.roles())
	}
	if _, err := tx.ExecContext(ctx, holdUsers, slices.Concat(users, clients)); err != nil {
		return nil, wrap("holding users", err)
	}
	made, err := texts(tx.QueryContext(ctx, recordHandoffs, sessions, ids, audiences, methods, iats, exps, ats,
		events, users, clients, kids, assertions, roles, grants, sids))
	recorded := make([]bool, len(all))
	for _, id := range made {
		place, asked := places[id]
		if !asked {
			return nil, wrap("recording handoffs", errors.New("one was recorded that was not asked for"))
		}
		recorded[place] = true
	}
	return recorded, wrap("recording handoffs", err)
}
