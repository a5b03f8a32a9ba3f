package signing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// Steps takes the steps of the keys' life, as package rotation allows them: the
// ring is in the database, which lets one process take one at a time, and the
// private keys are in the folder. Each settles the ring that it has left; where it
// dies before that, whoever comes next does. It is safe for concurrent use.
type Steps struct {
	DB     *database.DB
	Folder Folder       // empty: no key can be made, and none is removed
	First  *signkey.Key // a key beside the folder; nil: there is none
	Lost   string       // the id of the signing key, where its private half is gone for good
	Now    func() time.Time
}

// load returns the private half of a key.
func (s Steps) load(kid string) (*signkey.Key, error) {
	if s.First != nil && s.First.Key().ID() == kid {
		return s.First, nil
	}
	if s.Folder == "" {
		return nil, fmt.Errorf("the key that signs is %s, another than the one given: give that one; keys change in a folder (--key-dir) alone", kid)
	}
	return s.Folder.load(kid)
}

// checkFolder refuses a folder that lacks the key that signs now: it is not the one
// that the server has, which would look for a new key in vain.
func (s Steps) checkFolder(ctx context.Context, ring rotation.Ring) error {
	for {
		kid, ok := ring.Signing()
		if !ok || kid == s.Lost {
			return nil
		}
		_, err := s.load(kid)
		if err == nil {
			return nil
		}
		if ring, err = s.DB.Ring(ctx); err != nil {
			return err
		}
		if now, _ := ring.Signing(); now == kid { // and was not tainted meanwhile
			return &ElsewhereError{Kid: kid}
		}
	}
}

// An ElsewhereError means that the folder is not that of the key that signs.
type ElsewhereError struct {
	Kid string // of the key that signs
}

// Error says what is missing.
func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("the key that signs, %s, is not there", e.Kid)
}

func (s Steps) take(ctx context.Context, do database.RingStep) (rotation.Ring, error) {
	if _, err := s.settle(ctx); err != nil { // or a step that is refused would leave it open
		return rotation.Ring{}, err
	}
	ring, err := s.change(ctx, do)
	if err != nil {
		return ring, err
	}
	if settled, err := s.settle(ctx); err == nil {
		ring = settled
	}
	return ring, nil // the step is taken, in any case
}

// settle settles the ring.
func (s Steps) settle(ctx context.Context) (rotation.Ring, error) {
	ring, err := s.DB.Ring(ctx)
	if err != nil || ring.Settled() {
		return ring, err
	}
	return s.change(ctx, func(ring rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) { return ring, nil })
}

func (s Steps) change(ctx context.Context, do database.RingStep) (rotation.Ring, error) {
	return s.DB.ChangeRing(ctx, s.Now, func(ring rotation.Ring, terms trust.Terms, now time.Time) (rotation.Ring, error) {
		next, err := do(ring.Settle(now, terms), terms, now)
		return next.Prune(now), err
	})
}

// Prepare makes a key of the kind that signs now, and lists it. It returns the
// key, and the ring with it.
func (s Steps) Prepare(ctx context.Context) (handoff.Key, rotation.Ring, error) {
	return s.prepare(ctx, func(rotation.Ring, trust.Terms, time.Time) error { return nil })
}

// prepare has unless stop it where the ring has changed meanwhile. The private key
// is on disk before the ring names it; where the ring does not come to, it is
// removed.
func (s Steps) prepare(ctx context.Context, unless func(rotation.Ring, trust.Terms, time.Time) error) (handoff.Key, rotation.Ring, error) {
	if s.Folder == "" {
		return handoff.Key{}, rotation.Ring{}, errors.New("a new key needs a folder of keys")
	}
	ring, err := s.DB.Ring(ctx)
	if err != nil {
		return handoff.Key{}, ring, err
	}
	if err := s.checkFolder(ctx, ring); err != nil {
		return handoff.Key{}, ring, err
	}
	key, err := s.Folder.make(algorithmOf(ring))
	if err != nil {
		return handoff.Key{}, ring, err
	}
	ring, err = s.take(ctx, func(ring rotation.Ring, terms trust.Terms, now time.Time) (rotation.Ring, error) {
		if err := unless(ring, terms, now); err != nil {
			return ring, err
		}
		ring, err := ring.Prepare(key.Key())
		if err == nil && len(ring.Listed(now)) > trust.MaxKeys { // there would be no list, and every audience would refuse all
			err = fmt.Errorf("a trust list names %d keys at most: retire or taint one, or wait until one leaves", trust.MaxKeys)
		}
		return ring, err
	})
	if err != nil {
		err = errors.Join(err, s.withdraw(ctx, key))
	}
	return key.Key(), ring, err
}

// withdraw removes a key that could not be prepared, unless the ring has it after
// all: an error does not always mean that nothing was kept.
func (s Steps) withdraw(ctx context.Context, key *signkey.Key) error {
	ring, err := s.DB.Ring(ctx)
	if err != nil {
		return nil // it stays, unused
	}
	for _, k := range ring.Records() {
		if k.Key.ID() == key.Key().ID() {
			return nil
		}
	}
	return s.Folder.forget(key.Key().ID())
}

// algorithmOf returns the kind of the key that signs.
func algorithmOf(ring rotation.Ring) handoff.Algorithm {
	kid, _ := ring.Signing()
	for _, k := range ring.Records() {
		if k.Key.ID() == kid {
			return k.Key.Algorithm()
		}
	}
	return handoff.EdDSA
}

// errNoPrivate means that a key cannot sign, as its private half cannot be loaded.
var errNoPrivate = errors.New("the key could not sign")

// Activate lets a prepared key sign; where there is a folder, one that can be loaded
// from there. A *rotation.EarlyError says how long to wait.
func (s Steps) Activate(ctx context.Context, kid string) (rotation.Ring, error) {
	return s.take(ctx, func(ring rotation.Ring, terms trust.Terms, now time.Time) (rotation.Ring, error) {
		next, err := ring.Activate(kid, now, terms)
		if err != nil || s.Folder == "" {
			return next, err
		}
		if _, err := s.load(kid); err != nil {
			return ring, fmt.Errorf("%w: %w", errNoPrivate, err)
		}
		return next, nil
	})
}

// Retire ends a key that signed formerly, and removes its private half.
func (s Steps) Retire(ctx context.Context, kid string) (rotation.Ring, error) {
	ring, err := s.take(ctx, func(ring rotation.Ring, _ trust.Terms, now time.Time) (rotation.Ring, error) {
		return ring.Retire(kid, now)
	})
	if err != nil {
		return ring, err
	}
	return ring, s.Folder.forget(kid)
}

// Taint unlists a key at once, for good, and removes its private half.
func (s Steps) Taint(ctx context.Context, kid string) (rotation.Ring, error) {
	ring, err := s.take(ctx, func(ring rotation.Ring, _ trust.Terms, now time.Time) (rotation.Ring, error) {
		return ring.Taint(kid, now)
	})
	if err != nil {
		return ring, err
	}
	return ring, s.Folder.forget(kid)
}

// errNotDue means that another process has taken the step.
var errNotDue = errors.New("the step is no longer due")

// takeDue takes the step that is due, if one is, for keys that change so often.
func (s Steps) takeDue(ctx context.Context, ring rotation.Ring, every time.Duration, terms trust.Terms) (taken rotation.Step, err error) {
	step := ring.Due(every, terms)
	if s.Now().Before(step.At) {
		return rotation.Step{}, nil
	}
	still := func(ring rotation.Ring, terms trust.Terms, now time.Time) error {
		due := ring.Due(every, terms)
		if due.Verb != step.Verb || due.Kid != step.Kid || now.Before(due.At) {
			return errNotDue
		}
		return nil
	}
	switch step.Verb {
	case rotation.DueSettle:
		_, err = s.settle(ctx)
	case rotation.DuePrepare:
		var key handoff.Key
		key, _, err = s.prepare(ctx, still)
		step.Kid = key.ID()
	case rotation.DueActivate:
		_, err = s.Activate(ctx, step.Kid)
	case rotation.DueRetire:
		_, err = s.Retire(ctx, step.Kid)
	}
	switch {
	case errors.Is(err, errNotDue), errors.Is(err, rotation.ErrState), errors.Is(err, rotation.ErrUnknown):
		return rotation.Step{}, nil
	}
	return step, err
}
