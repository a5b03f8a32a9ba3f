package e2e

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/measure"
)

// tally counts what uses of tokens came to.
type tally struct {
	mu      sync.Mutex
	of      map[outcome]int
	crowded int // tokens, each used by a crowd
}

func (c *tally) add(history []porcupine.Operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crowded++
	for _, operation := range history {
		c.of[operation.Output.(outcome)]++
	}
}

// rarest is how many uses there were of that of these kinds of which there were fewest.
func (c *tally) rarest(kinds ...outcome) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	least := math.MaxInt
	for _, kind := range kinds {
		least = min(least, c.of[kind])
	}
	return least
}

// tokens is how many were used.
func (c *tally) tokens() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crowded
}

func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(c.of)) {
		parts = append(parts, fmt.Sprintf("%d %s", c.of[kind], kind))
	}
	return strings.Join(parts, ", ")
}

// crowd has callers use one token at all replicas at once, and then each replica
// once more, and says whether one of them was accepted. What they were told must
// be a history of one token.
func (s *shared) crowd(callers int, uses *tally) (once bool) {
	token, began := s.fresh(), time.Now()
	history := make([]porcupine.Operation, callers+replicas)
	present := func(i int) {
		called := time.Since(began)
		got, _ := s.present(i%replicas, token)
		history[i] = use(i, int64(called), int64(time.Since(began)), got)
	}
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() { present(i) })
	}
	group.Wait()
	for i := range replicas {
		present(callers + i)
	}
	uses.add(history)
	accepts := 0
	for _, operation := range history {
		if operation.Output == accepted {
			accepts++
		}
	}
	if accepts > 1 {
		s.Errorf("one token was accepted %d times", accepts)
	}
	if told := telling(history); !porcupine.CheckOperations(spending, told) {
		s.Errorf("what the callers of a token were told is not one history: %+v", told)
	}
	return accepts == 1
}

// crowds has one crowd after another, some at a time, each with a token of its
// own, until there were so many and enough is true, and returns how many tokens
// were used, and how many of them accepted.
func (s *shared) crowds(atOnce, tokens, callers int, uses *tally, enough func() bool) (used, once int) {
	var begun, ended, accepts atomic.Int64
	defer progress(s.T, func() string { return fmt.Sprintf("%d of %d tokens", ended.Load(), tokens) })()
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for !s.Failed() && (begun.Add(1) <= int64(tokens) || !enough()) {
				if s.crowd(callers, uses) {
					accepts.Add(1)
				}
				ended.Add(1)
			}
		})
	}
	group.Wait()
	return int(ended.Load()), int(accepts.Load())
}

// E01, E03, E06, E07: while Redis is killed, the links to it are stalled and cut,
// and replicas are killed, no token is accepted twice, and what all callers are
// told is one history; once that is over, each fresh token is accepted once.
func TestChaos(t *testing.T) {
	s := startShared(t)
	tokens, callers := measure.Of(100, 300, 10_000), measure.Of(16, 16, 64)
	every := time.Duration(measure.Of(1200, 1200, 5000)) * time.Millisecond

	stop := make(chan struct{})
	var rounds atomic.Int64
	var disturbing sync.WaitGroup
	disturbing.Go(func() { s.disturb(every, &rounds, stop) })
	uses := &tally{of: map[outcome]int{}}
	happened := func() bool { // of what could go wrong, and right between the faults
		return rounds.Load() >= 2 && uses.rarest(accepted, replayed) >= tokens/4 && uses.rarest(doubtful) > 0 &&
			uses.rarest(accepted) >= uses.tokens()/8
	}
	began := time.Now()
	used, once := s.crowds(8, tokens, callers, uses, func() bool { return happened() || time.Since(began) > 10*patience })
	close(stop)
	disturbing.Wait()
	t.Logf("%d rounds of %d faults; %d tokens used by %d callers each, %d of them accepted once; uses: %s",
		rounds.Load(), len(s.faults()), used, callers, once, uses)
	if t.Failed() {
		return
	}
	if !happened() {
		t.Error("that is little in which anything could go wrong")
	}
	s.calm(measure.Of(100, 400, 2000), measure.Of(4, 4, 64))
}

// fault is a harm that is done, and made good again after a while.
type fault struct {
	harm, heal func() error
	lasts      time.Duration
}

// faults are what the shared replicas must bear.
func (s *shared) faults() []fault {
	each := func(do func(*pair.Link)) func() error {
		return func() error {
			for _, link := range s.links {
				do(link)
			}
			return nil
		}
	}
	return []fault{
		{s.redis.Kill, func() error { return s.redis.Start(s.Context()) }, 100 * time.Millisecond},
		{each((*pair.Link).Stall), each((*pair.Link).Pass), 400 * time.Millisecond},
		{s.pair.Audiences[2].Kill, func() error { return s.pair.StartServer2(s.Context(), 2) }, 50 * time.Millisecond},
		{each((*pair.Link).Cut), each((*pair.Link).Pass), 100 * time.Millisecond},
	}
}

// disturb does all faults every so often, one after the other, until stop.
func (s *shared) disturb(every time.Duration, rounds *atomic.Int64, stop <-chan struct{}) {
	for {
		for _, fault := range s.faults() { // those of the replica that there is now
			select {
			case <-stop:
				return
			case <-time.After(every/4 - fault.lasts):
			}
			if err := fault.harm(); err != nil {
				s.Error(err)
			}
			time.Sleep(fault.lasts)
			if err := fault.heal(); err != nil {
				s.Error(err)
			}
		}
		rounds.Add(1)
	}
}

// calm waits until the replicas serve again, and has callers use fresh tokens: soon
// all but a few are accepted exactly once, and half of all of them until then.
func (s *shared) calm(tokens, callers int) {
	s.Helper()
	time.Sleep(backWithin)
	if err := s.pair.Ready(s.Context()); err != nil {
		s.Fatal(err)
	}
	for replica := range replicas {
		_, _ = s.present(replica, s.fresh(), grpc.WaitForReady(true)) // its connection is there
	}
	allUsed, allOnce := 0, 0
	for began := time.Now(); ; {
		uses := &tally{of: map[outcome]int{}}
		used, once := s.crowds(2, tokens, callers, uses, func() bool { return true })
		s.Logf("without faults, %d of %d tokens used by %d callers each accepted once; uses: %s", once, used, callers, uses)
		allUsed, allOnce = allUsed+used, allOnce+once
		if (used-once)*measure.Of(100, 100, 1000) <= used && allOnce*2 >= allUsed || s.Failed() {
			return
		}
		if time.Since(began) > patience { // of a machine that is late
			s.Errorf("%d of %d tokens, at last %d of %d, were accepted by nobody, and nothing was wrong", allUsed-allOnce, allUsed, used-once, used)
			return
		}
	}
}
