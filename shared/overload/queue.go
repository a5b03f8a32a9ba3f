package overload

import (
	"context"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// A queue has a number of calls checked at once, and has a bounded number more wait
// for their turn: first come, first served. Were all of them to
// run, the order would be the scheduler's, which has none once its own queues
// overflow: some calls then take seconds while others take milliseconds.
type queue struct {
	places  chan struct{} // holds one for each call that is checked
	waiting atomic.Int64
	most    int64 // that may wait

	runnable func() int64

	reads chan struct{} // lets one connection be read, the one that has waited longest
}

func newQueue(inFlight, waiting int) *queue {
	return &queue{places: make(chan struct{}, inFlight), most: int64(waiting), runnable: runnable, reads: make(chan struct{})}
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
		return ErrShed
	}
	select {
	case q.places <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ctx.Err() != nil { // it ended just then: nobody waits for the answer
		q.leave()
		return context.Cause(ctx)
	}
	return nil
}

// leave gives a place back, when a call has had its turn, and lets a connection be
// read that waits for it.
func (q *queue) leave() {
	<-q.places
	select {
	case q.reads <- struct{}{}:
	default:
	}
}

// How often a connection that waits to be read looks whether it still must, and
// how many times before it is read anyway.
const (
	lookEvery = 50 * time.Millisecond
	mostLooks = 20
)

// awaitRead waits until a call has been checked since the last connection was
// read, until the queue is no longer filling up, or until the connection is
// closed; but no longer than a second.
func (q *queue) awaitRead(closed <-chan struct{}) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for range mostLooks {
		select {
		case <-q.reads:
			return
		case <-closed:
			return
		case <-look.C:
			if !q.filling() {
				return
			}
		}
	}
}

// full reports whether as many of the open calls wait as may, for their turn or, as
// goroutines, for a processor: the calls that have just come are among those. The
// goroutines are no more than there are open calls, or they are others: those of
// hundreds of handshakes, for example, which are no reason to refuse a call.
func (q *queue) full(open int) bool {
	return q.waiting.Load()+min(q.runnable(), int64(open)) >= q.most
}

// filling reports whether more than half as many wait, of any kind.
func (q *queue) filling() bool { return q.waiting.Load()+q.runnable() > q.most/2 }

// runnable returns how many goroutines of the process could run and do not. The
// runtime adds up the lengths of its queues, which takes some 100 ns.
func runnable() int64 {
	sample := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}} // since Go 1.26
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
