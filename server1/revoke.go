package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
)

// run takes handoffs back. It succeeds when that is on disk; a running server
// publishes it within a moment.
func (c *revokeCommand) run(ctx context.Context, std console) (err error) {
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	published, err := db.HasPublished(ctx)
	if err != nil {
		return err
	}
	if !published {
		return errors.New("no server has published a trust list from this database (serve --trust-key): nothing can be taken back")
	}
	now := time.Now()
	what := ""
	switch {
	case c.Handoff != "":
		what, err = "handoff "+c.Handoff, db.RevokeHandoff(ctx, "", c.Handoff, now)
	case c.Session != "":
		what, err = "session "+c.Session, db.RevokeSession(ctx, c.Session, now)
	default:
		what, err = "subject "+c.Subject, db.CutOffUser(ctx, c.Subject, now)
	}
	if errors.Is(err, database.ErrNotFound) {
		return fmt.Errorf("there is no %s whose handoffs could be taken back", what)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(std.stdout, "taken back:", what)
	return nil
}
