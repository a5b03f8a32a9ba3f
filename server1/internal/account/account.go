// Package account knows SERVER1's users: their names, their roles and their
// passwords.
//
//	users := account.NewDirectory(db, time.Now)
//	user, err := users.Add(ctx, "alice", []string{"payer"}, password)
//	user, err := users.Authenticate(ctx, network, "alice", password)
//
// # Invariants
//
// Authenticate does the same work, one argon2id hash, whether the user exists
// or not, is disabled or not, and has one answer for all that is wrong. A user's
// id is random and never another user's, even if the name is.
//
// # What it does not do
//
// It does not limit attempts: that is package session's, which knows where they
// come from. Errors and logs never contain a password or a hash of one.
package account

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// DeniedError is the one answer for an unknown user, a wrong password and a
// disabled user.
type DeniedError struct {
	// UserID is that of the user with the name, empty if there is none. It is for
	// the log alone.
	UserID string
}

// Error returns a text that is the same for all.
func (*DeniedError) Error() string { return "no such user with this password" }

// Bounds of a password, in bytes. NIST SP 800-63B section 5.1.1.1 asks for at
// least 8 where a person chooses it.
const (
	MinPassword = 8
	MaxPassword = 256
)

// Directory is the users in the database. It is safe for concurrent use.
type Directory struct {
	db     *database.DB
	hasher *Hasher
	now    func() time.Time
}

// NewDirectory returns the directory of the users in db.
func NewDirectory(db *database.DB, hasher *Hasher, now func() time.Time) *Directory {
	return &Directory{db: db, hasher: hasher, now: now}
}

// ValidName reports whether name can be a user's or a role's: 1 to 64 characters
// of a-z, 0-9, ".", "_" and "-".
func ValidName(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Add adds a user. It returns database.ErrNameTaken if there is one of the name.
func (d *Directory) Add(ctx context.Context, name string, roles []string, password string) (database.User, error) {
	for _, part := range append([]string{name}, roles...) {
		if !ValidName(part) {
			return database.User{}, fmt.Errorf("%q is not 1 to 64 characters of a-z, 0-9, '.', '_' and '-'", part)
		}
	}
	hash, err := d.hash(ctx, password)
	if err != nil {
		return database.User{}, err
	}
	u := database.User{
		ID: handoff.NewID(), Name: name, PasswordHash: hash,
		Roles: slices.Compact(slices.Sorted(slices.Values(roles))), Created: d.now().UTC().Truncate(time.Millisecond),
	}
	return u, d.db.AddUser(ctx, u)
}

// SetPassword gives a user another password without knowing the old one, as an operator
// does, ends the user's sessions and takes the handoffs back. It returns
// database.ErrNotFound if there is no user of the name.
func (d *Directory) SetPassword(ctx context.Context, name, password string) error {
	hash, err := d.hash(ctx, password)
	if err != nil {
		return err
	}
	return d.db.SetPassword(ctx, name, hash, d.now())
}

func (d *Directory) hash(ctx context.Context, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	return d.hasher.Hash(ctx, password)
}

// CheckPassword refuses a new password that is too short, too long, or no text.
func CheckPassword(password string) error {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return fmt.Errorf("a password has %d to %d bytes", MinPassword, MaxPassword)
	}
	if !utf8.ValidString(password) || strings.HasPrefix(password, "\ufeff") || strings.Contains(password, "\x00") {
		return errors.New("a password is text in UTF-8, without a byte order mark: this one could be typed nowhere")
	}
	return nil
}

// Authenticate returns the user with this name and password, for somebody of a network,
// which has a share of the queue. Its errors are a *DeniedError, ErrBusy, and those of
// a database that does not answer.
func (d *Directory) Authenticate(ctx context.Context, network, name, password string) (database.User, error) {
	u, err := d.db.UserByName(ctx, name)
	if err != nil && !errors.Is(err, database.ErrNotFound) {
		return database.User{}, err
	}
	matches, err := d.hasher.matches(ctx, u.PasswordHash, password, d.hasher.strangers(network))
	if err != nil {
		return database.User{}, err
	}
	if !matches || !u.Disabled.IsZero() {
		return database.User{}, &DeniedError{UserID: u.ID}
	}
	return u, nil
}

// ChangePassword returns the hash of a new password for a user who has the old
// one. Its errors are those of Authenticate.
func (d *Directory) ChangePassword(ctx context.Context, u database.User, old, next string) (hash string, err error) {
	matches, err := d.hasher.matches(ctx, u.PasswordHash, old, d.hasher.known)
	if err != nil {
		return "", err
	}
	if !matches {
		return "", &DeniedError{UserID: u.ID}
	}
	return d.hash(ctx, next)
}
