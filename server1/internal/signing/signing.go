// Package signing is SERVER1's signing keys: which one signs now, and how they
// change.
//
//	keys, err := signing.New(ctx, signing.Config{DB: db, Folder: folder, Terms: terms, Every: 24 * time.Hour, …})
//	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: …, Key: keys})
//	err = keys.Refresh(ctx) // when the database has changed
//	err = keys.Step(ctx)    // now and then
//
// The steps themselves are rotation.Steps.
//
// # Where they lie
//
// The ring, which says which key is in which state, is in the database, so that
// the processes of one issuer share it; it has only public halves. A private key
// is a file in a folder, named by the key's id, that only its owner can read, and
// never in the database, which is copied and backed up by others. Several
// processes share the folder, too: each must be able to read every key, and is
// not ready while it cannot read one that signs or soon will.
//
// # Invariants
//
// What signs is the ring's signing key, by a look at the ring that is no older
// than the terms' Lag; otherwise nothing does. A private key is on disk before the
// ring names it, and is removed when it will not sign again. No log or error
// contains one.
package signing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// Config says which keys there are.
type Config struct {
	// DB has the ring. Required; KeepTerms has been called.
	DB *database.DB
	// First is a key beside the folder: the first that signs, where the ring has
	// none. Without a folder it is the only one. Required unless there is a folder.
	First *signkey.Key
	// Folder has the other keys. Empty: there are none, and no step is taken.
	Folder signkey.Folder
	// Terms are the issuer's. Required.
	Terms trust.Terms
	// Every is how often the signing key changes. Zero: when an operator says so.
	Every time.Duration
	// Log is told of the steps that are taken. Required.
	Log *slog.Logger
	// Now is the clock. Required.
	Now func() time.Time
}

// Keys is the signing keys, a handoff.SignerSource. It is safe for concurrent use.
type Keys struct {
	config Config
	steps  rotation.Steps

	mu      sync.Mutex
	ring    rotation.Ring
	private map[string]*signkey.Key // those that sign, or soon will
	missing error                   // what of them cannot be loaded
	seen    time.Time               // when the ring was last known to be this one
	retry   time.Time               // no step before
	failed  error                   // of the last one, until then
	unable  string                  // what keeps the step from being taken, of which the log knows
}

// New returns the keys. Where the ring has none, the first is made or, if given,
// taken in. It is an error if the key that is to sign is not there.
func New(ctx context.Context, config Config) (*Keys, error) {
	switch {
	case config.DB == nil:
		return nil, &handoff.ConfigError{Field: "signing.Config.DB", Problem: "is required"}
	case config.First == nil && config.Folder == "":
		return nil, &handoff.ConfigError{Field: "signing.Config.First", Problem: "is required, unless there is a Folder"}
	case config.Terms.Issuer == "" || config.Terms.Lag() <= 0:
		return nil, &handoff.ConfigError{Field: "signing.Config.Terms", Problem: "is required"}
	case config.Every != 0 && config.Folder == "":
		return nil, &handoff.ConfigError{Field: "signing.Config.Every", Problem: "needs a Folder"}
	case config.Log == nil:
		return nil, &handoff.ConfigError{Field: "signing.Config.Log", Problem: "is required"}
	case config.Now == nil:
		return nil, &handoff.ConfigError{Field: "signing.Config.Now", Problem: "is required"}
	}
	k := &Keys{
		config: config, steps: rotation.Steps{Store: config.DB, Folder: config.Folder, First: config.First, Now: config.Now},
		private: map[string]*signkey.Key{},
	}
	if err := k.steps.Begin(ctx); err != nil {
		return nil, err
	}
	if err := k.Refresh(ctx); err != nil {
		return nil, err
	}
	if _, err := k.Signer(ctx); err != nil {
		return nil, k.wayOut(err)
	}
	return k, nil
}

// wayOut says how a key that is to sign and cannot be loaded is made up for.
func (k *Keys) wayOut(err error) error {
	kid, ok := k.ring.Signing()
	switch {
	case !ok:
		return err
	case k.config.Folder == "":
		return fmt.Errorf("the key that signs is %s, not the one given: give that one; only in a folder of keys (--key-dir) do keys change", kid)
	}
	if _, why := k.steps.Load(kid); why != nil && !errors.Is(why, fs.ErrNotExist) { // what is there is not lost
		return fmt.Errorf("%w: it is the key that signs", why)
	}
	return fmt.Errorf("%w: it is the key that signs: name the folder that has it or put it there; "+
		"where it is lost for good, \"handoff-server1 keys prepare --lost=%s\" and then \"handoff-server1 keys taint -- %s\" have another sign", err, kid, kid)
}

// Signer returns the key that signs now.
func (k *Keys) Signer(ctx context.Context) (handoff.Signer, error) {
	signer, err, fresh := k.signer()
	if fresh {
		return signer, err
	}
	// The one who should say that nothing has changed is late.
	if err := k.Refresh(ctx); err != nil {
		return nil, err
	}
	signer, err, _ = k.signer()
	return signer, err
}

func (k *Keys) signer() (signer handoff.Signer, err error, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kid, ok := k.ring.Signing()
	private := k.private[kid]
	switch {
	case !ok:
		err = errors.New("no key signs")
	case private == nil && k.missing != nil:
		err = k.missing
	case private == nil:
		err = fmt.Errorf("the private half of the signing key %s is not here", kid)
	default:
		signer = private
	}
	return signer, err, k.config.Now().Sub(k.seen) < k.config.Terms.Lag()
}

// Refresh reads the ring again.
func (k *Keys) Refresh(ctx context.Context) error {
	at := k.config.Now()
	ring, err := k.config.DB.Ring(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.Before(k.seen) { // somebody else's look was later
		return nil
	}
	former, _ := k.ring.Signing()
	if kid, _ := ring.Signing(); kid != former && !k.seen.IsZero() {
		k.config.Log.InfoContext(ctx, "another key signs", "key", kid, "former", former)
	}
	k.ring, k.seen, k.missing = ring, at, nil
	needed := map[string]*signkey.Key{}
	for _, record := range ring.Records() {
		if record.State != rotation.Next && record.State != rotation.Active {
			continue
		}
		kid := record.Key.ID()
		if needed[kid], err = k.load(kid); err != nil {
			k.missing = errors.Join(k.missing, err)
			delete(needed, kid)
		}
	}
	k.private = needed
	return nil
}

func (k *Keys) load(kid string) (*signkey.Key, error) {
	if key := k.private[kid]; key != nil {
		return key, nil
	}
	return k.steps.Load(kid)
}

// Confirm says that the ring was still the same at a time.
func (k *Keys) Confirm(at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.After(k.seen) {
		k.seen = at
	}
}

// Ready returns nil if every key that signs or soon will is here.
func (k *Keys) Ready(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.missing
}

// Step settles the ring, or takes the step that is due by the clock, if keys change
// by it.
func (k *Keys) Step(ctx context.Context) error {
	k.mu.Lock()
	ring, early, failed := k.ring, k.config.Now().Before(k.retry), k.failed
	k.mu.Unlock()
	switch {
	case early:
		return failed
	case k.config.Every == 0 && ring.Settled():
		return nil
	}
	taken, err := k.steps.TakeDue(ctx, ring, k.config.Every, k.config.Terms)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.retry, k.failed = k.config.Now().Add(time.Second), nil
		if errors.As(err, new(*rotation.EarlyError)) { // another process's terms are longer
			return nil
		}
		if errors.As(err, new(*rotation.MissingError)) {
			if k.unable != err.Error() {
				k.unable = err.Error()
				k.config.Log.ErrorContext(ctx, "signing keys do not change until a private half is back in the folder, or its key is tainted",
					"cause", err.Error())
			}
			return nil
		}
		k.failed = fmt.Errorf("rotating the signing keys: %w", err)
		return k.failed
	}
	if taken.Kid != "" {
		k.config.Log.InfoContext(ctx, "signing keys", "step", string(taken.Verb), "key", taken.Kid)
	}
	return nil
}
