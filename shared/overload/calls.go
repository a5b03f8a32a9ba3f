package overload

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// calls are those that are open: so many in all, and of one network a share. A new
// one for which there is no room takes the place of one whose request has not come,
// of a network that has more of those than the new one's has calls: few networks
// that only keep places keep nobody out. It is safe for concurrent use.
type calls struct {
	all int

	mu    sync.Mutex
	taken int
	by    map[netip.Prefix]*caller // no entry has no call
}

// A caller is a network that has calls open.
type caller struct {
	open   int
	silent list.List // of *call: those whose request has not come, the oldest first
}

// A call has a place until it ends, or until another takes it.
type call struct {
	in      *calls
	network netip.Prefix
	cancel  context.CancelCauseFunc
	late    *time.Timer // ends it when its request does not come

	// in.mu guards these.
	silent *list.Element // nil: its request has come, or it has no place
	gone   bool          // it has no place any more
}

var (
	errLate      = errors.New("the request did not arrive in time")
	errDisplaced = errors.New("the request did not arrive before others needed the place")
)

func newCalls(all int) *calls {
	return &calls{all: all, by: map[netip.Prefix]*caller{}}
}

// begin returns a call from the address with a place, or nil where there is none for
// it. Which call it ends for that, if any, hears errDisplaced.
func (c *calls) begin(address net.Addr, cancel context.CancelCauseFunc) *call {
	network := quota.NetworkOf(address)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := 0
	if of := c.by[network]; of != nil {
		held = of.open
	}
	if held >= quota.Share(c.all, 0) {
		return nil
	}
	if c.taken >= c.all || held >= quota.Share(c.all, c.taken) {
		displaced := c.mostSilent(held)
		if displaced == nil {
			return nil
		}
		c.leave(displaced)
		displaced.cancel(errDisplaced)
	}
	of := c.by[network]
	if of == nil {
		of = &caller{}
		c.by[network] = of
	}
	c.taken++
	of.open++
	begun := &call{in: c, network: network, cancel: cancel}
	begun.silent = of.silent.PushBack(begun)
	return begun
}

// looks is how many networks are looked at for the one with the most silent calls:
// at random, where there are more. It bounds what a refusal costs.
const looks = 64

// mostSilent returns the oldest silent call of the network that has the most, if
// those are more than held.
func (c *calls) mostSilent(held int) (oldest *call) {
	most, looked := held, 0
	for _, of := range c.by { // which begins anywhere
		if n := of.silent.Len(); n > most {
			most, oldest = n, of.silent.Front().Value.(*call)
		}
		if looked++; looked == looks {
			break
		}
	}
	return oldest
}

// arrived notes that the call's request has come: nobody takes its place any more.
func (a *call) arrived() {
	a.late.Stop()
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	a.in.speak(a)
}

// end gives the call's place back, unless another has it already.
func (a *call) end() {
	a.in.mu.Lock()
	defer a.in.mu.Unlock()
	a.in.leave(a)
}

func (c *calls) speak(a *call) {
	if a.silent != nil {
		c.by[a.network].silent.Remove(a.silent)
		a.silent = nil
	}
}

func (c *calls) leave(a *call) {
	if a.gone {
		return
	}
	a.gone = true
	c.speak(a)
	c.taken--
	of := c.by[a.network]
	if of.open--; of.open == 0 {
		delete(c.by, a.network)
	}
}

// number returns how many calls are open, and how many of them are of a network.
func (c *calls) number(network netip.Prefix) (all, own int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.by[network]; of != nil {
		own = of.open
	}
	return c.taken, own
}
