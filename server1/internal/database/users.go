package database

import (
	"context"
	"database/sql"
	"strings"
	"time"
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

// AddUser adds a user, or returns ErrNameTaken.
func (db *DB) AddUser(ctx context.Context, u User) error {
	return db.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
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

// UserByName returns a user, disabled or not, or ErrNotFound.
func (db *DB) UserByName(ctx context.Context, name string) (User, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	u, err := scanUser(db.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE name = $1`, name))
	return u, wrap("reading a user", err)
}

// Users returns every user, by name.
func (db *DB) Users(ctx context.Context) ([]User, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rows, err := db.read.QueryContext(ctx, `SELECT `+userColumns+` FROM users ORDER BY name`)
	if err != nil {
		return nil, wrap("reading users", err)
	}
	defer rows.Close()
	var users []User
	for rows.Next() {
		u, err := scanUser(rows)
		if err != nil {
			return nil, wrap("reading users", err)
		}
		users = append(users, u)
	}
	return users, wrap("reading users", rows.Err())
}

// standing is what a change must know of a user. It stands until the change ends.
type standing struct {
	id, passwordHash string
	disabled         bool
	latestIssue      time.Time // the latest iat of the user's handoffs
	handoffsExpire   time.Time // their latest exp
	clock            time.Time // the database's own; zero: it is this machine's
}

// lockUser returns the standing of the user whose id or name, as column says, has
// the value, and holds it: whatever starts or ends sessions or takes handoffs
// back does this first.
func (db *DB) lockUser(ctx context.Context, tx *sql.Tx, column, value string) (u standing, err error) {
	query := `SELECT id, password_hash, disabled_at IS NOT NULL, issued_at, handoffs_expire_at, ` + db.dialect.clock +
		` FROM users WHERE ` + column + ` = $1` + db.dialect.hold
	var issued, expire, clock int64
	err = tx.QueryRowContext(ctx, query, value).Scan(&u.id, &u.passwordHash, &u.disabled, &issued, &expire, &clock)
	u.latestIssue, u.handoffsExpire, u.clock = fromMillis(issued), fromMillis(expire), fromMillis(clock)
	return u, wrap("reading a user", err)
}

// DisableUser ends all that a user can do, for good, and takes back all handoffs.
// It returns ErrNotFound if there is no user of the name; to disable one twice
// changes nothing.
func (db *DB) DisableUser(ctx context.Context, name string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, err := db.lockUser(ctx, tx, "name", name)
		if err != nil || u.disabled {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET disabled_at = $1 WHERE id = $2`, toMillis(now), u.id); err != nil {
			return wrap("disabling a user", err)
		}
		if err := endSessionsOf(ctx, tx, u, "", now); err != nil {
			return err
		}
		return record(ctx, tx, event{kind: eventUserDisabled, at: now, user: u.id})
	})
}

// ChangePassword gives the session's user another password, ends all other
// sessions of the user, and takes back all handoffs. It returns ErrNotFound if
// the session is over, or the password is no longer the one that s.User says.
func (db *DB) ChangePassword(ctx context.Context, s Session, passwordHash string, now time.Time) error {
	return db.changeList(ctx, func(ctx context.Context, tx *sql.Tx) error {
		u, err := db.lockUser(ctx, tx, "id", s.User.ID)
		if err != nil {
			return err
		}
		if u.passwordHash != s.User.PasswordHash {
			return ErrNotFound
		}
		if err := stillLive(ctx, tx, s, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET password_hash = $1 WHERE id = $2`, passwordHash, u.id); err != nil {
			return wrap("changing a password", err)
		}
		if err := endSessionsOf(ctx, tx, u, s.IDSHA256, now); err != nil {
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
