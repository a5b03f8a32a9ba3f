package overload

import (
	"context"
	"net/netip"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// A queue has a number of calls checked at once, and has a bounded number more wait
// for their turn: networks one after the other, and of one network first come, first
// served. Were all of them to run, the order would be the scheduler's, which has none
// once its own queues overflow: some calls then take seconds while others take
// milliseconds.
type queue struct {
	inFlight int // calls that are checked at once
	most     int // calls that may wait
	open     *calls

	mu      sync.Mutex
	checked int  // now
	calls   line // those that wait
	reads   line // connections that wait to be read

	readers readers

	waiting  atomic.Int64 // calls.number, for who only looks
	runnable func() int64
}

func newQueue(inFlight, most int, open *calls) *queue {
	return &queue{
		inFlight: inFlight, most: most, open: open, calls: newLine(), reads: newLine(), runnable: runnable,
		readers: readers{by: map[netip.Prefix]int{}},
	}
}

// enter takes a place. It waits for one if it must, unless too many do or until
// the call has ended. Where too many do, it takes the room of a network that has
// more of them wait.
func (q *queue) enter(ctx context.Context) error {
	q.mu.Lock()
	if q.checked < q.inFlight {
		q.checked++
		q.mu.Unlock()
		return nil
	}
	network := quota.NetworkOf(addressOf(ctx))
	if q.calls.number >= q.most && !q.calls.displace(network) {
		q.mu.Unlock()
		return ErrShed
	}
	w := q.calls.join(network, 1)
	q.noted()
	q.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		q.mu.Lock()
		q.calls.leave(w)
		q.noted()
		q.mu.Unlock()
	}
	select {
	case <-w.done:
		if w.displaced {
			return ErrShed
		}
		if ctx.Err() == nil {
			return nil
		}
		q.leave() // the call ended just then: nobody waits for the answer
	default:
	}
	return context.Cause(ctx)
}

// noted has those who only look know how many calls wait.
func (q *queue) noted() { q.waiting.Store(int64(q.calls.number)) }

// leave gives a place to the next, when a call has had its turn, and lets a connection
// be read that waits for it.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.calls.next() {
		q.checked--
	}
	q.noted()
	q.reads.next()
}

// How often a connection that waits to be read looks whether it still must, and
// how many times before it is read anyway.
const (
	lookEvery = 50 * time.Millisecond
	mostLooks = 20
)

// awaitRead waits until its network has had so many turns, of which there is one for each
// call that has been checked; until the queue is no longer filling up, or until the
// connection is closed; but no longer than a second.
func (q *queue) awaitRead(network netip.Prefix, turns int, closed <-chan struct{}) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	q.mu.Lock()
	w := q.reads.join(network, turns)
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.reads.leave(w)
	}()
	for range mostLooks {
		select {
		case <-w.done:
			return
		case <-closed:
			return
		case <-look.C:
			if q.paces(network) == apace {
				return
			}
		}
	}
}

// full reports whether as many of the open calls wait as may, for their turn or, as
// goroutines, for a processor: the calls that have just come are among those. The
// goroutines are no more than there are open calls, or they are others: those of
// hundreds of handshakes, for example, which are no reason to refuse a call. For a
// network that has few of the open calls, twice as many may wait: in its turn it is
// soon served.
func (q *queue) full(open, own int) bool {
	waiting, most := q.waiting.Load()+min(q.runnable(), int64(open)), int64(q.most)
	return waiting >= most && (own >= q.few() || waiting/2 >= most)
}

// A pace is how the connections of a network are read.
type pace int

const (
	apace      pace = iota // as fast as they bring anything
	inTurn                 // a little in each turn
	callByCall             // no more than a call for each that is checked
)

// paces returns how the connections of a network are read: in turn while more than half as
// many calls as may wait, of any kind; sooner, and call by call, where it has more than a
// few calls open, and others have connections as well.
func (q *queue) paces(network netip.Prefix) pace {
	waiting, most := q.waiting.Load()+q.runnable(), int64(q.most)
	if waiting <= most/16 {
		return apace
	}
	if q.readers.mixed.Load() {
		if _, own := q.open.number(network); own > q.few() {
			return callByCall
		}
	}
	if waiting <= most/2 {
		return apace
	}
	return inTurn
}

// few is how many calls a network can have open and count as one that has few.
func (q *queue) few() int { return max(1, q.most/64) }

// runnable returns how many goroutines of the process could run and do not. The
// runtime adds up the lengths of its queues, which takes some 100 ns.
func runnable() int64 {
	sample := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}} // since Go 1.26
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
