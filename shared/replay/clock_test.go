package replay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
)

// F01: a journal that was idle for long begins no segment meanwhile. The next
// process learns the time from the marks, and keeps each as long as it must,
// however wrong its own clock.
func TestF01JournalThatWasIdle(t *testing.T) {
	for _, idle := range []time.Duration{0, 10 * time.Minute, 10 * time.Hour} {
		for _, back := range []time.Duration{0, 20 * time.Second, time.Hour, 9 * time.Hour} {
			for lifetime, skew := range map[time.Duration]time.Duration{
				time.Minute: time.Second, handoff.MaxLifetime: handoff.MaxSkew,
			} {
				t.Run(fmt.Sprintf("idle %s, set back %s, lifetime %s", idle, back, lifetime), func(t *testing.T) {
					c := newClock()
					j := newJournal(t, c)
					j.config.Skew = skew
					s := j.open()
					c.Add(idle)
					r := c.token()
					r.IssuedAt = r.IssuedAt.Add(skew)
					r.Expires = r.IssuedAt.Add(lifetime)
					redeem(t, s, r, nil)
					c.Add(-back)
					s = j.reopen(s, replay.Restored)
					for c.Add(back + time.Second); c.Now().Before(r.Expires.Add(skew)); c.Add(7 * time.Second) {
						redeem(t, s, r, handoff.ErrReplayed)
					}
					if err := s.Healthy(); err != nil {
						t.Errorf("with the clock right again: %v", err)
					}
				})
			}
		}
	}
}

// E02, F01: what a page lost that the machine's crash tore is refused, though the
// clock was behind when the next process began: it begins later than any mark
// can have been written.
func TestF01JournalTornWithTheClockSetBack(t *testing.T) {
	for _, idle := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 10 * time.Minute, 10 * time.Hour} {
		for _, back := range []time.Duration{0, time.Second, 6 * time.Second, 10 * time.Second, 20 * time.Second, time.Hour, 20 * time.Hour} {
			t.Run(fmt.Sprintf("idle %s, set back %s", idle, back), func(t *testing.T) {
				c := newClock()
				j := newJournal(t, c)
				s := j.open()
				c.Add(idle)
				r := c.token()
				r.IssuedAt = r.IssuedAt.Add(5 * time.Second)
				redeem(t, s, r, nil)
				all := j.segments()
				zeroLastRecord(t, all[len(all)-1])
				c.Add(-back)
				s = j.reopen(s, replay.StartedOver)
				s = j.reopen(s, replay.Restored)
				c.Add(back + 2*time.Second)
				redeem(t, s, r, handoff.ErrIssuedBeforeStart)
			})
		}
	}
}

// A journal that starts over with a smaller skew knows that tokens were
// accepted with a larger.
func TestJournalTornWithASmallerSkew(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	j.config.Skew = time.Minute
	s := j.open()
	r := c.token()
	r.IssuedAt, r.Skew = r.IssuedAt.Add(time.Minute), time.Minute
	r.Expires = r.IssuedAt.Add(time.Minute)
	redeem(t, s, r, nil)
	all := j.segments()
	zeroLastRecord(t, all[len(all)-1])
	j.config.Skew = 0
	s = j.reopen(s, replay.StartedOver)
	s = j.reopen(s, replay.Restored)
	c.Add(time.Minute)
	r.Skew = 0
	redeem(t, s, r, handoff.ErrIssuedBeforeStart)
}

// After a time without marks, the first ones wait for a segment that says when
// they were made. Where none can be begun they are refused, and told.
func TestE06JournalThatWasIdleCannotBeginASegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		j := newJournal(t, c)
		s := j.open()
		c.Add(time.Hour)
		before := j.segments()
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() { redeem(t, s, c.token(), nil) })
		}
		wait.Wait()
		synctest.Wait()
		if after := j.segments(); len(after) > 2 || after[len(after)-1] == before[len(before)-1] {
			t.Errorf("segments %v after %v, want a new one, and the one before it at most", after, before)
		}

		c.Add(time.Hour)
		obstacle := filepath.Join(j.path, "next")
		if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			wait.Go(func() { unclear(t, s, c.token()) })
		}
		wait.Wait()
		if j.last(replay.Failed).Err == nil || s.Healthy() == nil {
			t.Error("healthy, and refuses")
		}
		time.Sleep(5*time.Second + 500*time.Millisecond) // between two attempts: one in the middle of RemoveAll would put a file there
		unclear(t, s, c.token())
		j.last(replay.Failed) // once: no more is told
		if err := os.RemoveAll(obstacle); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		j.last(replay.Resumed)
		redeem(t, s, c.token(), nil)

		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A verifier whose skew is larger than the store's is refused, also where
// another Store hides it from NewVerifier, and marks nothing.
func TestSkewOfTheVerifier(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	journal := j.open()
	memory := replay.NewMemory(c.config())
	c.Add(10 * time.Second)
	for name, s := range map[string]interface {
		handoff.Store
		Live() int
	}{"memory": memory, "journal": journal} {
		t.Run(name, func(t *testing.T) {
			r := c.token()
			for _, skew := range []time.Duration{5*time.Second + 1, handoff.MaxSkew} {
				r.Skew = skew
				unclear(t, s, r)
			}
			if s.Live() != 0 {
				t.Error("a refusal left a mark")
			}
			r.Skew = 5 * time.Second
			redeem(t, s, r, nil)
			r.Skew = 0
			redeem(t, s, r, handoff.ErrReplayed)
		})
	}
}

func zeroLastRecord(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) < 72+24 {
		t.Fatal("the segment has no record")
	}
	clear(content[len(content)-24:])
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
