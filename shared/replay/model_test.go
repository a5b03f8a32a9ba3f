package replay

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
)

// life is what a journal goes through: redemptions and replays, idle hours, a
// clock that is set back and right again, ends of its process, and crashes that
// tear its files.
type life struct {
	*testing.T
	*rand.Rand
	seed  uint64
	path  string
	clock atomic.Int64 // the journal's and its verifier's, in Unix nanoseconds
	wrong time.Duration
	store *Journal
	all   []handoff.Redemption
	spent map[string]bool
}

// E01, E02, F01: after anything that happens to it, a journal accepts no token twice that a
// verifier with its clock lets through.
func TestE02JournalWhateverHappens(t *testing.T) {
	for range measure.Of(2, 8, 8) {
		synctest.Test(t, func(t *testing.T) {
			seed := rand.Uint64()
			l := &life{
				T: t, Rand: rand.New(rand.NewPCG(seed, 0)), seed: seed, spent: map[string]bool{},
				path: filepath.Join(t.TempDir(), "journal"),
			}
			l.clock.Store(time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC).UnixNano())
			if err := Create(l.path, l.config()); err != nil {
				t.Fatal(err)
			}
			l.pass(20 * time.Second)
			l.open()
			for range 80 {
				l.step()
			}
			l.close()
			if len(l.spent) == 0 {
				t.Errorf("seed %d: nothing was redeemed", seed)
			}
		})
	}
}

func (l *life) config() Config { return Config{Now: l.now} }

func (l *life) now() time.Time { return time.Unix(0, l.clock.Load()) }

// set has the clock be wrong by so much.
func (l *life) set(wrong time.Duration) {
	l.clock.Add(int64(wrong - l.wrong))
	l.wrong = wrong
}

func (l *life) step() {
	switch l.IntN(10) {
	case 0, 1, 2:
		l.issue()
	case 3, 4:
		l.replay()
	case 5:
		l.pass(time.Duration(l.IntN(30_000)) * time.Millisecond)
	case 6:
		l.clock.Add(l.Int64N(int64(time.Hour))) // no timer runs while a machine sleeps
	case 7:
		l.set([...]time.Duration{0, -time.Second, -10 * time.Second, -20 * time.Second, -time.Minute, -time.Hour}[l.IntN(6)])
	case 8:
		l.close()
		l.open()
		l.replay()
	case 9:
		l.close()
		l.crash()
		l.pass(time.Duration(l.IntN(10)) * time.Second)
		l.set(l.wrong - time.Duration(l.IntN(30))*time.Second)
		l.open()
		l.replay()
		l.set(0)
		l.replay()
		l.pass(time.Duration(l.IntN(40)) * time.Second)
	}
}

// pass lets time pass for the keeper too.
func (l *life) pass(d time.Duration) {
	for ; d > 0; d -= time.Second {
		step := min(d, time.Second)
		synctest.Wait()
		l.clock.Add(int64(step))
		time.Sleep(step)
	}
	synctest.Wait()
}

func (l *life) open() {
	s, err := Open(l.path, l.config())
	if err != nil {
		l.Fatalf("seed %d: %v", l.seed, err)
	}
	l.store = s
}

func (l *life) close() {
	synctest.Wait()
	if err := l.store.Close(); err != nil {
		l.Errorf("seed %d: %v", l.seed, err)
	}
}

// issue redeems a token, by an issuer whose clock is ahead by as much as may be.
func (l *life) issue() {
	issued := l.now().Truncate(time.Second).Add(time.Duration(l.IntN(6)) * time.Second)
	l.all = append(l.all, handoff.Redemption{
		Issuer: "https://shop.example", ID: handoff.NewID(), IssuedAt: issued,
		Expires: issued.Add(time.Duration(1+l.IntN(300)) * time.Second), Skew: handoff.DefaultSkew,
	})
	l.redeem(l.all[len(l.all)-1])
}

func (l *life) replay() {
	for _, r := range l.all {
		l.redeem(r)
	}
}

func (l *life) redeem(r handoff.Redemption) {
	now := l.now()
	if r.IssuedAt.After(now.Add(r.Skew)) || !now.Before(r.Expires) {
		return // the verifier's refusal
	}
	if l.store.Redeem(l.Context(), r) != nil {
		return
	}
	if l.spent[r.ID] {
		l.Errorf("seed %d: a token was accepted twice", l.seed)
	}
	l.spent[r.ID] = true
}

// crash takes from each segment what a machine's crash can: any of its records.
// Where that leaves no damage to see, the boot id alone is another.
func (l *life) crash() {
	dir, err := os.OpenRoot(l.path)
	if err != nil {
		l.Fatal(err)
	}
	defer dir.Close()
	all, err := listSegments(&folder{Root: dir})
	if err != nil {
		l.Fatal(err)
	}
	damaged := false
	for i, n := range all {
		file := filepath.Join(l.path, segmentName(n))
		content, err := os.ReadFile(file)
		if err != nil {
			l.Fatal(err)
		}
		records := (len(content) - headerSize) / recordSize
		lost := headerSize + l.IntN(records+1)*recordSize
		switch newest := i == len(all)-1; {
		case l.IntN(2) == 0 && lost < len(content):
			clear(content[lost:])
			damaged = true
		case !newest || damaged:
			continue
		default:
			h, err := decodeHeader(content[:headerSize], n)
			if err != nil {
				l.Fatal(err)
			}
			h.boot[0]++
			content = h.encode()
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			l.Fatal(err)
		}
	}
}
