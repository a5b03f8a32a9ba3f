// Package upkeep does what a running SERVER1 owes its database: it notices what
// other processes have changed, and tells the publisher of the trust list and the
// signing keys; it has the keys take the steps that are due; it says by which
// terms this process issues; and it removes what no longer matters.
//
//	go upkeep.Run(ctx, upkeep.Config{DB: db, Terms: terms, Keys: keys, Changed: publisher.Changed, …})
//	go upkeep.NewSweeper(upkeep.SweeperConfig{DB: db, Retention: retention, …}).Run(ctx)
package upkeep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/signing"
	"github.com/handoff-auth/handoff/shared/trust"
)

// Config says what is to be kept up.
type Config struct {
	// DB is the database. Required.
	DB *database.DB
	// Terms are those by which this process issues. Required.
	Terms trust.Terms
	// Keys are the signing keys that change. Nil: there are none.
	Keys *signing.Keys
	// Changed is called when what the trust list states has changed. Nil: nobody
	// publishes it.
	Changed func()
	// Log is told what fails, once until it succeeds. Required.
	Log *slog.Logger
	// Now is the clock. Required.
	Now func() time.Time
}

// look is how often the database is asked whether another process has changed
// something: with the time to sign and send it, well within a second.
const look = 100 * time.Millisecond

// Run keeps up until ctx ends.
func Run(ctx context.Context, config Config) {
	u := &upkeep{Config: config}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		u.note(ctx, u.round(ctx))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-config.DB.Changed():
		}
	}
}

type upkeep struct {
	Config
	changes   int64
	following bool // changes is known
	kept      time.Time
	failing   bool
}

func (u *upkeep) round(ctx context.Context) error {
	if err := u.follow(ctx); err != nil {
		return err
	}
	if u.Keys == nil {
		return u.keep(ctx)
	}
	// The rest is owed where no step can be taken, too.
	return errors.Join(u.Keys.Step(ctx), u.keep(ctx))
}

// keep says by which terms this process issues, where it is time.
func (u *upkeep) keep(ctx context.Context) error {
	now := u.Now()
	if now.Sub(u.kept) >= database.TermsInterval {
		if err := u.DB.KeepTerms(ctx, u.Terms, now); err != nil {
			return err
		}
		u.kept = now
	}
	return nil
}

// follow takes up what has changed.
func (u *upkeep) follow(ctx context.Context) error {
	at := u.Now()
	changes, err := u.DB.Changes(ctx)
	if err != nil {
		return err
	}
	same := u.following && changes == u.changes
	switch {
	case u.Keys == nil:
	case same && u.Keys.Ready(ctx) == nil:
		u.Keys.Confirm(at)
	default: // or a private key is missing, and may have come
		if err := u.Keys.Refresh(ctx); err != nil {
			return err
		}
	}
	if same {
		return nil
	}
	if u.Changed != nil {
		u.Changed()
	}
	u.changes, u.following = changes, true
	return nil
}

func (u *upkeep) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !u.failing:
		u.failing = true
		u.Log.Warn("upkeep fails", "cause", err.Error())
	case err == nil && u.failing:
		u.failing = false
		u.Log.Info("upkeep succeeds again")
	}
}
