package rotation

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"
)

// State is where a key is in its life.
type State string

// The states.
const (
	Next    State = "next"    // listed; does not sign yet
	Active  State = "active"  // listed; the one activated last signs
	Retired State = "retired" // listed until its last token is dead; signs no more
	Tainted State = "tainted" // not listed, for good
)

// Record is what a ring knows of a key. Times are in UTC, to the millisecond, and
// zero where they have not come or, of Prepared and Until, Settle has not set them.
type Record struct {
	Key       handoff.Key
	State     State
	Prepared  time.Time // by when it was listed
	Activated time.Time // when it first signed
	Ended     time.Time // when it was retired or tainted
	Until     time.Time // of a retired key: when it leaves the list
}

// Ring is the keys of one issuer. It is an immutable value; the zero Ring has no
// keys.
type Ring struct {
	records []Record // the first prepared first
}

// What stands in the way of a step. A step that comes too early fails with an
// *EarlyError.
var (
	ErrUnknown = errors.New("the ring has no such key")
	ErrState   = errors.New("the key's state does not allow this step")
	ErrKnown   = errors.New("the ring has the key already, or had it tainted")
	ErrSigns   = errors.New("it is the key that signs: activate another first")
	ErrLast    = errors.New("it is the only key that can sign: prepare another first")
)

// EarlyError is why a step is refused that will be right later: audiences may
// still rely on a list without the key that is to sign, or a process may still
// sign with the key that is to be retired.
type EarlyError struct {
	// Wait is for how long the step is still too early.
	Wait time.Duration
	// Why is what could still happen, as a sentence without a period.
	Why string
}

// Error says how long to wait.
func (e *EarlyError) Error() string {
	return fmt.Sprintf("too early: %s; wait %s", e.Why, roundUp(e.Wait))
}

func roundUp(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

// Records returns all keys that the ring knows, the first prepared first.
func (r Ring) Records() []Record { return slices.Clone(r.records) }

// Listed returns the keys that a trust list names at now: next, active, and
// retired for as long as their tokens can be alive.
func (r Ring) Listed(now time.Time) []handoff.Key {
	var keys []handoff.Key
	for _, k := range r.records {
		if k.listed(now) {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

func (k Record) listed(now time.Time) bool {
	return k.State == Next || k.State == Active || k.State == Retired && (k.Until.IsZero() || now.Before(k.Until))
}

// Shown returns the state of a key of the ring in the words of a person: of the active
// ones, one signs, and the others are former ones.
func (r Ring) Shown(k Record) string {
	signing, signs := r.Signing()
	switch {
	case signs && k.Key.ID() == signing:
		return string(k.State) + ", signs"
	case k.State == Active:
		return "former"
	}
	return string(k.State)
}

// Signing returns the id of the key that signs: of the active ones, the one that
// was activated last. It is false while there is none.
func (r Ring) Signing() (kid string, ok bool) {
	var signing Record
	for _, k := range r.records {
		if k.State == Active && !k.Activated.Before(signing.Activated) {
			signing = k
		}
	}
	return signing.Key.ID(), signing.State == Active
}

// Settle sets the times that the last step has left open: since when its next key
// is listed, and until when its retired one is. Both count from when those who
// publish could see the step, so the ring must have been read back from where it
// is kept, and now read after that. A ring that is settled stays as it is.
func (r Ring) Settle(now time.Time, terms trust.Terms) Ring {
	records := r.Records()
	for i := range records {
		switch k := &records[i]; {
		case k.State == Next && k.Prepared.IsZero():
			k.Prepared = stamp(now)
		case k.State == Retired && k.Until.IsZero():
			k.Until = stamp(now.Add(terms.After()))
		}
	}
	return Ring{records}
}

// Settled reports whether Settle has nothing to do.
func (r Ring) Settled() bool { return !slices.ContainsFunc(r.records, Record.open) }

func (k Record) open() bool {
	return k.State == Next && k.Prepared.IsZero() || k.State == Retired && k.Until.IsZero()
}

// Prepare adds a key, which is listed once the ring is kept. A key that the ring
// knows is refused: a tainted one never comes back.
func (r Ring) Prepare(key handoff.Key) (Ring, error) {
	if key.ID() == "" {
		return r, errors.New("the zero key signs nothing")
	}
	if _, err := r.find(key.ID()); err == nil {
		return r, ErrKnown
	}
	return Ring{append(r.Records(), Record{Key: key, State: Next})}, nil
}

// Activate lets a next key sign. It is refused until the key has been listed for
// terms.Before, except where no key signs, so that no token can be lost; while the
// ring is not settled, that has not begun. The former signing key stays active:
// retire it once every process has the ring.
func (r Ring) Activate(kid string, now time.Time, terms trust.Terms) (Ring, error) {
	i, err := r.in(kid, Next)
	if err != nil {
		return r, err
	}
	if _, signs := r.Signing(); signs {
		listed := r.Settle(now, terms).records[i].Prepared
		if wait := listed.Add(terms.Before()).Sub(now); wait > 0 {
			return r, &EarlyError{Wait: wait, Why: "audiences may still rely on a list without the key"}
		}
	}
	return r.activate(i, now), nil
}

// activate has a key sign: it is the last activated, also if the clock that
// activated another was ahead.
func (r Ring) activate(i int, now time.Time) Ring {
	at := stamp(now)
	for _, k := range r.records {
		if k.State == Active && !k.Activated.Before(at) {
			at = k.Activated.Add(time.Millisecond)
		}
	}
	return r.with(i, func(k *Record) {
		k.State, k.Activated = Active, at
		if k.Prepared.IsZero() { // nobody waits for it any more
			k.Prepared = at
		}
	})
}

// Retire ends an active key that no longer is the signing one. It is refused until
// the signing key has signed for terms.Lag, when every process has taken it up. The
// retired key stays listed for terms.After from when the ring is settled.
func (r Ring) Retire(kid string, now time.Time, terms trust.Terms) (Ring, error) {
	i, err := r.in(kid, Active)
	if err != nil {
		return r, err
	}
	if signing, _ := r.Signing(); signing == kid {
		return r, ErrSigns
	}
	if wait := r.Retirable(terms).Sub(now); wait > 0 {
		return r, &EarlyError{Wait: wait, Why: "a process of the issuer may still sign with the key"}
	}
	return r.with(i, func(k *Record) { k.State, k.Ended = Retired, stamp(now) }), nil
}

// Retirable returns when every process has taken up the key that signs, so that a
// former one can be retired.
func (r Ring) Retirable(terms trust.Terms) time.Time {
	kid, _ := r.Signing()
	i, err := r.find(kid)
	if err != nil {
		return time.Time{}
	}
	return r.records[i].Activated.Add(terms.Lag())
}

// Taint takes a key out of the list at once, and for good: someone else who has it can
// sign with it, so what it has signed is refused. Where it was the only active
// key, the next key that was prepared first signs in its place, at once; without
// one the step is refused: prepare one, then taint.
func (r Ring) Taint(kid string, now time.Time) (Ring, error) {
	return r.taint(kid, now, func(string) error { return nil })
}

// taint has no key begin to sign that cannot, and is refused where none can.
func (r Ring) taint(kid string, now time.Time, can func(kid string) error) (Ring, error) {
	i, err := r.in(kid, Next, Active, Retired)
	if err != nil {
		return r, err
	}
	former, signed := r.Signing()
	without := r.with(i, func(k *Record) { k.State, k.Ended, k.Until = Tainted, stamp(now), time.Time{} })
	if !signed || former != kid {
		return without, nil
	}
	var unfit error
	if signs, ok := without.Signing(); ok {
		if unfit = can(signs); unfit == nil {
			return without, nil
		}
	}
	for next, k := range without.records {
		if k.State != Next {
			continue
		}
		err := can(k.Key.ID())
		if err == nil {
			return without.activate(next, now), nil
		}
		unfit = errors.Join(unfit, err)
	}
	if unfit != nil {
		return r, fmt.Errorf("%w: %w", ErrLast, unfit)
	}
	return r, ErrLast
}

// Prune forgets the retired keys that are no longer listed.
func (r Ring) Prune(now time.Time) Ring {
	return Ring{slices.DeleteFunc(r.Records(), func(k Record) bool { return k.State == Retired && !k.listed(now) })}
}

// with returns the ring with one record changed.
func (r Ring) with(i int, change func(*Record)) Ring {
	records := r.Records()
	change(&records[i])
	return Ring{records}
}

// in finds a key that is in one of the states.
func (r Ring) in(kid string, states ...State) (int, error) {
	i, err := r.find(kid)
	if err == nil && !slices.Contains(states, r.records[i].State) {
		err = fmt.Errorf("%w: it is %s", ErrState, r.records[i].State)
	}
	return i, err
}

func (r Ring) find(kid string) (int, error) {
	i := slices.IndexFunc(r.records, func(k Record) bool { return k.Key.ID() == kid })
	if i < 0 {
		return i, ErrUnknown
	}
	return i, nil
}

// stamp is how a ring keeps a time: the millisecond by which it has come.
func stamp(t time.Time) time.Time {
	return time.UnixMilli(t.Add(time.Millisecond - time.Nanosecond).UnixMilli()).UTC()
}
