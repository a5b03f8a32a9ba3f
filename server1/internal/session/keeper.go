// Package session is SERVER1's sign-in: an ordinary server-side session behind
// an opaque random id, in a table.
//
//	keeper, err := session.NewKeeper(session.KeeperConfig{DB: db, Idle: 30 * time.Minute, Lifetime: 12 * time.Hour, …})
//	guard := session.NewGuard(keeper, "/grpc.health.v1.Health/")
//	s := grpc.NewServer(grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
//	current, ok := session.FromContext(ctx) // in a handler
//
// # Invariants
//
// Every method needs a live session but those that NewGuard is told. A session
// id has 256 random bits, is new at each sign-in, and is kept nowhere: the
// database has its SHA-256, by which it is looked up, so that no comparison
// takes longer the closer a guess is. No log or error contains one. A user has
// database.MaxSessions at most: a new one ends the one that has not been used
// for the longest time.
//
// # What it does not do
//
// A session is never a JWT and never leaves SERVER1: what a user does elsewhere
// takes a handoff.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// KeeperConfig says how long sessions live.
type KeeperConfig struct {
	// DB has the sessions. Required.
	DB *database.DB
	// Idle is how long a session lives without being used. From 1 s to Lifetime.
	Idle time.Duration
	// Lifetime is how long a session lives, however much it is used.
	Lifetime time.Duration
	// Log is told of what a caller is not. Required.
	Log *slog.Logger
	// Now is the clock. Required.
	Now func() time.Time
}

// Keeper starts, finds and ends sessions. It is safe for concurrent use.
type Keeper struct {
	config KeeperConfig
}

// NewKeeper returns a keeper, or an error that names the field of config that it
// refuses.
func NewKeeper(config KeeperConfig) (*Keeper, error) {
	switch {
	case config.DB == nil:
		return nil, &handoff.ConfigError{Field: "session.KeeperConfig.DB", Problem: "is required"}
	case config.Log == nil:
		return nil, &handoff.ConfigError{Field: "session.KeeperConfig.Log", Problem: "is required"}
	case config.Now == nil:
		return nil, &handoff.ConfigError{Field: "session.KeeperConfig.Now", Problem: "is required"}
	case config.Idle < time.Second || config.Idle > config.Lifetime:
		return nil, &handoff.ConfigError{Field: "session.KeeperConfig.Idle", Problem: "must be from 1s to KeeperConfig.Lifetime"}
	}
	return &Keeper{config: config}, nil
}

// digest returns what the database knows of an id.
func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// start begins a session for a user who has just proved who they are.
func (k *Keeper) start(ctx context.Context, u database.User) (id string, s database.Session, err error) {
	var bits [32]byte
	rand.Read(bits[:]) // never fails: it crashes the program instead
	id = base64.RawURLEncoding.EncodeToString(bits[:])
	now := k.now()
	s = database.Session{
		IDSHA256: digest(id), HandoffID: handoff.NewID(), User: u,
		Created: now, IdleExpires: now.Add(k.config.Idle), Expires: now.Add(k.config.Lifetime),
	}
	return id, s, k.config.DB.StartSession(ctx, s)
}

// live returns the session with this id, and counts as its use. Anything that is
// not the id of a live session is refused alike, after the same work.
func (k *Keeper) live(ctx context.Context, id string) (database.Session, error) {
	now := k.now()
	s, err := k.config.DB.LiveSession(ctx, digest(id), now)
	if err != nil {
		return s, worded(err)
	}
	until := now.Add(k.config.Idle)
	if until.After(s.Expires) {
		until = s.Expires
	}
	if until.Sub(s.IdleExpires) < k.grain() {
		return s, nil
	}
	if err := k.config.DB.KeepSession(ctx, s, now, until); err != nil {
		// The session lives; that it will end earlier is the strict side.
		k.config.Log.WarnContext(ctx, "a session's idle expiry could not be moved", "user", s.User.ID, "cause", err.Error())
		return s, nil
	}
	s.IdleExpires = until
	return s, nil
}

// grain is how exactly the last use of a session is kept: reads write once a
// minute at most.
func (k *Keeper) grain() time.Duration { return min(time.Minute, k.config.Idle/10) }

// worded is the answer to what the database says of a live session.
func worded(err error) error {
	switch {
	case errors.Is(err, database.ErrNotFound):
		return answer.Refused(handoff.ReasonSessionInvalid, err)
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// now is the clock in the database's unit.
func (k *Keeper) now() time.Time { return k.config.Now().UTC().Truncate(time.Millisecond) }

func unavailable(cause error) error {
	return answer.Worded(handoff.ReasonIssuerUnavailable, "the sessions are out of reach", cause)
}
