package trust

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Fault is what is wrong with a list or its feed: one closed enumeration, for
// logs and metric labels.
type Fault string

// The faults. SPEC.md defines those of a list.
const (
	FaultFeed       Fault = "feed"        // the feed cannot be read, twice in a row, or brings nothing newer
	FaultSignature  Fault = "signature"   // not a trust list that a trust key signed
	FaultSchema     Fault = "schema"      // signed, but not of the form that this version knows
	FaultIssuer     Fault = "issuer"      // another issuer's
	FaultKeys       Fault = "keys"        // it lists a trust key
	FaultFuture     Fault = "future"      // iat or seq further ahead than the skew
	FaultExpired    Fault = "expired"     // past its exp
	FaultEntries    Fault = "entries"     // the entries are not those that the statement names
	FaultFloor      Fault = "floor"       // the number of the list in force cannot be kept, or read
	FaultRolledBack Fault = "rolled_back" // no newer than the one in force
	FaultStale      Fault = "stale"       // the list in force is too old: tokens are refused with TRUST_STALE
)

// Event is something that happened to a follower.
type Event struct {
	// Fault is what is wrong. Empty: the first list, or the first after faults, is
	// in force.
	Fault Fault
	// Check is the check that a list failed, where Fault is FaultSignature.
	Check handoff.Check
	// Err says more, for a log. It contains no part of a list.
	Err error
	// Status is what the follower holds.
	Status Status
}

type faultKey struct {
	fault Fault
	check handoff.Check
}

// listError is why a list is refused. Its text is fixed, and goes on from the fault.
type listError struct {
	fault Fault
	check handoff.Check
	text  string
	err   error // nil, or the cause, where that is nobody else's text
}

func (e *listError) Error() string {
	if e.err != nil {
		return e.text + ": " + e.err.Error()
	}
	return e.text
}

func tooOld() error { return &listError{fault: FaultStale, text: "it is too old to rely on"} }

var errSilent = errors.New("the feed brings no newer list")

// Run follows the list until ctx ends. A list that is refused replaces nothing;
// the feed is read again after a pause of 50 ms to 600 ms. A feed that brings
// nothing newer for half of MaxStaleness is read again as well. Call Run once.
func (f *Follower) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, feed := range append([]Feed{f.config.Feed}, f.config.Others...) {
		running.Go(func() {
			r := &reading{f, feed, 0, 0, backoff{first: 50 * time.Millisecond, most: 500 * time.Millisecond}}
			r.run(ctx)
		})
	}
	running.Wait()
}

// reading is what a follower does about one feed.
type reading struct {
	*Follower
	feed     Feed
	seq      int64 // of the newest list that it has brought
	failures int   // since then
	retry    backoff
}

func (r *reading) run(ctx context.Context) {
	for {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		r.failures++
		r.fault(err)
		if err := r.Healthy(); err != nil && err != errNoListYet {
			r.fault(tooOld())
		}
		if !pause(ctx, r.retry.next(), nil) {
			return
		}
	}
}

// follow reads the feed once, until something is wrong.
func (r *reading) follow(ctx context.Context) error {
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := r.config.MaxStaleness / 2
	watchdog := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer watchdog.Stop()
	err := r.feed.Follow(watched, r.has(), func(raw string, fetch Fetch) error {
		seq, newer, err := r.apply(watched, raw, fetch)
		if err != nil && seq > r.seq && len(r.config.Others) > 0 && r.has() != "" {
			err = nil // another feed was faster
		}
		if err == nil && seq > r.seq {
			r.seq = seq
			r.failures = 0
			r.retry.reset()
			watchdog.Reset(patience)
		}
		if newer {
			r.recovered()
		}
		return err
	})
	if errors.Is(context.Cause(watched), errSilent) {
		return errSilent
	}
	return err
}

// recovered notes that a newer list is in force, and says so if that is news.
func (f *Follower) recovered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported != nil && len(f.reported) == 0 {
		return
	}
	f.reported = map[faultKey]bool{}
	f.report(Event{})
}

// fault reports what is wrong, once until a newer list is in force, and of lists that
// are rolled back, once a minute. A feed that ends and comes back at once, as
// connections do, is no fault.
func (r *reading) fault(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	event := Event{Fault: FaultFeed, Err: err}
	if refused, ok := errors.AsType[*listError](err); ok {
		event.Fault, event.Check = refused.fault, refused.check
	} else if r.failures == 1 && err != errSilent {
		return
	}
	r.tell(event)
}

// tell reports an event, unless that was done. The lock is held.
func (f *Follower) tell(event Event) {
	key := faultKey{event.Fault, event.Check}
	if f.reported[key] || event.Fault == FaultRolledBack && !f.rolledBackIsNews() {
		return
	}
	if f.reported == nil {
		f.reported = map[faultKey]bool{}
	}
	f.reported[key] = true
	f.report(event)
}

// rolledBackIsNews reports whether a minute has passed since a list was rolled back.
// Where several publishers stand behind one name, now this one answers and now that
// one, whose newest list is a little older: each time, a newer one follows at once.
func (f *Follower) rolledBackIsNews() bool {
	now := f.config.Now()
	if !f.rolledBack.IsZero() && now.Sub(f.rolledBack).Abs() < time.Minute {
		return false
	}
	f.rolledBack = now
	return true
}

func (f *Follower) report(event Event) {
	if f.config.Report != nil {
		event.Status = f.Status()
		f.config.Report(event)
	}
}
