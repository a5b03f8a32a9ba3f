package server1

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
)

// run takes handoffs back. It succeeds when that is on disk; a running server
// publishes it within a moment.
func (c *revokeCommand) run(ctx context.Context, std console) error {
	if c.Handoff == "" && c.Session == "" && c.Subject == "" {
		return wrong("", errors.New("one of --handoff, --session and --subject is required"))
	}
	return c.withPublished(ctx, "nothing can be taken back", func(db *database.DB) (err error) {
		now := time.Now()
		var kind, id string
		switch {
		case c.Handoff != "":
			kind, id, err = "handoff", c.Handoff, db.RevokeHandoff(ctx, "", c.Handoff, now)
		case c.Session != "":
			kind, id, err = "session", c.Session, db.RevokeSession(ctx, c.Session, now)
		default:
			kind, id, err = "subject", c.Subject, db.CutOffUser(ctx, c.Subject, now)
		}
		if errors.Is(err, database.ErrNotFound) {
			return fmt.Errorf("there is no such %s: %s", kind, id)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(std.stdout, "taken back: %s %s\n", kind, id)
		if kind != "handoff" {
			fmt.Fprintln(std.stdout, "this is what this server has issued: what its key has signed elsewhere is taken back for certain only by tainting the key (keys taint)")
		}
		return nil
	})
}
