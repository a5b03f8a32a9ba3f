package overload

import (
	"container/list"
	"net/netip"
)

// A line is of those who wait for something. Networks have their turns one after the
// other, however many of each wait; within a network who came first is first. It is
// guarded by its owner.
type line struct {
	number int // of waiters
	by     map[netip.Prefix]*party
	turns  list.List // of *party: those that have waiters, the next first
}

// A party is a network that has waiters.
type party struct {
	network netip.Prefix
	turn    *list.Element
	waiters list.List // of *waiter
}

// A waiter waits until its turn has come, or its place in the line was taken from it.
type waiter struct {
	of        *party
	turns     int           // that its network must have had until it is its own
	place     *list.Element // nil: it waits no longer
	displaced bool
	done      chan struct{} // closed when it waits no longer, unless it has left by itself
}

func newLine() line { return line{by: map[netip.Prefix]*party{}} }

// join has one of a network wait, for so many turns.
func (l *line) join(network netip.Prefix, turns int) *waiter {
	of := l.by[network]
	if of == nil {
		of = &party{network: network}
		of.turn = l.turns.PushBack(of)
		l.by[network] = of
	}
	w := &waiter{of: of, turns: turns, done: make(chan struct{})}
	w.place = of.waiters.PushBack(w)
	l.number++
	return w
}

// next has the next network have its turn, and ends the wait of the one whose it is. It is
// false where nobody waits.
func (l *line) next() bool {
	turn := l.turns.Front()
	if turn == nil {
		return false
	}
	of := turn.Value.(*party)
	l.turns.MoveToBack(turn)
	w := of.waiters.Front().Value.(*waiter)
	if w.turns--; w.turns == 0 {
		l.leave(w)
		close(w.done)
	}
	return true
}

// leave has one wait no longer.
func (l *line) leave(w *waiter) {
	if w.place == nil {
		return
	}
	w.of.waiters.Remove(w.place)
	w.place = nil
	l.number--
	if w.of.waiters.Len() == 0 {
		l.turns.Remove(w.of.turn)
		delete(l.by, w.of.network)
	}
}

// displace takes the place of the last one of the network that has the most waiters, for
// one of another network, and reports whether that has fewer even so.
func (l *line) displace(network netip.Prefix) bool {
	least := 1
	if of := l.by[network]; of != nil {
		least += of.waiters.Len()
	}
	var last *waiter
	looked := 0
	for _, of := range l.by { // which begins anywhere
		if n := of.waiters.Len(); n > least {
			least, last = n, of.waiters.Back().Value.(*waiter)
		}
		if looked++; looked == looks {
			break
		}
	}
	if last == nil {
		return false
	}
	l.leave(last)
	last.displaced = true
	close(last.done)
	return true
}
