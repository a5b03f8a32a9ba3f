package database

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"

	"github.com/handoff-auth/handoff/shared/serving"
)

// TermsInterval is how often a process that issues calls KeepTerms.
const TermsInterval = 10 * time.Second

// KeepTerms says that a process of the issuer keeps to these terms, of which every
// field is set. It is an error if the database is another issuer's.
func (db *DB) KeepTerms(ctx context.Context, terms trust.Terms, now time.Time) error {
	db.skew.Store(terms.Skew.Milliseconds())
	return db.changeFirst(ctx, func(ctx context.Context, tx *transaction) error {
		const first = `INSERT INTO issuer (id, name, seq, ring) VALUES (1, $1, 0, '{"keys":[]}') ON CONFLICT (id) DO NOTHING`
		if _, err := tx.ExecContext(ctx, first, terms.Issuer); err != nil {
			return wrap("naming the issuer", err)
		}
		var name string
		if err := tx.QueryRowContext(ctx, `SELECT name FROM issuer`).Scan(&name); err != nil {
			return wrap("reading the issuer", err)
		}
		if name != terms.Issuer {
			return fmt.Errorf("the database is that of the issuer %q: give that as --issuer, or another database", name)
		}
		const keep = `INSERT INTO terms (token_lifetime, list_lifetime, skew, used_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (token_lifetime, list_lifetime, skew) DO UPDATE SET used_at = excluded.used_at`
		_, err := tx.ExecContext(ctx, keep,
			terms.TokenLifetime.Milliseconds(), terms.ListLifetime.Milliseconds(), terms.Skew.Milliseconds(), toMillis(now))
		return wrap("keeping terms", err)
	})
}

// Terms returns what the issuer's processes keep to: of terms that differ, or have
// changed while something of the former can be alive, the longest. It returns
// ErrNoIssuer if no process has ever said.
func (db *DB) Terms(ctx context.Context, now time.Time) (terms trust.Terms, err error) {
	err = db.look(ctx, func(ctx context.Context, tx *transaction) error {
		terms, err = readTerms(ctx, tx, now)
		return err
	})
	return terms, err
}

func readTerms(ctx context.Context, tx *transaction, now time.Time) (longest trust.Terms, err error) {
	const all = `SELECT issuer.name, token_lifetime, list_lifetime, skew, used_at FROM terms, issuer ORDER BY used_at DESC`
	rows, err := tx.QueryContext(ctx, all)
	if err != nil {
		return longest, wrap("reading terms", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var token, list, skew, used int64 // milliseconds
		if err := rows.Scan(&name, &token, &list, &skew, &used); err != nil {
			return longest, wrap("reading terms", err)
		}
		terms := trust.Terms{Issuer: name, TokenLifetime: millis(token), ListLifetime: millis(list), Skew: millis(skew)}
		if longest.Issuer == "" || now.Before(fromMillis(used).Add(matters(terms))) {
			longest = trust.Terms{
				Issuer:        name,
				TokenLifetime: max(longest.TokenLifetime, terms.TokenLifetime),
				ListLifetime:  max(longest.ListLifetime, terms.ListLifetime),
				Skew:          max(longest.Skew, terms.Skew),
			}
		}
	}
	if longest.Issuer == "" && rows.Err() == nil {
		return longest, ErrNoIssuer
	}
	return longest, wrap("reading terms", rows.Err())
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// matters is for how long after a process has said that these are its terms
// something that it made can be alive.
func matters(t trust.Terms) time.Duration {
	return 6*TermsInterval + max(t.TokenLifetime, t.ListLifetime) + 2*t.Skew
}

// HasPublished reports whether a trust list was ever numbered: that somebody is
// told of what is taken back.
func (db *DB) HasPublished(ctx context.Context) (yes bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = db.read.QueryRowContext(ctx, `SELECT COUNT(*) > 0 FROM issuer WHERE seq > 0`).Scan(&yes)
	return yes, wrap("reading the issuer", err)
}

// Trust returns what a trust list states at now.
func (db *DB) Trust(ctx context.Context, now time.Time) (state trust.State, err error) {
	err = db.look(ctx, func(ctx context.Context, tx *transaction) error {
		ring, err := readRing(ctx, tx, "")
		if err != nil {
			return err
		}
		state.Keys = ring.Listed(now)
		state.Revoked, err = db.entries.read(ctx, tx, now)
		return err
	})
	return state, err
}

// knownEntries are what was taken back, as they were last read. They may be many, and are
// read again only when they have changed. It is safe for concurrent use.
type knownEntries struct {
	mu    sync.Mutex
	mark  entriesMark // zero: nothing has been read
	at    time.Time   // what was over then was left out
	known []trust.Entry
}

// entriesMark is another after each change of what was taken back.
type entriesMark struct {
	changes int64 // Each transaction that takes back moves it, by a random step: not even a database that has lost the last ones comes to the same.
	latest  int64 // shows what was changed by hand, and that the table is there
}

// read returns what tx sees that is not over. The caller must not change it.
func (e *knownEntries) read(ctx context.Context, tx *transaction, now time.Time) ([]trust.Entry, error) {
	const ask = `SELECT (SELECT CAST(SUM(n) AS BIGINT) FROM changes), (SELECT COALESCE(MAX(ends_at), 0) FROM revocations)`
	var mark entriesMark
	if err := tx.QueryRowContext(ctx, ask).Scan(&mark.changes, &mark.latest); err != nil {
		return nil, wrap("looking for changes", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	known := e.known
	if mark != e.mark || now.Before(e.at) {
		var err error
		if known, err = readEntries(ctx, tx, now); err != nil {
			return nil, err
		}
	}
	isOver := func(entry trust.Entry) bool { return !now.Before(entry.Until) }
	if slices.ContainsFunc(known, isOver) {
		known = slices.DeleteFunc(slices.Clone(known), isOver) // others may be reading the former
	}
	e.mark, e.at, e.known = mark, now, slices.Clip(known)
	return e.known, nil
}

func readEntries(ctx context.Context, tx *transaction, now time.Time) (entries []trust.Entry, err error) {
	const live = `SELECT kind, id, cut_off_at, ends_at FROM revocations WHERE ends_at > $1`
	rows, err := tx.QueryContext(ctx, live, toMillis(now))
	entries, err = serving.Rows(rows, err, func() (e trust.Entry, err error) {
		var cutOff, ends int64
		err = rows.Scan(&e.Kind, &e.ID, &cutOff, &ends)
		e.Cutoff, e.Until = fromMillis(cutOff), fromMillis(ends)
		return e, err
	})
	return entries, wrap("reading revocations", err)
}

// Ring returns the issuer's signing keys. It returns ErrNoIssuer if no process has
// ever said who that is.
func (db *DB) Ring(ctx context.Context) (ring rotation.Ring, err error) {
	err = db.look(ctx, func(ctx context.Context, tx *transaction) error {
		ring, err = readRing(ctx, tx, "")
		return err
	})
	return ring, err
}

// ChangeRing replaces the issuer's signing keys by what change makes of them. With
// Ring it is a rotation.Store's.
func (db *DB) ChangeRing(ctx context.Context, clock func() time.Time, change rotation.Change) (ring rotation.Ring, err error) {
	// Changes that are made together would see each other before they are on disk.
	db.ring.Lock()
	defer db.ring.Unlock()
	var wrong error
	err = db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		ring, err = readRing(ctx, tx, db.dialect.hold)
		if err != nil {
			return err
		}
		now := clock()
		terms, err := readTerms(ctx, tx, now)
		if err != nil {
			return err
		}
		if ring, wrong = change(ring, terms, now); wrong != nil {
			return nil // there is nothing to undo
		}
		text, err := json.Marshal(ring)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE issuer SET ring = $1`, string(text)); err != nil {
			return wrap("keeping the signing keys", err)
		}
		tx.listed = true
		return nil
	})
	if err == nil {
		err = wrong
	}
	return ring, err
}

func readRing(ctx context.Context, tx *transaction, hold string) (rotation.Ring, error) {
	var text string
	err := tx.QueryRowContext(ctx, `SELECT ring FROM issuer`+hold).Scan(&text)
	if err != nil {
		if err = wrap("reading the signing keys", err); err == ErrNotFound {
			err = ErrNoIssuer
		}
		return rotation.Ring{}, err
	}
	ring, err := rotation.Parse([]byte(text))
	return ring, wrap("reading the signing keys", err)
}
