package redisreplay_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// E06: a Redis that hangs, with callers all the while: each is refused in time,
// nothing piles up, and it is used again soon after it answers again.
func TestE06RedisStopped(t *testing.T) {
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url(), Timeout: 100 * time.Millisecond})
	recovers(t, s)
	r.stall()
	const callers = 32
	var took [callers][]time.Duration
	var wait sync.WaitGroup
	stop := make(chan struct{})
	var machine time.Duration // by how much it is late itself, at most
	wait.Go(func() {
		for {
			began := time.Now()
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				machine = max(machine, time.Since(began)-10*time.Millisecond)
			}
		}
	})
	for i := range callers {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				if s.Redeem(context.Background(), token()) == nil {
					t.Error("redeemed by a Redis that hangs")
				}
				took[i] = append(took[i], time.Since(began))
				time.Sleep(time.Millisecond)
			}
		})
	}
	time.Sleep(time.Second)
	before := runtime.NumGoroutine()
	most := before
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		most = max(most, runtime.NumGoroutine())
	}
	close(stop)
	wait.Wait()
	all := slices.Concat(took[:]...)
	slices.Sort(all)
	// All but the slowest, which a busy machine delays more than it does the one that measures it.
	if late := all[len(all)*95/100]; late > 250*time.Millisecond+2*machine {
		t.Errorf("one in 20 is refused after %s or more, want 250ms, and the machine is late by %s", late, machine)
	}
	if most > before+callers {
		t.Errorf("%d goroutines after a second, then %d: they pile up", before, most)
	}
	if s.Healthy() == nil {
		t.Error("healthy, with a Redis that hangs")
	}
	r.cont()
	recovers(t, s)
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

// E06: more callers than may wait are refused too, and leave nothing behind.
func TestE06RedisStoppedUnderAnAvalanche(t *testing.T) {
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url(), Timeout: 150 * time.Millisecond})
	r.stall()
	var wait sync.WaitGroup
	for range 10_000 {
		wait.Go(func() { refused(t, s, token()) })
	}
	wait.Wait()
	r.cont()
	recovers(t, s)
}

// E06: the first redemption that meets with doubt makes the store unhealthy, and
// all that follow are refused at once, until a check has found the Redis well.
func TestE06InDoubt(t *testing.T) {
	const timeout = 2 * time.Second
	r := start(t).age()
	p := newProxy(t, r)
	s := open(t, redisreplay.Config{URL: p.url(), Timeout: timeout})
	redeem(t, s, token(), nil)
	r.stall()
	refused(t, s, token())
	servingtest.Eventually(t, "it is unhealthy", func() bool { return s.Healthy() != nil })
	began := time.Now()
	for range 100 {
		refused(t, s, token())
	}
	if took := time.Since(began); took > 5*timeout { // and not 100 of it
		t.Errorf("100 more refusals take %s", took)
	}
	r.cont()
	recovers(t, s)
	p.cut() // one link of several is in doubt
	for range 20 {
		if s.Redeem(context.Background(), token()) != nil {
			break
		}
	}
	recovers(t, s)
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

// A Redis, or a network, that gives idle connections up is met with no refusal.
func TestIdle(t *testing.T) {
	t.Parallel()
	r := start(t, "--timeout", "11").age()
	s := open(t, redisreplay.Config{URL: r.url()})
	together(t, s)
	time.Sleep(13 * time.Second)
	together(t, s)
}

func TestE06RedisGone(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	r.kill()
	for range 20 {
		refused(t, s, token())
	}
	servingtest.Eventually(t, "it is unhealthy", func() bool { return s.Healthy() != nil })
	r.run()
	recovers(t, s)
}

// E06, E12: no memory left refuses, and drops nothing.
func TestE06E12RedisFull(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	spent := token()
	redeem(t, s, spent, nil)
	r.do("CONFIG", "SET", "maxmemory", "1")
	for range 10 {
		redeem(t, s, token(), handoff.ErrStoreFull)
	}
	r.do("CONFIG", "SET", "maxmemory", "0")
	recovers(t, s)
	redeem(t, s, spent, handoff.ErrReplayed)
}

// E06: a primary that becomes a replica refuses to write.
func TestE06RedisReadOnly(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	redeem(t, s, token(), nil)
	r.do("REPLICAOF", "127.0.0.1", "1")
	for range 10 {
		refused(t, s, token())
	}
	servingtest.Eventually(t, "it is unhealthy", func() bool { return s.Healthy() != nil })
}

// E07: a redemption that was applied and not answered is refused, and stays
// spent.
func TestE07AppliedAndNotAnswered(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	p := newProxy(t, r)
	var silent atomic.Bool
	p.change(r, func(reply []byte) []byte {
		if silent.Load() {
			return nil
		}
		return reply
	})
	s := open(t, redisreplay.Config{URL: p.url(), Timeout: 2 * time.Second})
	together(t, s)
	silent.Store(true)
	var unanswered handoff.Redemption
	before := r.marks()
	for applied := false; !applied; applied = r.marks() != before { // not each is sent: connections are made too
		unanswered = token()
		refused(t, s, unanswered)
	}
	silent.Store(false)
	servingtest.Eventually(t, "an answer", func() bool {
		err := s.Redeem(context.Background(), unanswered)
		if err == nil {
			t.Fatal("redeemed twice")
		}
		return errors.Is(err, handoff.ErrReplayed)
	})
}

// E08: a reply that was meant for another command, of this caller's or another's,
// does not make a success.
func TestE08RepliesOfOtherCommands(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(earlier, reply []byte) []byte{
		"one too many":       func(_, reply []byte) []byte { return append([]byte(":1\r\n"), reply...) },
		"one too few":        func(_, reply []byte) []byte { return reply[bytes.IndexByte(reply, '\n')+1:] },
		"an earlier batch's": func(earlier, _ []byte) []byte { return earlier },
		"an earlier batch's before it": func(earlier, reply []byte) []byte {
			return append(bytes.Clone(earlier), reply...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t).age()
			p := newProxy(t, r)
			var mu sync.Mutex
			var on bool
			var earlier []byte
			p.change(r, func(reply []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				if on {
					return meddle(earlier, reply)
				}
				earlier = bytes.Clone(reply)
				return reply
			})
			s := open(t, redisreplay.Config{URL: p.url()})
			together(t, s) // a link that is made while replies are meddled with refuses anyway
			spent := token()
			redeem(t, s, spent, nil) // its replies are the earlier batch's: a redemption
			mu.Lock()
			if !bytes.HasPrefix(earlier, []byte("*4\r\n")) {
				t.Errorf("the earlier batch's replies are %q", earlier)
			}
			on = true
			mu.Unlock()
			for range 5 {
				refused(t, s, spent)
			}
		})
	}
}

// F01: a clock that is not Redis's, beyond the skew, is refused at the start: it is
// not known which of them is right.
func TestF01ClocksApart(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	for _, apart := range []time.Duration{-10 * time.Second, 10 * time.Second, 24 * time.Hour} {
		now := func() time.Time { return time.Now().Add(apart) }
		if s, err := redisreplay.Open(t.Context(), redisreplay.Config{URL: r.url(), Now: now}); err == nil {
			s.Close()
			t.Errorf("opened, with clocks %s apart", apart)
		}
	}
}

// together has every connection of a store made and used.
func together(t *testing.T, s handoff.Store) {
	t.Helper()
	var wait sync.WaitGroup
	for range 32 {
		wait.Go(func() {
			for range 10 {
				redeem(t, s, token(), nil)
			}
		})
	}
	wait.Wait()
}
