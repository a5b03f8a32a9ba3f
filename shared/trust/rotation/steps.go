package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// A Store keeps the ring of one issuer, for all its processes.
type Store interface {
	// Ring returns the ring that is kept.
	Ring(ctx context.Context) (Ring, error)
	// ChangeRing replaces the ring by the one that change returns, one process at a
	// time, and returns that once it would survive a crash. change is given the
	// ring that is kept, the longest terms that any process of the issuer keeps to,
	// and the clock, read when no other process can change the ring. An error of
	// change is returned as it is, and leaves the ring as it was.
	ChangeRing(ctx context.Context, clock func() time.Time, change Change) (Ring, error)
}

// Change is one change of a ring. It may be called more than once.
type Change func(ring Ring, terms trust.Terms, now time.Time) (Ring, error)

// Steps takes the steps of an issuer's keys: the ring is in a store, and the
// private keys are in a folder. A private key is on disk before the ring names it,
// and is removed when it will not sign again. Each step settles the ring; if its
// process dies before that, the next step does. It is safe for concurrent use.
type Steps struct {
	// Store has the ring. Required.
	Store Store
	// Folder has the private keys. Empty: no key can be made, and none is removed.
	Folder signkey.Folder
	// First is a key that is not in the folder. Nil: there is none.
	First *signkey.Key
	// Lost is the id of a key that may be missing while it is the one that signs.
	Lost string
	// Now is the clock. Required.
	Now func() time.Time
}

// A MissingError means that a key that signs, or is to sign, cannot be loaded. Only
// where Err is fs.ErrNotExist is its file not there.
type MissingError struct {
	Kid string
	Err error // why not
}

// Error says which key is missing, and why.
func (e *MissingError) Error() string {
	if !errors.Is(e.Err, fs.ErrNotExist) {
		return fmt.Sprintf("the private half of the key %s cannot be used: %s", e.Kid, e.Err)
	}
	return fmt.Sprintf("the private half of the key %s is not there: %s", e.Kid, e.Err)
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// Load returns the private half of a key.
func (s Steps) Load(kid string) (*signkey.Key, error) {
	switch {
	case s.First != nil && s.First.Key().ID() == kid:
		return s.First, nil
	case s.Folder == "":
		return nil, &MissingError{kid, errors.New("only one key was given, and no folder of keys")}
	}
	key, err := s.Folder.Load(kid)
	if err != nil {
		return nil, &MissingError{kid, err}
	}
	return key, nil
}

// Begin makes sure that the ring has a key that signs: in an empty ring it is
// First or, without one, a new key. It removes private keys that a process left
// behind when it died after a step.
func (s Steps) Begin(ctx context.Context) error {
	ring, err := s.Store.Ring(ctx)
	if err != nil {
		return err
	}
	if len(ring.Records()) > 0 {
		return s.sweep(ring, ring)
	}
	first := s.First
	if first == nil {
		if first, err = s.Folder.Make(handoff.EdDSA); err != nil {
			return err
		}
	}
	_, err = s.take(ctx, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
		if len(ring.Records()) > 0 {
			return ring, errNotDue
		}
		ring, err := ring.Prepare(first.Key())
		if err != nil {
			return ring, err
		}
		return ring.Activate(first.Key().ID(), now, terms)
	})
	if err != nil && s.First == nil {
		err = errors.Join(err, s.withdraw(ctx, first))
	}
	if errors.Is(err, errNotDue) { // another process was first
		return nil
	}
	return err
}

// Prepare makes a key and adds it to the ring, which it returns. Without an
// algorithm the key is of the kind that signs now. A folder that lacks the key that
// signs is refused with a *MissingError: it is not the folder of this ring, and the
// issuer's processes would look for the new key elsewhere.
func (s Steps) Prepare(ctx context.Context, algorithm handoff.Algorithm) (handoff.Key, Ring, error) {
	return s.prepare(ctx, algorithm, func(Ring, trust.Terms, time.Time) error { return nil })
}

// prepare adds no key if unless returns an error.
func (s Steps) prepare(ctx context.Context, algorithm handoff.Algorithm, unless func(Ring, trust.Terms, time.Time) error) (handoff.Key, Ring, error) {
	if s.Folder == "" {
		return handoff.Key{}, Ring{}, errors.New("a new key needs a folder of keys")
	}
	ring, err := s.Store.Ring(ctx)
	if err != nil {
		return handoff.Key{}, ring, err
	}
	if err := s.checkFolder(ctx, ring); err != nil {
		return handoff.Key{}, ring, err
	}
	algorithm = cmp.Or(algorithm, algorithmOf(ring))
	key, err := s.Folder.Make(algorithm)
	if err != nil {
		return handoff.Key{}, ring, err
	}
	ring, err = s.take(ctx, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
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

// checkFolder refuses a folder that lacks the key that signs now.
func (s Steps) checkFolder(ctx context.Context, ring Ring) error {
	for {
		kid, ok := ring.Signing()
		if !ok || kid == s.Lost {
			return nil
		}
		_, missing := s.Load(kid)
		if missing == nil {
			return nil
		}
		var err error
		if ring, err = s.Store.Ring(ctx); err != nil {
			return err
		}
		if now, _ := ring.Signing(); now == kid { // and was not tainted meanwhile
			return missing
		}
	}
}

// algorithmOf returns the kind of the key that signs.
func algorithmOf(ring Ring) handoff.Algorithm {
	kid, _ := ring.Signing()
	if i, err := ring.find(kid); err == nil {
		return ring.records[i].Key.Algorithm()
	}
	return handoff.EdDSA
}

// withdraw removes a key that could not be prepared, unless the ring has it after
// all: an error does not always mean that nothing was kept.
func (s Steps) withdraw(ctx context.Context, key *signkey.Key) error {
	kid := key.Key().ID()
	ring, err := s.Store.Ring(ctx)
	if err != nil {
		return nil // it stays, unused
	}
	if _, err := ring.find(kid); err == nil {
		return nil
	}
	return s.Folder.Remove(kid)
}

// Activate lets a prepared key sign, if it can be loaded; without a folder, nobody
// looks. An *EarlyError says how long to wait.
func (s Steps) Activate(ctx context.Context, kid string) (Ring, error) {
	return s.take(ctx, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
		next, err := ring.Activate(kid, now, terms)
		if err != nil || s.Folder == "" {
			return next, err
		}
		_, err = s.Load(kid)
		return next, err
	})
}

// Retire ends a key that signed formerly, and removes its private half. An
// *EarlyError says how long to wait.
func (s Steps) Retire(ctx context.Context, kid string) (Ring, error) {
	return s.take(ctx, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
		return ring.Retire(kid, now, terms)
	})
}

// Taint unlists a key at once, for good, and removes its private half. What is to sign
// in its place must be loadable; without a folder, nobody looks.
func (s Steps) Taint(ctx context.Context, kid string) (Ring, error) {
	return s.take(ctx, func(ring Ring, _ trust.Terms, now time.Time) (Ring, error) {
		return ring.taint(kid, now, func(kid string) error {
			if s.Folder == "" {
				return nil
			}
			_, err := s.Load(kid)
			return err
		})
	})
}

// errNotDue means that another process has taken the step.
var errNotDue = errors.New("the step is no longer due")

// TakeDue takes the step that is due, if one is, for keys that change every so
// often. ring is a recent look at the ring, and terms are this process's. The step
// that it returns has no Verb if none was taken, also if another process was first.
func (s Steps) TakeDue(ctx context.Context, ring Ring, every time.Duration, terms trust.Terms) (taken Step, err error) {
	step := ring.Due(every, terms)
	if s.Now().Before(step.At) {
		return Step{}, nil
	}
	switch step.Verb {
	case DueSettle:
		_, err = s.settle(ctx)
	case DuePrepare:
		var key handoff.Key
		key, _, err = s.prepare(ctx, "", func(ring Ring, terms trust.Terms, now time.Time) error {
			if due := ring.Due(every, terms); due.Verb != DuePrepare || now.Before(due.At) {
				return errNotDue
			}
			return nil
		})
		step.Kid = key.ID()
	case DueActivate:
		_, err = s.Activate(ctx, step.Kid)
	case DueRetire:
		_, err = s.Retire(ctx, step.Kid)
	}
	if errors.Is(err, errNotDue) || errors.Is(err, ErrState) || errors.Is(err, ErrUnknown) {
		return Step{}, nil
	}
	return step, err
}

// take takes a step. The ring is settled before, as a step that is refused would
// leave it open, and after.
func (s Steps) take(ctx context.Context, step Change) (Ring, error) {
	if _, err := s.settle(ctx); err != nil {
		return Ring{}, err
	}
	var former Ring
	ring, err := s.change(ctx, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
		former = ring
		return step(ring, terms, now)
	})
	if err != nil {
		return ring, err
	}
	err = s.sweep(former, ring)
	if err != nil {
		err = fmt.Errorf("the step is taken, but a private key is still there: %w", err)
	}
	if settled, failed := s.settle(ctx); failed == nil { // otherwise the next step settles it
		ring = settled
	}
	return ring, err
}

// settle settles the ring.
func (s Steps) settle(ctx context.Context) (Ring, error) {
	ring, err := s.Store.Ring(ctx)
	if err != nil || ring.Settled() {
		return ring, err
	}
	return s.change(ctx, func(ring Ring, _ trust.Terms, _ time.Time) (Ring, error) { return ring, nil })
}

func (s Steps) change(ctx context.Context, do Change) (Ring, error) {
	return s.Store.ChangeRing(ctx, s.Now, func(ring Ring, terms trust.Terms, now time.Time) (Ring, error) {
		next, err := do(ring.Settle(now, terms), terms, now)
		return next.Prune(now), err
	})
}

// sweep removes the private halves of former keys that will not sign again.
func (s Steps) sweep(former, ring Ring) error {
	if s.Folder == "" {
		return nil
	}
	var over []string
	for _, k := range former.records {
		if _, err := ring.in(k.Key.ID(), Next, Active); err != nil {
			over = append(over, k.Key.ID())
		}
	}
	return s.Folder.Remove(over...)
}
