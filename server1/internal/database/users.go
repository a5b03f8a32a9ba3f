package database

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// User is somebody who can sign in.
type User struct {
	ID           string   // 128 random bits in base64url: never another user's
	Name         string   // what the user signs in with; unique
	PasswordHash string   // a PHC string
	Roles        []string // in order
	Created      time.Time
	Disabled     time.Time // zero: not disabled
	CutOff       time.Time // handoffs with an iat up to this are taken back, a whole second; zero: none
}

const userColumns = `users.id, users.name, users.password_hash, users.roles, users.created_at, users.disabled_at, users.cut_off_at`

// AddUser adds a user, or returns ErrNameTaken: clients have their names among them.
func (db *DB) AddUser(ctx context.Context, u User) error {
	return db.changeFirst(ctx, func(ctx context.Context, tx *transaction) error {
		const insert = `INSERT INTO users (id, name, password_hash, roles, created_at) VALUES ($1, $2, $3, $4, $5)`
		_, err := tx.ExecContext(ctx, insert, u.ID, u.Name, u.PasswordHash, strings.Join(u.Roles, " "), toMillis(u.Created))
		if db.dialect.isDuplicate(err) {
			return ErrNameTaken
		}
		if err != nil {
			return wrap("adding a user", err)
		}
		return record(ctx, tx, event{kind: eventUserAdded, at: u.Created, user: u.ID})
	})
}

// UserByName returns a user who can have sessions, disabled or not, or ErrNotFound.
func (db *DB) UserByName(ctx context.Context, name string) (User, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	u, err := scanUser(db.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE name = $1 AND kind = $2`, name, kindUser))
	return u, wrap("reading a user", err)
}

// Users returns every user who can have sessions, by name.
func (db *DB) Users(ctx context.Context) ([]User, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return usersOf(ctx, db.read, kindUser)
}

// usersOf returns the users of a kind, by name.
func usersOf(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, kind string,
) (users []User, err error) {
	rows, err := q.QueryContext(ctx, `SELECT `+userColumns+` FROM users WHERE kind = $1 ORDER BY name`, kind)
	users, err = serving.Rows(rows, err, func() (User, error) { return scanUser(rows) })
	return users, wrap("reading users", err)
}

// standing is what a change must know of a user. It stands until the change ends.
type standing struct {
	id, passwordHash string
	kind             string
	disabled         bool
	latestIssue      time.Time // the latest iat of the user's handoffs
	handoffsExpire   time.Time // their latest exp
}

// lockUser returns the standing of the user whose id or name, as column says, has
// the value, and holds it: all that starts or ends sessions or takes handoffs
// back does this first.
func (db *DB) lockUser(ctx context.Context, tx *transaction, column, value string) (u standing, err error) {
	query := `SELECT id, password_hash, kind, disabled_at IS NOT NULL, issued_at, handoffs_expire_at FROM users WHERE ` + column + ` = $1` + db.dialect.hold
	var issued, expire int64
	err = tx.QueryRowContext(ctx, query, value).Scan(&u.id, &u.passwordHash, &u.kind, &u.disabled, &issued, &expire)
	u.latestIssue, u.handoffsExpire = fromMillis(issued), fromMillis(expire)
	return u, wrap("reading a user", err)
}

// changeNamed changes a user who has a name, is of a kind, as a client is no user, and is
// held. It returns ErrNotFound if there is none, and signals a change of the trust list.
func (db *DB) changeNamed(ctx context.Context, kind, name string, do func(context.Context, *transaction, standing) error) error {
	return db.changeList(ctx, func(ctx context.Context, tx *transaction) error {
		u, err := db.lockUser(ctx, tx, "name", name)
		switch {
		case err != nil:
			return err
		case u.kind != kind:
			return ErrNotFound
		}
		return do(ctx, tx, u)
	})
}

// DisableUser ends all that a user can do, until EnableUser, and takes back all handoffs.
// It returns ErrNotFound if there is no user of the name; to disable one twice
// changes nothing.
func (db *DB) DisableUser(ctx context.Context, name string, now time.Time) error {
	return db.changeNamed(ctx, kindUser, name, func(ctx context.Context, tx *transaction, u standing) error {
		if u.disabled {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET disabled_at = $1 WHERE id = $2`, toMillis(now), u.id); err != nil {
			return wrap("disabling a user", err)
		}
		if err := db.endSessionsOf(ctx, tx, u, "", now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventUserDisabled, at: now, user: u.id})
	})
}

// EnableUser lets a disabled user sign in again. Sessions that have ended stay so, and
// handoffs that were taken back as well. It returns ErrNotFound if there is no user of
// the name; to enable one twice changes nothing.
func (db *DB) EnableUser(ctx context.Context, name string, now time.Time) error {
	return db.enable(ctx, kindUser, eventUserEnabled, name, now)
}

func (db *DB) enable(ctx context.Context, kind, enabled, name string, now time.Time) error {
	return db.changeNamed(ctx, kind, name, func(ctx context.Context, tx *transaction, u standing) error {
		if !u.disabled {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET disabled_at = NULL WHERE id = $1`, u.id); err != nil {
			return wrap("enabling a "+kind, err)
		}
		return record(ctx, tx, event{kind: enabled, at: now, user: u.id})
	})
}

// SetPassword gives a user another password, ends all sessions of the user, and takes
// back all handoffs. It returns ErrNotFound if there is no user of the name.
func (db *DB) SetPassword(ctx context.Context, name, passwordHash string, now time.Time) error {
	return db.changeNamed(ctx, kindUser, name, func(ctx context.Context, tx *transaction, u standing) error {
		if _, err := tx.ExecContext(ctx, `UPDATE users SET password_hash = $1 WHERE id = $2`, passwordHash, u.id); err != nil {
			return wrap("setting a password", err)
		}
		if err := db.endSessionsOf(ctx, tx, u, "", now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventPasswordChanged, at: now, user: u.id})
	})
}

// ChangeRoles gives a user some roles and takes others, and returns those that the user
// then has, in order. Sessions go on, with these roles; where one is taken, all handoffs
// of the user are taken back. It returns ErrNotFound if there is no user of the name.
func (db *DB) ChangeRoles(ctx context.Context, name string, add, remove []string, now time.Time) (roles []string, err error) {
	err = db.changeNamed(ctx, kindUser, name, func(ctx context.Context, tx *transaction, u standing) error {
		var text string
		if err := tx.QueryRowContext(ctx, `SELECT roles FROM users WHERE id = $1`, u.id).Scan(&text); err != nil {
			return wrap("reading roles", err)
		}
		before := strings.Fields(text)
		kept := slices.DeleteFunc(slices.Clone(before), func(role string) bool { return slices.Contains(remove, role) })
		roles = slices.Compact(slices.Sorted(slices.Values(slices.Concat(kept, add))))
		if slices.Equal(roles, before) {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET roles = $1 WHERE id = $2`, strings.Join(roles, " "), u.id); err != nil {
			return wrap("changing roles", err)
		}
		if len(kept) < len(before) {
			if err := cutOff(ctx, tx, u, now); err != nil {
				return err
			}
		}
		return record(ctx, tx, event{kind: eventRolesChanged, at: now, user: u.id})
	})
	return roles, err
}

// ChangePassword gives the session's user another password, ends all other
// sessions of the user, and takes back all handoffs. It returns ErrNotFound if
// the session is over, or the password is no longer the one that s.User says.
func (db *DB) ChangePassword(ctx context.Context, s Session, passwordHash string, now time.Time) error {
	return db.changeAs(ctx, s, now, func(ctx context.Context, tx *transaction, u standing) error {
		if u.passwordHash != s.User.PasswordHash {
			return ErrNotFound
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET password_hash = $1 WHERE id = $2`, passwordHash, u.id); err != nil {
			return wrap("changing a password", err)
		}
		if err := db.endSessionsOf(ctx, tx, u, s.IDSHA256, now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventPasswordChanged, at: now, user: u.id, session: s.HandoffID})
	})
}

// scanUser reads userColumns, after the columns that before takes.
func scanUser(row interface{ Scan(...any) error }, before ...any) (User, error) {
	var (
		u        User
		roles    string
		created  int64
		disabled sql.NullInt64
		cutOff   int64
	)
	err := row.Scan(append(before, &u.ID, &u.Name, &u.PasswordHash, &roles, &created, &disabled, &cutOff)...)
	u.Roles, u.Created, u.Disabled, u.CutOff = strings.Fields(roles), fromMillis(created), fromNull(disabled), fromMillis(cutOff)
	return u, err
}
