package server1

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/database"
)

// run adds a user. The password is never an argument: others on the machine
// could read it.
func (c *addCommand) run(ctx context.Context, std console) (err error) {
	if err := cmp.Or(checkNames("name", c.Name), checkNames("role", c.Role...)); err != nil {
		return err
	}
	password, err := std.newPassword(ctx, c.Name)
	if err != nil {
		return err
	}
	db, err := database.Open(ctx, c.Database)
	if err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	user, err := account.NewDirectory(db, account.NewHasher(), time.Now).Add(ctx, c.Name, c.Role, password)
	if errors.Is(err, database.ErrNameTaken) {
		return fmt.Errorf("a user or a client %q exists", c.Name)
	}
	return std.done(err, "added %s: id %s, roles %s\n", user.Name, user.ID, rolesOf(user))
}

// checkNames refuses a setting with what no user, client or role can be called.
func checkNames(setting string, names ...string) error {
	if slices.ContainsFunc(names, func(name string) bool { return !account.ValidName(name) }) {
		return wrong(setting, errors.New("must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-'"))
	}
	return nil
}

// newPassword asks for a password, twice, where standard input is a terminal,
// and otherwise takes its one line. It waits no longer than until ctx is done.
func (s console) newPassword(ctx context.Context, name string) (string, error) {
	if file, ok := s.stdin.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		first, err := s.ask(ctx, file, "Password of "+name+": ")
		if err == nil {
			err = account.CheckPassword(first)
		}
		if err != nil {
			return "", err
		}
		again, err := s.ask(ctx, file, "Again: ")
		if err != nil {
			return "", err
		}
		if first != again {
			return "", errors.New("the two passwords differ")
		}
		return first, nil
	}
	const lineEnd = 2
	line, err := until(ctx, func() ([]byte, error) {
		return io.ReadAll(io.LimitReader(s.stdin, account.MaxPassword+lineEnd+1))
	})
	if err != nil {
		return "", fmt.Errorf("reading the password from standard input: %w", err)
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if bytes.ContainsAny(line, "\r\n") {
		return "", errors.New("standard input has more than one line: it takes the password alone")
	}
	return string(line), account.CheckPassword(string(line))
}

func (s console) ask(ctx context.Context, terminal *os.File, prompt string) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(s.stderr, prompt)
	answer, err := until(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil { // then nobody else has it show again what is typed
		err = errors.Join(err, term.Restore(fd, before))
	}
	fmt.Fprintln(s.stderr)
	return string(answer), err
}

// until reads, and waits for that until ctx is done. A read from a terminal or a pipe ends
// with nothing else, and so is left behind, by a program that is about to end.
func until(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	interrupted := errors.New("interrupted")
	if ctx.Err() != nil {
		return nil, interrupted
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, interrupted
	}
}

// with opens the database, which must be there, for as long as do needs it.
func (e existing) with(ctx context.Context, do func(*database.DB) error) (err error) {
	db, err := database.OpenExisting(ctx, e.Database)
	if err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(db)
}

// change makes a change of a user or a client, who must be there.
func (e existing) change(ctx context.Context, who, name string, do func(*database.DB) error) error {
	err := e.with(ctx, do)
	if errors.Is(err, database.ErrNotFound) {
		return fmt.Errorf("there is no %s %q", who, name)
	}
	return err
}

// withPublished is with, for a database from which a trust list has been published.
// Without one, otherwise says what would come of it.
func (e existing) withPublished(ctx context.Context, otherwise string, do func(*database.DB) error) error {
	return e.with(ctx, func(db *database.DB) error {
		published, err := db.HasPublished(ctx)
		if err != nil {
			return err
		}
		if !published {
			return fmt.Errorf("no server has published a trust list from this database (serve --trust-key): %s", otherwise)
		}
		return do(db)
	})
}

// run disables a user. A running server notices within a moment.
func (c *disableCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "user", c.Name, func(db *database.DB) error {
		err := std.done(db.DisableUser(ctx, c.Name, time.Now()), "disabled %s: every session has ended\n", c.Name)
		return unpublished(ctx, std, db, err)
	})
}

// run lets a disabled user sign in again.
func (c *enableCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "user", c.Name, func(db *database.DB) error {
		return std.done(db.EnableUser(ctx, c.Name, time.Now()), "enabled %s: the user can sign in\n", c.Name)
	})
}

// run gives a user another password. A user who forgot the old one has no session to
// change it with.
func (c *passwordCommand) run(ctx context.Context, std console) error {
	return c.change(ctx, "user", c.Name, func(db *database.DB) error {
		if _, err := db.UserByName(ctx, c.Name); err != nil { // before anything is asked
			return err
		}
		password, err := std.newPassword(ctx, c.Name)
		if err != nil {
			return err
		}
		err = account.NewDirectory(db, account.NewHasher(), time.Now).SetPassword(ctx, c.Name, password)
		return unpublished(ctx, std, db, std.done(err, "changed the password of %s: every session has ended\n", c.Name))
	})
}

// run changes a user's roles.
func (c *roleCommand) run(ctx context.Context, std console) error {
	if len(c.Add) == 0 && len(c.Remove) == 0 {
		return wrong("", errors.New("--add or --remove is required"))
	}
	if err := cmp.Or(checkNames("add", c.Add...), checkNames("remove", c.Remove...)); err != nil {
		return err
	}
	for _, role := range c.Remove {
		if slices.Contains(c.Add, role) {
			return wrong("remove", fmt.Errorf("has %s, which --add has as well", role))
		}
	}
	return c.change(ctx, "user", c.Name, func(db *database.DB) error {
		roles, err := db.ChangeRoles(ctx, c.Name, c.Add, c.Remove, time.Now())
		err = std.done(err, "%s has the roles %s\n", c.Name, rolesOf(database.User{Roles: roles}))
		if len(c.Remove) == 0 {
			return err
		}
		return unpublished(ctx, std, db, err)
	})
}

// done says what was done, unless that failed.
func (s console) done(err error, format string, args ...any) error {
	if err == nil {
		fmt.Fprintf(s.stdout, format, args...)
	}
	return err
}

// unpublished says so where nobody learns of what has been taken back, unless that failed.
func unpublished(ctx context.Context, std console, db *database.DB, err error) error {
	if err != nil {
		return err
	}
	published, err := db.HasPublished(ctx)
	if err == nil && !published {
		fmt.Fprintln(std.stdout, "no trust list is published: handoffs live until they expire")
	}
	return err
}

// run lists the users, by name.
func (c *listCommand) run(ctx context.Context, std console) error {
	return c.with(ctx, func(db *database.DB) error {
		users, err := db.Users(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(std.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "NAME\tID\tROLES\tADDED\tSTATE")
		for _, user := range users {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", user.Name, user.ID, rolesOf(user), user.Created.Format(time.DateOnly), stateOf(user))
		}
		return table.Flush()
	})
}

func stateOf(user database.User) string {
	if user.Disabled.IsZero() {
		return "active"
	}
	return "disabled"
}

func rolesOf(user database.User) string {
	if len(user.Roles) == 0 {
		return "none"
	}
	return strings.Join(user.Roles, ",")
}
