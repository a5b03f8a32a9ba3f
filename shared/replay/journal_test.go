package replay_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is a journal's folder, with what it tells.
type journal struct {
	*testing.T
	path   string
	config replay.Config

	mu     sync.Mutex
	events []replay.Event
}

func newJournal(t *testing.T, c *clock) *journal {
	t.Helper()
	j := &journal{T: t, path: filepath.Join(t.TempDir(), "journal")}
	j.config = replay.Config{Now: c.Now, Observe: func(e replay.Event) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.events = append(j.events, e)
	}}
	if err := replay.Create(j.path, j.config); err != nil {
		t.Fatal(err)
	}
	c.Add(10 * time.Second)
	return j
}

func (j *journal) open() *replay.Journal {
	j.Helper()
	s, err := replay.Open(j.path, j.config)
	if err != nil {
		j.Fatal(err)
	}
	j.Cleanup(func() {
		if err := s.Close(); err != nil {
			j.Error(err)
		}
	})
	return s
}

// reopen opens the journal after a process has ended, and checks what it tells.
func (j *journal) reopen(s *replay.Journal, want replay.EventKind) *replay.Journal {
	j.Helper()
	if err := s.Close(); err != nil {
		j.Error(err)
	}
	s = j.open()
	j.last(want)
	return s
}

func (j *journal) last(want replay.EventKind) replay.Event {
	j.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) == 0 {
		j.Fatalf("nothing was told, want %q", want)
	}
	last := j.events[len(j.events)-1]
	if last.Kind != want {
		j.Errorf("told %q (%v), want %q", last.Kind, last.Err, want)
	}
	return last
}

// segments returns the paths of the journal's files, oldest first.
func (j *journal) segments() []string {
	j.Helper()
	all, err := filepath.Glob(filepath.Join(j.path, "*.journal"))
	if err != nil {
		j.Fatal(err)
	}
	return all
}

func TestJournalConforms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := replay.Create(path, replay.Config{}); err != nil {
		t.Fatal(err)
	}
	s, err := replay.Open(path, replay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("store", func(t *testing.T) {
		handofftest.Store(t, func(*testing.T) handoff.Store { return s })
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// E02: what was redeemed is refused by the next process, which needs no pause.
func TestE02JournalOutlivesTheProcess(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	j.last(replay.Restored)
	before, unused := c.token(), c.token()
	redeem(t, s, before, nil)
	for range 3 {
		s = j.reopen(s, replay.Restored)
		if err := s.Healthy(); err != nil {
			t.Errorf("after a restart: %v", err)
		}
		redeem(t, s, before, handoff.ErrReplayed)
		fresh := c.token()
		redeem(t, s, fresh, nil)
		redeem(t, s, fresh, handoff.ErrReplayed)
	}
	if s.Live() != 4 {
		t.Errorf("%d live, want 4", s.Live())
	}
	redeem(t, s, unused, nil)
}

func TestJournalBeginsWhenItIsMade(t *testing.T) {
	c := newClock()
	made := c.second()
	j := newJournal(t, c)
	s := j.open()
	r := c.token()
	for _, ahead := range []time.Duration{-time.Second, 0, 5 * time.Second} {
		r.IssuedAt = made.Add(ahead)
		redeem(t, s, r, handoff.ErrIssuedBeforeStart)
	}
	if want := made.Add(6 * time.Second); !s.Ready().Equal(want) {
		t.Errorf("ready at %v, want %v", s.Ready(), want)
	}
	r.IssuedAt = made.Add(6 * time.Second)
	redeem(t, s, r, nil)
}

func TestJournalIsMadeExplicitly(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	if _, err := replay.Open(missing, replay.Config{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing journal: got %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Error("opening made something")
	}
	if _, err := replay.Open(dir, replay.Config{}); err == nil {
		t.Error("an empty folder was opened")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.Open(file, replay.Config{}); err == nil {
		t.Error("a file was opened")
	}
	for _, path := range []string{dir, file, filepath.Join(missing, "below")} {
		if err := replay.Create(path, replay.Config{}); err == nil {
			t.Errorf("made a journal at %s", filepath.Base(path))
		}
	}
	if err := replay.Create(dir, replay.Config{}); !errors.Is(err, fs.ErrExist) {
		t.Error("over what is there:", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v (%v), want the file alone", left, err)
	}
}

func TestJournalIsOneProcess(t *testing.T) {
	j := newJournal(t, newClock())
	s := j.open()
	if _, err := replay.Open(j.path, j.config); err == nil {
		t.Fatal("opened twice")
	}
	s = j.reopen(s, replay.Restored)
	redeem(t, s, newToken(s), nil)
}

// A journal that Open takes is found, and one in use; nothing else, and nothing is
// changed by it.
func TestCheck(t *testing.T) {
	j := newJournal(t, newClock())
	before := j.segments()
	if err := replay.Check(j.path); err != nil {
		t.Error("a new journal:", err)
	}
	if after := j.segments(); !slices.Equal(before, after) {
		t.Errorf("from %q to %q", before, after)
	}
	s := j.open()
	if err := replay.Check(j.path); err != nil {
		t.Error("one in use:", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := replay.Check(j.path); err != nil {
		t.Error("one that was closed:", err)
	}
	empty := t.TempDir()
	for what, path := range map[string]string{"nothing": filepath.Join(empty, "x"), "an empty folder": empty, "a file": j.segments()[0]} {
		if err := replay.Check(path); err == nil {
			t.Errorf("%s is taken for a journal", what)
		}
	}
	if err := os.Chmod(j.path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := replay.Check(j.path); err == nil {
		t.Error("one that others can write is taken")
	}
}

// newToken returns a token that s accepts, by any clock.
func newToken(s interface{ Ready() time.Time }) handoff.Redemption {
	issued := s.Ready().Add(10 * time.Second)
	return handoff.Redemption{Issuer: "https://shop.example", ID: handoff.NewID(), IssuedAt: issued, Expires: issued.Add(time.Minute)}
}

func TestJournalIsPrivate(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	redeem(t, j.open(), c.token(), nil)
	err := filepath.WalkDir(j.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: others may use it: %v", d.Name(), info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestJournalAfterClose(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	unclear(t, s, c.token())
}

// A write that was killed leaves a part of a record at the end. Nothing before
// it is lost, and the next process accepts at once.
func TestJournalWithARecordCutOff(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	before := c.token()
	redeem(t, s, before, nil)
	j.kill(s, make([]byte, 23))
	for range 2 {
		s = j.open()
		j.last(replay.Restored)
		redeem(t, s, before, handoff.ErrReplayed)
		redeem(t, s, c.token(), nil)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// kill leaves what a process leaves that is killed: no segment that says that the
// journal was closed, no seal, and what it was writing.
func (j *journal) kill(s *replay.Journal, half []byte) {
	j.Helper()
	if err := s.Close(); err != nil {
		j.Fatal(err)
	}
	all := j.segments()
	if err := os.Remove(all[len(all)-1]); err != nil {
		j.Fatal(err)
	}
	path := all[len(all)-2]
	j.change(path, func(b []byte) []byte { return append(b[:len(b)-24], half...) })
}

// change changes a file where it stands.
func (j *journal) change(path string, how func([]byte) []byte) {
	j.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		j.Fatal(err)
	}
	if err := os.WriteFile(path, how(content), 0o600); err != nil {
		j.Fatal(err)
	}
}

// E02: a journal that is damaged anywhere starts over: a token that it can have
// forgotten is refused.
func TestE02JournalDamaged(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"an empty file":             func(b []byte) []byte { return nil },
		"half a header":             func(b []byte) []byte { return b[:40] },
		"the magic":                 flip(0),
		"the boot id":               flip(16),
		"the number":                flip(39),
		"the clock":                 flip(47),
		"the start":                 flip(55),
		"the header's checksum":     flip(123),
		"the flags":                 flip(71),
		"the first record's key":    flip(124),
		"the first record's expiry": flip(124 + 19),
		"the last record":           flip(124 + 24*9 + 23),
		"zeros in the middle":       func(b []byte) []byte { clear(b[124+24*3 : 124+24*6]); return b },
		"a record is missing":       func(b []byte) []byte { return append(b[:124+24*3], b[124+24*4:]...) },
		"two records, exchanged": func(b []byte) []byte {
			return slices.Concat(b[:124], b[124+24:124+24*2], b[124:124+24], b[124+24*2:])
		},
		"zeros at the end": func(b []byte) []byte { return append(b, make([]byte, 4096)...) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			j := newJournal(t, c)
			s := j.open()
			var before []handoff.Redemption
			for range 10 {
				before = append(before, c.token())
				redeem(t, s, before[len(before)-1], nil)
			}
			all := j.segments()
			path := all[len(all)-1]
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Add(time.Second)
			s = j.reopen(s, replay.StartedOver)
			for _, r := range before {
				redeem(t, s, r, handoff.ErrIssuedBeforeStart)
			}
			redeem(t, s, c.token(), handoff.ErrIssuedBeforeStart)
			if s.Healthy() == nil {
				t.Error("healthy, and refuses")
			}
			// That holds through a restart, which finds nothing wrong.
			c.Add(time.Second)
			s = j.reopen(s, replay.Restored)
			redeem(t, s, c.token(), handoff.ErrIssuedBeforeStart)
			wait := s.Ready().Sub(c.Now())
			if wait > 30*time.Second {
				t.Errorf("ready in %s", wait)
			}
			c.Add(wait - time.Millisecond)
			redeem(t, s, c.token(), handoff.ErrIssuedBeforeStart)
			c.Add(time.Millisecond)
			redeem(t, s, c.token(), nil)
			for _, r := range before {
				redeem(t, s, r, handoff.ErrIssuedBeforeStart)
			}
		})
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 1
		return b
	}
}

// A segment under another's name is not taken for it.
func TestJournalSegmentRenamed(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	s := j.open()
	redeem(t, s, c.token(), nil)
	all := j.segments()
	if err := os.Rename(all[len(all)-1], filepath.Join(j.path, "00000000000000ff.journal")); err != nil {
		t.Fatal(err)
	}
	j.reopen(s, replay.StartedOver)
}

func TestJournalOfAnotherVersion(t *testing.T) {
	c := newClock()
	j := newJournal(t, c)
	content, err := os.ReadFile(j.segments()[0])
	if err != nil {
		t.Fatal(err)
	}
	content[15] = 3
	if err := os.WriteFile(j.segments()[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.Open(j.path, j.config); err == nil {
		t.Error("opened")
	}
	if err := replay.Check(j.path); err == nil {
		t.Error("taken for one that can be opened")
	}
	if len(j.segments()) != 1 {
		t.Error("changed something")
	}
}

// F01: the clock that never goes back outlives the process.
func TestF01JournalWhenTheClockIsSetBackAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		j := newJournal(t, c)
		s := j.open()
		old := c.token()
		redeem(t, s, old, nil)
		wait := func(d time.Duration) {
			for range int(d / time.Second) {
				c.Add(time.Second)
				time.Sleep(time.Second)
			}
			synctest.Wait()
		}
		wait(2 * time.Minute)
		if n := len(j.segments()); n != 1 {
			t.Errorf("%d segments after the last mark's end, want the current one", n)
		}
		recent := c.token()
		redeem(t, s, recent, nil)
		c.Add(-110 * time.Second) // old is within its time again
		s = j.reopen(s, replay.Restored)
		unclear(t, s, old)
		redeem(t, s, recent, handoff.ErrReplayed)
		if s.Healthy() == nil {
			t.Error("healthy, with the clock 110 s behind")
		}
		c.Add(110 * time.Second)
		if err := s.Healthy(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A larger skew than the journal was written with does not revive what it
// dropped.
func TestJournalWithAnotherSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		j := newJournal(t, c)
		s := j.open()
		old := c.token()
		redeem(t, s, old, nil)
		for range 120 {
			c.Add(time.Second)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		j.config.Skew = time.Minute
		s = j.reopen(s, replay.Restored)
		unclear(t, s, old)
		s.Close()
	})
}

// E12: the files hold what can still matter, and no more.
func TestE12JournalIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		j := newJournal(t, c)
		s := j.open()
		most, bytes := 0, int64(0)
		for range 600 {
			redeem(t, s, c.token(), nil)
			c.Add(time.Second)
			time.Sleep(time.Second)
			synctest.Wait()
			most = max(most, len(j.segments()))
			var sum int64
			for _, path := range j.segments() {
				if info, err := os.Stat(path); err == nil {
					sum += info.Size()
				}
			}
			bytes = max(bytes, sum)
		}
		// A mark lives 70 s and lies in a segment that lasts 16 s, which is
		// removed within 16 s of its end.
		if most > 9 || bytes > (70+4*16)*24+9*124 {
			t.Errorf("%d segments with %d bytes", most, bytes)
		}
		for range 120 {
			c.Add(time.Second)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(j.segments()) != 1 || s.Live() != 0 {
			t.Errorf("idle: %d segments, %d live", len(j.segments()), s.Live())
		}
		s.Close()
	})
}
