package database

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
)

// group records handoffs on PostgreSQL, where each commit waits for the disk and each
// statement for an answer: those that come while some are being recorded are recorded
// together, in two statements. The first holds the rows of users and clients, in the order
// of their ids; the second, which so sees every sign-out and cut-off that was acknowledged
// before, adds what may be added.
type group struct {
	change func(ctx context.Context, do func(context.Context, *transaction) error) error
	making chan struct{} // held while some are recorded

	mu      sync.Mutex
	waiting []*member
}

type member struct {
	issued
	recorded bool
	err      error
	made     chan struct{} // closed once the outcome is known
}

// groupSize is how many handoffs are recorded together at most.
const groupSize = 256

func newGroup(db *DB) *group {
	return &group{change: db.change, making: make(chan struct{}, 1)}
}

// record records a handoff, with others. It is false for one that was not recorded,
// as its session is over or its user is disabled, cut off, or has other roles.
func (g *group) record(ctx context.Context, h issued) (recorded bool, err error) {
	m := &member{issued: h, made: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	g.mu.Unlock()
	for {
		select {
		case <-m.made:
			return m.recorded, m.err
		case g.making <- struct{}{}:
			runtime.Gosched() // those who are about to ask, ask now
			g.recordAll(g.next())
		case <-ctx.Done():
			if g.withdraw(m) {
				return false, wrap("waiting to record a handoff", ctx.Err())
			}
			<-m.made // it is being recorded: the outcome is soon known
			return m.recorded, m.err
		}
	}
}

func (g *group) next() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), groupSize)
	taken := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return taken
}

func (g *group) withdraw(m *member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, m)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// recordAll records some handoffs in one change, and tells each its outcome.
func (g *group) recordAll(all []*member) {
	err := errors.New("database: recording handoffs panicked")
	defer func() {
		for _, m := range all {
			if err != nil {
				m.recorded, m.err = false, err
			}
			close(m.made)
		}
		<-g.making
	}()
	if len(all) == 0 { // another caller has recorded them
		err = nil
		return
	}
	err = g.change(context.Background(), func(ctx context.Context, tx *transaction) error {
		return recordGroup(ctx, tx, all)
	})
}

const holdUsers = `SELECT COUNT(*) FROM (SELECT id FROM users WHERE id = ANY($1) ORDER BY id COLLATE "C" FOR UPDATE) AS held`

// recordHandoffs joins each row that is asked for with one of each table, by its key, and
// once: so its plan is good before PostgreSQL has any statistics of the tables, too.
const recordHandoffs = `WITH asked AS (
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
			$10::text[], $11::text[], $12::text[], $8::text[], $13::text[], $9::text[], $14::text[], $15::text[])
			AS a (session, id, audience, method, iat, exp, at, client, kid, assertion, event, roles, user_id, grant_id, sid)
	), good AS MATERIALIZED (
		SELECT asked.*, sessions.handoff_id
		FROM asked JOIN sessions ON sessions.id_sha256 = asked.session AND sessions.user_id = asked.user_id
		WHERE asked.client = '' AND sessions.idle_expires_at > asked.at AND sessions.expires_at > asked.at
		UNION ALL
		SELECT asked.*, NULL
		FROM asked JOIN client_keys ON client_keys.kid = asked.kid AND client_keys.client_id = asked.client AND client_keys.client_id = asked.user_id
		UNION ALL
		SELECT asked.*, grants.handoff_id
		FROM asked JOIN grants ON grants.id = asked.grant_id AND grants.handoff_id = asked.sid AND grants.user_id = asked.user_id AND grants.client_id = asked.client
			JOIN client_keys ON client_keys.kid = asked.kid AND client_keys.client_id = asked.client
			JOIN users AS client ON client.id = asked.client
		WHERE grants.expires_at > asked.at AND grants.expires_at >= asked.exp AND client.disabled_at IS NULL AND client.cut_off_at < asked.iat
	), recorded AS (
		INSERT INTO audit (occurred_at, event, user_id, session, handoff_id, audience, method, expires_at, client_id, grant_id, assertion)
		SELECT good.at, good.event, users.id, good.handoff_id, good.id, good.audience, good.method, good.exp,
			CASE WHEN good.grant_id <> '' THEN good.client END, NULLIF(good.grant_id, ''), NULLIF(good.assertion, '')
		FROM good JOIN users ON users.id = good.user_id
		WHERE users.disabled_at IS NULL AND users.cut_off_at < good.iat AND users.roles = good.roles
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

// recordGroup records those that may be recorded, and marks them.
func recordGroup(ctx context.Context, tx *transaction, all []*member) error {
	var users, sessions, ids, audiences, methods, events, clients, kids, assertions, roles, grants, sids []string
	var iats, exps, ats []int64
	byID := map[string]*member{}
	for _, m := range all {
		m.recorded = false // as an attempt may have said that was undone
	}
	for _, m := range once(all) {
		byID[m.claims.ID] = m
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
		return wrap("holding users", err)
	}
	recorded, err := texts(tx.QueryContext(ctx, recordHandoffs, sessions, ids, audiences, methods, iats, exps, ats,
		events, users, clients, kids, assertions, roles, grants, sids))
	for _, id := range recorded {
		byID[id].recorded = true
	}
	return wrap("recording handoffs", err)
}

// once returns all, of those that have one assertion between them only the first.
func once(all []*member) []*member {
	seen := map[string]bool{}
	first := make([]*member, 0, len(all))
	for _, m := range all {
		if spent := m.spends(); spent == "" || !seen[spent] {
			seen[spent] = true
			first = append(first, m)
		}
	}
	return first
}
