package database

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// Client is an API client: a user who has keys in place of a password and sessions.
type Client struct {
	User // without a password
	Keys []ClientKey
}

// ClientKey is the public half of a client's key.
type ClientKey struct {
	ID    string // the RFC 7638 thumbprint
	JWK   string // a JWK Set of one
	Added time.Time
}

// MaxClientKeys is how many keys a client has at most: two while they change.
const MaxClientKeys = 2

// The values of users.kind.
const (
	kindUser   = "user"
	kindClient = "client"
)

// AddClient adds a client. It returns ErrNameTaken if a client or a user has the name,
// ErrKeyTaken if another client has one of the keys, or it signs handoffs.
func (db *DB) AddClient(ctx context.Context, c Client) error {
	return db.changeFirst(ctx, func(ctx context.Context, tx *transaction) error {
		const insert = `INSERT INTO users (id, name, password_hash, roles, created_at, kind) VALUES ($1, $2, '', $3, $4, $5)`
		_, err := tx.ExecContext(ctx, insert, c.ID, c.Name, strings.Join(c.Roles, " "), toMillis(c.Created), kindClient)
		if db.dialect.isDuplicate(err) {
			return ErrNameTaken
		}
		if err != nil {
			return wrap("adding a client", err)
		}
		if err := db.addKeys(ctx, tx, c.ID, c.Keys); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventClientAdded, at: c.Created, user: c.ID})
	})
}

// addKeys adds keys of a client, whose row is held or new.
func (db *DB) addKeys(ctx context.Context, tx *transaction, clientID string, keys []ClientKey) error {
	var have int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM client_keys WHERE client_id = $1`, clientID).Scan(&have); err != nil {
		return wrap("counting keys", err)
	}
	if have+len(keys) > MaxClientKeys {
		return ErrTooMany
	}
	ring, err := readRing(ctx, tx, "")
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoIssuer) {
		return err
	}
	for _, signs := range ring.Records() {
		for _, key := range keys {
			if signs.Key.ID() == key.ID {
				return ErrKeyTaken
			}
		}
	}
	for _, key := range keys {
		const insert = `INSERT INTO client_keys (kid, client_id, jwk, added_at) VALUES ($1, $2, $3, $4)`
		_, err := tx.ExecContext(ctx, insert, key.ID, clientID, key.JWK, toMillis(key.Added))
		if db.dialect.isDuplicate(err) {
			return ErrKeyTaken
		}
		if err != nil {
			return wrap("adding a key", err)
		}
	}
	return nil
}

// AddClientKey gives a client another key. Its errors are those of AddClient, and
// ErrTooMany where it has MaxClientKeys.
func (db *DB) AddClientKey(ctx context.Context, name string, key ClientKey) error {
	return db.changeNamed(ctx, kindClient, name, func(ctx context.Context, tx *transaction, c standing) error {
		if err := db.addKeys(ctx, tx, c.id, []ClientKey{key}); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventClientKeyAdded, at: key.Added, user: c.id})
	})
}

// RemoveClientKey takes a key from a client, and takes back all that the client was issued, for
// itself and for others: which key asked for which is not known. It returns ErrNotFound if there is no such client
// or it has no such key.
func (db *DB) RemoveClientKey(ctx context.Context, name, kid string, now time.Time) error {
	return db.cutOffClient(ctx, name, now, func(ctx context.Context, tx *transaction, c standing) error {
		switch n, err := affected(tx.ExecContext(ctx, `DELETE FROM client_keys WHERE kid = $1 AND client_id = $2`, kid, c.id)); {
		case err != nil:
			return wrap("removing a key", err)
		case n == 0:
			return ErrNotFound
		}
		if err := cutOff(ctx, tx, c, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventClientKeyRemoved, at: now, user: c.id})
	})
}

// DisableClient ends all that a client can do until EnableClient, and takes back all
// of its handoffs. It returns ErrNotFound if there is no client of the name; to disable
// one twice changes nothing, or ends what the first time has not.
func (db *DB) DisableClient(ctx context.Context, name string, now time.Time) error {
	return db.cutOffClient(ctx, name, now, func(ctx context.Context, tx *transaction, c standing) error {
		if c.disabled {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET disabled_at = $1 WHERE id = $2`, toMillis(now), c.id); err != nil {
			return wrap("disabling a client", err)
		}
		if err := cutOff(ctx, tx, c, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventClientDisabled, at: now, user: c.id})
	})
}

// cutOffClient is changeNamed for a change that cuts the client off. What it was issued
// for others is taken back behind it.
func (db *DB) cutOffClient(ctx context.Context, name string, now time.Time, do func(context.Context, *transaction, standing) error) error {
	var id string
	err := db.changeNamed(ctx, kindClient, name, func(ctx context.Context, tx *transaction, c standing) error {
		id = c.id
		return do(ctx, tx, c)
	})
	if err != nil {
		return err
	}
	return db.takeBackGrants(ctx, id, now)
}

// EnableClient lets a disabled client call again. What was taken back stays so. It
// returns ErrNotFound if there is no client of the name.
func (db *DB) EnableClient(ctx context.Context, name string, now time.Time) error {
	return db.enable(ctx, kindClient, eventClientEnabled, name, now)
}

// Clients returns every client, by name, each with its keys in the order in which they
// were added.
func (db *DB) Clients(ctx context.Context) (clients []Client, err error) {
	err = db.look(ctx, func(ctx context.Context, tx *transaction) error {
		users, err := usersOf(ctx, tx, kindClient)
		if err != nil {
			return err
		}
		for _, u := range users {
			keys, err := keysOf(ctx, tx, u.ID)
			if err != nil {
				return err
			}
			clients = append(clients, Client{User: u, Keys: keys})
		}
		return nil
	})
	return clients, err
}

func keysOf(ctx context.Context, tx *transaction, clientID string) (keys []ClientKey, err error) {
	const find = `SELECT kid, jwk, added_at FROM client_keys WHERE client_id = $1 ORDER BY added_at, kid`
	rows, err := tx.QueryContext(ctx, find, clientID)
	keys, err = serving.Rows(rows, err, func() (key ClientKey, err error) {
		var added int64
		err = rows.Scan(&key.ID, &key.JWK, &added)
		key.Added = fromMillis(added)
		return key, err
	})
	return keys, wrap("reading keys", err)
}

const selectClient = `SELECT client_keys.jwk, ` + userColumns + `
	FROM client_keys JOIN users ON users.id = client_keys.client_id
	WHERE client_keys.kid = $1 AND users.disabled_at IS NULL`

// ClientByKey returns the client that has the key with this id, and the key; or
// ErrNotFound if none has, or it is disabled.
func (db *DB) ClientByKey(ctx context.Context, kid string) (client User, key ClientKey, err error) {
	if db.wrong.Load() {
		return client, key, ErrClock
	}
	found, err := db.client(ctx, kid)
	found.key.ID = kid
	return found.client, found.key, err
}
