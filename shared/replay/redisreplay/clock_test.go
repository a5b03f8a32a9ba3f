package redisreplay_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// stepped is a Redis whose clock a test sets, through a library that stands between
// it and the kernel.
type stepped struct {
	*redis
	file string // holds by how many seconds the clock is ahead; the library reads it each time
}

// startStepped starts one whose clock is right so far.
func startStepped(t *testing.T) *stepped {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	server, err2 := exec.LookPath("redis-server")
	if err := errors.Join(err, err2); err != nil {
		if os.Getenv("HANDOFF_CI") != "" {
			t.Fatal(err)
		}
		t.Skip("a Redis whose clock steps needs a C compiler and redis-server: ", err)
	}
	dir := t.TempDir()
	s := &stepped{file: filepath.Join(dir, "clock")}
	s.step(t, 0)
	library := filepath.Join(dir, "clock.so")
	if text, err := exec.Command(compiler, "-shared", "-fPIC", "-O1", "-o", library, "testdata/clock.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	script := fmt.Sprintf("#!/bin/sh\nLD_PRELOAD='%s' CLOCK_FILE='%s' exec '%s' \"$@\"\n", library, s.file, server)
	if err := os.WriteFile(filepath.Join(dir, "redis-server"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s.redis = start(t)
	return s
}

// step sets the clock, in whole seconds.
func (s *stepped) step(t *testing.T, ahead time.Duration) {
	t.Helper()
	f, err := os.OpenFile(s.file, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(binary.NativeEndian.AppendUint64(nil, uint64(ahead/time.Second))); err != nil {
		t.Fatal(err)
	}
}

// seconds asks the Redis for its time.
func (s *stepped) seconds() int64 {
	s.Helper()
	n, err := strconv.ParseInt(s.do("EVAL", "return redis.call('TIME')[1]", "0"), 10, 64)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// I06: the Redis's clock steps ahead between two checks, by as much as would end
// every mark, and back. Nothing that was redeemed before, meanwhile or at the very
// moment is redeemed again, whether or not the Redis looks for keys that have
// ended, and though nobody has noticed.
func TestI06TheClockOfTheRedisSteps(t *testing.T) {
	for _, by := range []time.Duration{10 * time.Minute, 24 * time.Hour, 10 * 365 * 24 * time.Hour, -10 * time.Minute} {
		t.Run(by.String(), func(t *testing.T) {
			r := startStepped(t)
			r.age()
			s := open(t, redisreplay.Config{URL: r.url()})
			together(t, s)
			var spent []handoff.Redemption
			more := func(n int) {
				for range n {
					one := token()
					if s.Redeem(t.Context(), one) == nil {
						spent = append(spent, one)
					}
				}
			}
			more(200)
			for range 4 {
				r.step(t, by)
				if off := time.Duration(r.seconds()-time.Now().Unix()) * time.Second; (off - by).Abs() > time.Minute {
					t.Fatalf("the Redis's clock is off by %s, want %s: the test shows nothing", off, by)
				}
				for _, one := range spent[:10] {
					again(t, s, one)
				}
				more(10)
				time.Sleep(300 * time.Millisecond) // the Redis removes what has ended ten times a second
				r.step(t, 0)
				for _, one := range spent {
					again(t, s, one)
				}
				more(10)
			}
			if len(spent) < 200 {
				t.Errorf("%d redeemed: the test shows little", len(spent))
			}
			servingtest.Eventually(t, "it redeems as before", func() bool { return s.Redeem(t.Context(), token()) == nil })
			for _, one := range spent {
				redeem(t, s, one, handoff.ErrReplayed)
			}
		})
	}
}

// again redeems what is spent, which must not succeed.
func again(t *testing.T, s handoff.Store, r handoff.Redemption) {
	t.Helper()
	if err := s.Redeem(t.Context(), r); err == nil {
		t.Fatal("redeemed twice")
	}
}

// E13: no clock of the Redis ends a mark, and the marks of a token are there until
// its exp + twice the skew have passed.
func TestE13TheMarkOutlivesTheToken(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url(), Skew: time.Second})
	one := token()
	one.Expires = one.IssuedAt.Add(time.Second)
	redeem(t, s, one, nil)
	if mortal := r.do("EVAL", `local n = 0
		for _, key in ipairs(redis.call('KEYS', '*')) do if redis.call('PTTL', key) ~= -1 then n = n + 1 end end
		return n`, "0"); mortal != ":0" {
		t.Errorf("%s keys have a time to live", mortal)
	}
	for end := one.Expires.Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		redeem(t, s, one, handoff.ErrReplayed)
	}
}

// E12: a Redis that is full removes what has ended, and goes on.
func TestE12AFullRedisIsEmptied(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	redeem(t, s, token(), nil)
	ended := time.Now().Add(-2*time.Minute).Unix() / 32
	r.do("EVAL", `for i = 1, 2000 do redis.call('SADD', KEYS[1], string.rep(i, 1000)) end`, "1", fmt.Sprint("handoff:spent:", ended))
	used, err := strconv.Atoi(r.info("used_memory"))
	if err != nil {
		t.Fatal(err)
	}
	r.do("CONFIG", "SET", "maxmemory", strconv.Itoa(used-1<<20))
	redeem(t, s, token(), handoff.ErrStoreFull)
	// The next check finds the period not removed yet.
	r.do("EVAL", `redis.call('UNLINK', 'nothing')
		redis.call('SET', KEYS[1], string.match(redis.call('GET', KEYS[1]), '^(.* )%d+$') .. ARGV[1])`, "1", "handoff:epoch", strconv.FormatInt(ended-1, 10))
	servingtest.Eventually(t, "there is room", func() bool { return s.Redeem(t.Context(), token()) == nil })
	if got := r.do("EXISTS", fmt.Sprint("handoff:spent:", ended)); got != ":0" {
		t.Error("what has ended is still there")
	}
}

// F01: a replica whose clock jumps refuses, removes no mark too early, and does
// not stop the others.
func TestF01AClockThatJumps(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{200 * time.Second, -200 * time.Second} {
		t.Run(jump.String(), func(t *testing.T) {
			t.Parallel()
			r := start(t).age()
			var ahead atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			jumps, right := open(t, redisreplay.Config{URL: r.url(), Now: now}), open(t, redisreplay.Config{URL: r.url()})
			together(t, jumps)
			ahead.Store(int64(jump))
			long := token()
			long.Expires = long.IssuedAt.Add(handoff.MaxLifetime)
			redeem(t, jumps, long, nil) // the clock has not been found wrong
			servingtest.Eventually(t, "the clock is found wrong", func() bool { return strings.Contains(jumps.told(), "failed") })
			refused(t, jumps, token())
			redeem(t, right, token(), nil)
			redeem(t, right, long, handoff.ErrReplayed)
			ahead.Store(0)
			recovers(t, jumps)
			redeem(t, jumps, long, handoff.ErrReplayed)
			redeem(t, right, token(), nil)
		})
	}
}

// F01: both clocks, the Redis's and the service's, were ahead, and marks were
// removed by them: what was issued before they were set right is refused.
func TestF01BothClocksWereAhead(t *testing.T) {
	t.Parallel()
	r := start(t).age()
	s := open(t, redisreplay.Config{URL: r.url()})
	spent := token()
	redeem(t, s, spent, nil)
	in10 := strconv.FormatInt(time.Now().Add(10*time.Minute).Unix()/32, 10)
	r.do("EVAL", `for _, key in ipairs(redis.call('KEYS', 'handoff:spent:*')) do redis.call('DEL', key) end
		redis.call('SET', KEYS[1], string.match(redis.call('GET', KEYS[1]), '^(.* )%d+$') .. ARGV[1])`, "1", "handoff:epoch", in10)
	for range 10 {
		again(t, s, spent)
	}
	servingtest.Eventually(t, "the store starts over", func() bool { return errors.Is(s.Healthy(), handoff.ErrIssuedBeforeStart) })
	redeem(t, s, spent, handoff.ErrIssuedBeforeStart)
	late := token()
	late.IssuedAt = s.Ready()
	redeem(t, s, late, nil)
	redeem(t, s, late, handoff.ErrReplayed)
}
