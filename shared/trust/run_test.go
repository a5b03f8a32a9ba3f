package trust

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// running starts a follower of the feed inside a bubble. events returns what it
// has reported since the last time.
func running(t *testing.T, trustKey *forge.Key, source Feed) (f *Follower, events func() []Fault) {
	t.Helper()
	var mu sync.Mutex
	var reported []Event
	f, err := NewFollower(FollowerConfig{
		Issuer: issuer, TrustKeys: []handoff.Key{trustKey.Public}, Feed: source,
		Report: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			reported = append(reported, e)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f, func() (faults []Fault) {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for _, e := range reported {
			faults = append(faults, e.Fault)
			if (e.Fault == "") != (e.Err == nil) {
				t.Errorf("the event %+v has no reason", e)
			}
		}
		reported = nil
		return faults
	}
}

func same(t *testing.T, what string, got []Fault, want ...Fault) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: reported %q, want %q", what, got, want)
	}
}

// mouth is a feed that says what a test puts into it, as often as it is asked,
// and after a list that was accepted waits to be interrupted.
type mouth struct {
	interrupt chan struct{}

	mu    sync.Mutex
	next  func() (string, error)
	asked []time.Time
}

func newMouth() *mouth { return &mouth{interrupt: make(chan struct{})} }

// say sets what the mouth says from now on.
func (m *mouth) say(next func() string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = func() (string, error) { return next(), nil }
}

// shut makes every attempt to read fail from now on.
func (m *mouth) shut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = func() (string, error) { return "", errors.New("connection refused") }
}

// attempts says when the mouth was asked.
func (m *mouth) attempts() []time.Time {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

func (m *mouth) Follow(ctx context.Context, _ string, deliver func(string, Fetch) error) error {
	m.mu.Lock()
	m.asked = append(m.asked, time.Now())
	next := m.next
	m.mu.Unlock()
	raw, err := next()
	if err != nil {
		return err
	}
	if err := deliver(raw, Given("")); err != nil {
		return err
	}
	select {
	case <-m.interrupt:
		return errors.New("connection reset")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// One report for each distinct fault, however often it is met, until a newer list
// is in force.
func TestReportsEachFaultOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		good := func() forge.Token { return goodList(trustKey, time.Now(), key.Key()) }
		m := newMouth()
		m.shut()
		f, events := running(t, trustKey, m)
		time.Sleep(5 * time.Second)
		same(t, "no feed", events(), FaultFeed)
		if attempts := len(m.attempts()); attempts < 8 {
			t.Errorf("%d attempts in 5 s", attempts)
		}

		m.say(func() string { return good().Compact() })
		time.Sleep(time.Second)
		same(t, "the first list", events(), "")
		m.interrupt <- struct{}{}
		time.Sleep(time.Second)
		same(t, "a connection that ends and is made again", events())
		seq := f.Status().Seq

		for i, step := range []struct {
			want []Fault
			say  func() string
		}{
			{[]Fault{FaultSignature}, func() string { return good().Compact() + ".x" }},
			{nil, func() string { return good().Compact() + ".y" }},
			{[]Fault{FaultSignature}, func() string { return good().WithHeader("typ", `"JWT"`).Compact() }},
			{[]Fault{FaultSchema}, func() string { return good().WithClaim("x", "1").Compact() }},
			{[]Fault{FaultIssuer}, func() string { return good().WithClaim("iss", `"https://x.example"`).Compact() }},
			{[]Fault{FaultFuture}, func() string { return good().WithClaim("seq", "9007199254740991").Compact() }},
			{[]Fault{FaultRolledBack}, func() string { return numbered(good(), seq-1).Compact() }},
			{nil, func() string { return numbered(good(), seq-2).Compact() }},
		} {
			m.say(step.say)
			if i == 0 {
				m.interrupt <- struct{}{}
			}
			time.Sleep(time.Second)
			same(t, step.say()[:20], events(), step.want...)
			if f.Status().Seq != seq || f.Healthy() != nil {
				t.Error("the last good list does not stand")
			}
		}
		time.Sleep(5 * time.Second)
		same(t, "ten seconds after the list", events(), FaultStale)
		if f.Healthy() == nil {
			t.Error("healthy with a stale list")
		}

		m.say(func() string { return good().Compact() })
		time.Sleep(time.Second)
		same(t, "a newer list", events(), "")
		if f.Healthy() != nil {
			t.Error("not healthy with a new list")
		}
	})
}

// F09, and what issue 4 lists: for each bad list, however often it is read
// again, the last good one stays, and there is one report.
func TestF09BadListsAreReportedOnce(t *testing.T) {
	trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
	bubble := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when each begins
	for _, hostile := range hostileLists(trustKey, key.key, bubble) {
		t.Run(hostile.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				good := func() forge.Token { return goodList(trustKey, time.Now(), key.Key()) }
				m := newMouth()
				m.say(func() string { return numbered(good(), time.Now().UnixMilli()-1).Compact() })
				f, events := running(t, trustKey, m)
				same(t, "the list before", events(), "")
				before, asked := f.Status(), len(m.attempts())

				bad := hostile.forge(good())
				m.say(func() string { return bad })
				m.interrupt <- struct{}{}
				time.Sleep(900 * time.Millisecond)
				same(t, "the bad list", events(), hostile.fault)
				if again := len(m.attempts()) - asked; again < 3 {
					t.Errorf("it was read %d times", again)
				}
				if f.Healthy() != nil || f.Status() != before {
					t.Errorf("the last good list does not stand: %+v, %v", f.Status(), f.Healthy())
				}

				m.say(func() string { return good().Compact() })
				time.Sleep(time.Second)
				same(t, "a good one", events(), "")
			})
		})
	}
}

// Publishers behind one name, of which now one answers and now the other, do not fill
// the log; a list that is rolled back later is told again.
func TestPublishersBehindOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		good := func() forge.Token { return goodList(trustKey, time.Now(), key.Key()) }
		m := newMouth()
		asked := 0
		m.say(func() string {
			if asked++; asked%2 == 0 {
				return numbered(good(), time.Now().Add(-time.Second).UnixMilli()).Compact()
			}
			return good().Compact()
		})
		_, events := running(t, trustKey, m)
		var told []Fault
		for range 30 {
			time.Sleep(time.Second)
			synctest.Wait()
			select {
			case m.interrupt <- struct{}{}:
			default:
			}
			told = append(told, events()...)
		}
		same(t, "half a minute", told, "", FaultRolledBack, "")
		if len(m.attempts()) < 30 {
			t.Errorf("read %d times", len(m.attempts()))
		}
		time.Sleep(time.Minute)
		m.say(func() string { return good().Compact() })
		time.Sleep(time.Second)
		events()
		m.say(func() string { return numbered(good(), time.Now().Add(-time.Minute).UnixMilli()).Compact() })
		m.interrupt <- struct{}{}
		time.Sleep(time.Second)
		same(t, "later", events(), FaultRolledBack)
	})
}

// A feed that falls silent, or brings the same list again and again, is read again
// before the list is too old.
func TestSilentFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		first := goodList(trustKey, time.Now(), key.Key()).Compact()
		m := newMouth()
		m.say(func() string { return first })
		f, events := running(t, trustKey, m)
		began := time.Now()
		time.Sleep(5*time.Second - 1)
		same(t, "before half of the time", events(), "")
		if len(m.attempts()) != 1 {
			t.Errorf("read %d times", len(m.attempts()))
		}
		time.Sleep(time.Second)
		same(t, "after half of the time", events(), FaultFeed)
		if len(m.attempts()) != 2 || f.Healthy() != nil {
			t.Errorf("read %d times, healthy: %v", len(m.attempts()), f.Healthy())
		}
		time.Sleep(time.Until(began.Add(11 * time.Second)))
		same(t, "after all of it", events(), FaultStale)
		second := goodList(trustKey, time.Now(), key.Key()).Compact()
		m.say(func() string { return second })
		time.Sleep(5 * time.Second)
		same(t, "a newer list", events(), "")
	})
}

// Attempts come at growing intervals, never further apart than 600 ms, and begin
// again after success.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
		m := newMouth()
		m.shut()
		_, _ = running(t, trustKey, m)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		check := func(from int, bounds ...[2]time.Duration) {
			t.Helper()
			asked := m.attempts()
			for i := from + 1; i < len(asked); i++ {
				gap := asked[i].Sub(asked[i-1])
				bound := bounds[min(i-from-1, len(bounds)-1)]
				if gap < bound[0]*time.Millisecond || gap > bound[1]*time.Millisecond {
					t.Errorf("attempt %d after %s, want %d to %d ms", i, gap, bound[0], bound[1])
				}
			}
		}
		check(0, [2]time.Duration{40, 60}, [2]time.Duration{80, 120}, [2]time.Duration{160, 240}, [2]time.Duration{320, 480}, [2]time.Duration{400, 600})
		if len(m.attempts()) < 30 {
			t.Errorf("%d attempts in 20 s", len(m.attempts()))
		}
		m.say(func() string { return goodList(trustKey, time.Now(), key.Key()).Compact() })
		time.Sleep(time.Second)
		synctest.Wait()
		m.shut()
		from := len(m.attempts())
		m.interrupt <- struct{}{}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		check(from, [2]time.Duration{80, 120}, [2]time.Duration{160, 240}, [2]time.Duration{320, 480}, [2]time.Duration{400, 600})
	})
}
