package rotation

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"
)

// A world of processes whose clocks differ by up to the skew, whose commits take a
// moment or longer than anything lives, fail, or are found after their process
// died; of publishers that are slow, and audiences that hear late. An audience that relies
// on a list finds in it the key of every token that is alive, and no key whose
// time is over.
func TestF06F07InAnyOrder(t *testing.T) {
	pool := keys(60)
	var total world
	for seed := range uint64(150) {
		w := newWorld(seed, pool)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total.add(w)
	}
	t.Logf("%d tokens looked at, %d lists looked at for what is over, %d activations, %d keys retired, %d tainted",
		total.alive, total.over, total.activated, total.retired, total.tainted)
	if total.alive < 20_000 || total.over < 20_000 || total.activated < 500 || total.retired < 300 || total.tainted < 50 {
		t.Error("too little has happened")
	}
}

// Control: the same world notices when the times of a step are those of before its
// commit.
func TestHasteShows(t *testing.T) {
	pool := keys(60)
	shows := 0
	for seed := range uint64(60) {
		w := newWorld(seed, pool)
		w.hasty = true
		if w.run() != nil {
			shows++
		}
	}
	t.Logf("%d of 60 worlds suffer from haste", shows)
	if shows < 5 {
		t.Error("too few to tell")
	}
}

func keys(n int) (pool []handoff.Key) {
	for range n {
		pool = append(pool, newKey())
	}
	return pool
}

const (
	tick  = 50 * time.Millisecond
	ticks = 1200
)

type world struct {
	*rand.Rand
	terms trust.Terms
	fresh []handoff.Key
	hasty bool // steps are settled before they are kept
	now   time.Time

	kept    Ring // as everybody reads it
	commit  *commit
	lists   []version
	drafts  [2]*draft
	signers [3]signer
	follows [3]version
	exp     map[string]time.Time // of the last token of a key
	end     map[string]time.Time // of a key: no list that names it is relied on

	alive, over, activated, retired, tainted int
}

// commit is a change that is on its way to the disk, and holds the lock.
type commit struct {
	ring  Ring
	at    time.Time
	fails bool
}

// draft is a list that is being made: number and time first, then what it says.
type draft struct {
	version
	reads, out time.Time
	read       bool
}

type version struct {
	seq  int
	keys []handoff.Key
	iat  time.Time
}

// signer is a process that issues, with its look at the ring.
type signer struct {
	ring Ring
	seen time.Time
}

func newWorld(seed uint64, pool []handoff.Key) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), now: start, exp: map[string]time.Time{}, end: map[string]time.Time{}}
	seconds := func() time.Duration { return time.Duration(1+w.IntN(2)) * time.Second }
	w.terms = trust.Terms{
		Issuer: "https://shop.example", TokenLifetime: seconds(), ListLifetime: seconds(),
		Skew: []time.Duration{100 * time.Millisecond, time.Second}[w.IntN(2)],
	}
	w.kept, _ = w.kept.Prepare(pool[0])
	w.kept, _ = w.kept.Activate(pool[0].ID(), w.now, w.terms)
	w.fresh = pool[1:]
	return w
}

func (w *world) add(of *world) {
	w.alive += of.alive
	w.over += of.over
	w.activated += of.activated
	w.retired += of.retired
	w.tainted += of.tainted
}

// clock is a look at somebody's clock: half the skew fast or slow, so that no two
// differ by more.
func (w *world) clock() time.Time {
	if w.one(2) {
		return w.now.Add(w.terms.Skew / 2)
	}
	return w.now.Add(-w.terms.Skew / 2)
}

func (w *world) one(in int) bool { return w.IntN(in) == 0 }

// within returns a moment up to so many ticks from now.
func (w *world) within(n int) time.Time { return w.now.Add(time.Duration(w.IntN(n+1)) * tick) }

func (w *world) run() error {
	for range ticks {
		w.change()
		for i := range w.drafts {
			w.publish(&w.drafts[i])
		}
		for i := range w.signers {
			w.sign(&w.signers[i])
		}
		for i := range w.follows {
			if err := w.follow(i); err != nil {
				return err
			}
		}
		w.now = w.now.Add(tick)
	}
	return nil
}

// change ends the commit whose time has come, and begins another.
func (w *world) change() {
	if c := w.commit; c != nil {
		if w.now.Before(c.at) {
			return // it holds the lock
		}
		if w.commit = nil; !c.fails {
			w.keep(c.ring)
		}
	}
	now := w.clock()
	ring := w.kept.Settle(now, w.terms)
	if !w.one(4) { // else it came only to settle
		next, err := w.step(ring, now)
		if err != nil {
			return
		}
		if ring = next.Prune(now); w.hasty {
			ring = ring.Settle(now, w.terms)
		}
	}
	slow := []int{0, 1, 2, 80}[w.IntN(4)]
	w.commit = &commit{ring: ring, at: w.within(slow), fails: w.one(8)}
}

// step takes one of the steps, allowed or not.
func (w *world) step(ring Ring, now time.Time) (Ring, error) {
	all := ring.Records()
	if len(all) < 2 || len(ring.Listed(now)) < 4 && w.one(4) {
		if len(w.fresh) == 0 {
			return ring, ErrUnknown
		}
		key := w.fresh[0]
		w.fresh = w.fresh[1:]
		return ring.Prepare(key)
	}
	kid := all[w.IntN(len(all))].Key.ID()
	switch w.IntN(9) {
	case 0:
		next, err := ring.Taint(kid, now)
		if signs, _ := ring.Signing(); err == nil && signs == kid {
			return ring, ErrState // its successor would sign at once, heard of or not
		}
		return next, err
	case 1, 2, 3, 4:
		return ring.Activate(kid, now, w.terms)
	default:
		return ring.Retire(kid, now, w.terms)
	}
}

// keep makes a ring the one that everybody reads, and notes what is over when.
func (w *world) keep(ring Ring) {
	before := map[string]Record{}
	for _, k := range w.kept.Records() {
		before[k.Key.ID()] = k
	}
	listed := w.terms.ListLifetime + w.terms.Skew // by audiences, of a list that is read now
	for _, k := range ring.Records() {
		kid := k.Key.ID()
		was := before[kid]
		switch {
		case k.State == was.State && !was.open():
		case k.State == Active:
			w.activated++
		case k.State == Retired && !k.open():
			w.retired++
			read := k.Until.Add(w.terms.Skew / 2) // into a list for the last time
			if read.Before(w.now) {
				read = w.now
			}
			w.end[kid] = read.Add(listed)
		case k.State == Tainted:
			w.tainted++
			w.end[kid] = w.now.Add(listed)
			delete(w.exp, kid)
			for i := range w.signers { // of a tainted key nobody expects anything
				w.signers[i].seen = time.Time{}
			}
		}
	}
	w.kept = ring
}

// publish begins a list, reads what it states, and hands it out.
func (w *world) publish(draft **draft) {
	d := *draft
	switch {
	case d == nil && w.one(4):
		*draft = w.begin()
	case d == nil:
	case !d.read && !w.now.Before(d.reads):
		d.keys, d.read = w.kept.Listed(w.clock()), true
	case d.read && !w.now.Before(d.out):
		w.lists = append(w.lists, d.version)
		*draft = nil
	}
}

func (w *world) begin() *draft {
	d := &draft{version: version{seq: int(w.now.UnixMilli()), iat: w.clock().Truncate(time.Second)}}
	d.reads = w.within(10)
	d.out = d.reads.Add(time.Duration(w.IntN(10)) * tick)
	return d
}

// sign issues with the key of a look at the ring that is fresh enough.
func (w *world) sign(s *signer) {
	iat := w.clock().Truncate(time.Second)
	if w.now.Sub(s.seen) >= w.terms.Lag() || w.one(8) {
		s.ring, s.seen = w.kept, w.now
	}
	if kid, ok := s.ring.Signing(); ok {
		if exp := iat.Add(w.terms.TokenLifetime); exp.After(w.exp[kid]) {
			w.exp[kid] = exp
		}
	}
}

// follow has an audience hear of a list, now and then, and look for the keys of
// all tokens that are alive.
func (w *world) follow(i int) error {
	if often := []int{2, 8, 30}[i]; w.one(often) && len(w.lists) > 0 {
		heard := w.lists[len(w.lists)-1-w.IntN(min(3, len(w.lists)))] // they overtake each other
		if heard.seq > w.follows[i].seq {
			w.follows[i] = heard
		}
	}
	list, now := w.follows[i], w.clock()
	if len(list.keys) == 0 || !now.Before(list.iat.Add(w.terms.ListLifetime)) {
		return nil // it refuses everything
	}
	listed := map[string]bool{}
	for _, k := range list.keys {
		listed[k.ID()] = true
	}
	for kid, exp := range w.exp {
		if !now.Before(exp) {
			continue
		}
		if w.alive++; !listed[kid] {
			return fmt.Errorf("after %s a living token's key is not in the list", w.now.Sub(start))
		}
	}
	for kid, end := range w.end {
		if w.now.Before(end) {
			continue
		}
		if w.over++; listed[kid] {
			return fmt.Errorf("after %s a key is in the list whose time is over", w.now.Sub(start))
		}
	}
	return nil
}
