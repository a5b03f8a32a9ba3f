package handoffgrpc

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// A queue has a number of tokens in verification at once, and has a bounded
// number more wait for their turn: first come, first served. Were all of them to
// run, the order would be the scheduler's, which has none once its own queues
// overflow: some calls then take seconds while others take milliseconds.
type queue struct {
	places  chan struct{} // holds one for each token in verification
	waiting atomic.Int64
	most    int64 // that may wait

	// refusals holds one for each call that Tap may refuse at once: refusalsPerCheck
	// of them come with each check.
	refusals chan struct{}
}

// A refusal costs about a tenth of a check, and most of that is reading the
// call's header, which comes before any refusal. With so many refusals for each
// check, refusing takes at most a tenth of the time whatever number of calls
// comes; those above it are left unread, and their callers' connections fill up.
const refusalsPerCheck = 1

// pause is how long a connection is left unread, at the most, before a call on it
// is refused that there is no refusal for. It bounds what is refused while nothing
// is checked, because something else keeps the processors busy.
const pause = 10 * time.Millisecond

func newQueue(inFlight, waiting int) *queue {
	return &queue{places: make(chan struct{}, inFlight), most: int64(waiting), refusals: make(chan struct{}, waiting)}
}

// enter takes a place. It waits for one if it must, unless too many do or until
// the call has ended.
func (q *queue) enter(ctx context.Context) error {
	select {
	case q.places <- struct{}{}:
		return nil
	default:
	}
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > q.most {
		return shed("too many tokens wait to be verified", nil)
	}
	select {
	case q.places <- struct{}{}:
	case <-ctx.Done():
		return shed("the call ended while its token waited to be verified", context.Cause(ctx))
	}
	if ctx.Err() != nil { // nobody waits for the answer
		q.leave()
		return shed("the call ended while its token waited to be verified", context.Cause(ctx))
	}
	return nil
}

// leave gives a place back, once a token was verified.
func (q *queue) leave() {
	<-q.places
	for range refusalsPerCheck {
		select {
		case q.refusals <- struct{}{}:
		default:
		}
	}
}

// mayRefuse reports whether a call may be refused at once. If it may not, it may
// after a while, which has passed when mayRefuse returns.
func (q *queue) mayRefuse() bool {
	select {
	case <-q.refusals:
		return true
	default:
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-q.refusals:
	case <-timer.C:
	}
	return false
}

// shed is the refusal of a call whose token was not looked at.
func shed(detail string, cause error) *handoff.Refusal {
	return &handoff.Refusal{Reason: handoff.ReasonLimitExceeded, Check: CheckGuardWaiting, Detail: detail, Err: cause}
}
