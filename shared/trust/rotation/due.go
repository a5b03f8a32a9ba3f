package rotation

import (
	"time"

	"github.com/handoff-auth/handoff/shared/trust"
)

// Verb is a step in the life of a key.
type Verb string

// The steps that come due by the clock. Taint never does.
const (
	DueSettle   Verb = "settle"   // of the ring
	DuePrepare  Verb = "prepare"  // of a new key
	DueActivate Verb = "activate" // of the key named
	DueRetire   Verb = "retire"   // of the key named
)

// Step is a step that comes due.
type Step struct {
	Verb Verb
	Kid  string    // of the key; empty of the first two
	At   time.Time // when
}

// Due returns the next step for a ring whose signing key changes every so often,
// and when to take it: now or before means at once. There always is one:
//
//   - settle what the last step has left open
//   - without a next key, prepare one: so that it is ready long before it is due,
//     and a taint finds it
//   - without a signing key, activate the next
//   - a former signing key is retired when the new one has signed for terms.Skew,
//     by when every process has taken it up
//   - a next key is activated when the signing key has signed for every, and no
//     sooner than it may
func (r Ring) Due(every time.Duration, terms trust.Terms) Step {
	var next, former, signing *Record
	kid, signs := r.Signing()
	for i := range r.records {
		switch k := &r.records[i]; {
		case k.State == Next && next == nil:
			next = k
		case k.State == Active && k.Key.ID() == kid:
			signing = k
		case k.State == Active:
			former = k
		}
	}
	switch {
	case !r.Settled():
		return Step{Verb: DueSettle}
	case next != nil && !signs:
		return Step{Verb: DueActivate, Kid: next.Key.ID(), At: next.Prepared}
	case next == nil:
		return Step{Verb: DuePrepare}
	case former != nil:
		return Step{Verb: DueRetire, Kid: former.Key.ID(), At: r.Retirable(terms)}
	}
	at := signing.Activated.Add(every)
	if ready := next.Prepared.Add(terms.Before()); at.Before(ready) {
		at = ready
	}
	return Step{Verb: DueActivate, Kid: next.Key.ID(), At: at}
}
