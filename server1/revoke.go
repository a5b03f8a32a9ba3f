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
	if c.Handoff == nil && c.Session == nil && c.Subject == nil {
		return wrong("", errors.New("one of --handoff, --session and --subject is required"))
	}
	return c.withPublished(ctx, "nothing can be taken back", func(db *database.DB) error {
		for _, what := range []struct {
			kind   string
			ids    []string
			revoke func(ctx context.Context, id string, now time.Time) error
		}{
			{"handoff", c.Handoff, func(ctx context.Context, id string, now time.Time) error { return db.RevokeHandoff(ctx, "", id, now) }},
			{"session", c.Session, db.RevokeSession},
			{"subject", c.Subject, db.CutOffUser},
		} {
			for _, id := range what.ids {
				err := what.revoke(ctx, id, time.Now())
				if errors.Is(err, database.ErrNotFound) {
					err = fmt.Errorf("there is no such %s: %s", what.kind, id)
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(std.stdout, "taken back: %s %s\n", what.kind, id)
			}
		}
		if c.Handoff == nil {
			fmt.Fprintln(std.stdout, "this is what this server has issued: what its key has signed elsewhere is taken back for certain only by tainting the key (keys taint)")
		}
		return nil
	})
}
