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
}

const userColumns = `users.id, users.name, users.password_hash, users.roles, users.created_at, users.disabled_at`

// AddUser adds a user, or returns ErrNameTaken.
func (db *DB) AddUser(ctx context.Context, u User) error {
	return db.writer.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		const insert = `INSERT INTO users (id, name, password_hash, roles, created_at) VALUES ($1, $2, $3, $4, $5)`
		_, err := tx.ExecContext(ctx, insert, u.ID, u.Name, u.PasswordHash, strings.Join(u.Roles, " "), toMillis(u.Created))
		if isDuplicate(err) {
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

// scanUser reads userColumns, after the columns that before takes.
func scanUser(row interface{ Scan(...any) error }, before ...any) (User, error) {
	var (
		u        User
		roles    string
		created  int64
		disabled sql.NullInt64
	)
	err := row.Scan(append(before, &u.ID, &u.Name, &u.PasswordHash, &roles, &created, &disabled)...)
	u.Roles, u.Created, u.Disabled = strings.Fields(roles), fromMillis(created), fromNull(disabled)
	return u, err
}
