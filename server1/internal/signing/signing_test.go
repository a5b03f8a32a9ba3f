package signing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

var (
	start = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	terms = trust.Terms{
		Issuer: "https://shop.example", TokenLifetime: 5 * time.Minute, ListLifetime: time.Minute, Skew: 5 * time.Second,
	}
)

// clock is a clock that stands until it is moved.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time       { return start.Add(time.Duration(c.ms.Load()) * time.Millisecond) }
func (c *clock) move(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// bench is a database and a folder, and what processes share.
type bench struct {
	db     *database.DB
	path   string
	folder signkey.Folder
	clock  *clock
	log    bytes.Buffer
	logger *slog.Logger // into log; one, as it takes its turn
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{path: filepath.Join(t.TempDir(), "server1.db"), clock: &clock{}}
	b.logger = slog.New(slog.NewTextHandler(&b.log, nil))
	var err error
	if b.db, err = database.Open(t.Context(), b.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	if err := b.db.KeepTerms(t.Context(), terms, start); err != nil {
		t.Fatal(err)
	}
	if b.folder, err = signkey.OpenFolder(filepath.Join(t.TempDir(), "keys")); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) config() Config {
	return Config{
		DB: b.db, Folder: b.folder, Terms: terms, Every: 24 * time.Hour,
		Log: b.logger, Now: b.clock.now,
	}
}

func (b *bench) keys(t *testing.T) *Keys {
	t.Helper()
	k, err := New(t.Context(), b.config())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// files returns the ids of the private keys in the folder.
func (b *bench) files(t *testing.T) (kids []string) {
	t.Helper()
	entries, err := os.ReadDir(string(b.folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		kids = append(kids, strings.TrimSuffix(e.Name(), ".key"))
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	return kids
}

// states returns the states of the ring's keys, in their order.
func (b *bench) states(t *testing.T) string {
	t.Helper()
	ring, err := b.db.Ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, k := range ring.Records() {
		all = append(all, string(k.State))
	}
	return strings.Join(all, " ")
}

func signing(t *testing.T, k *Keys) string {
	t.Helper()
	signer, err := k.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return signer.Key().ID()
}

// F06, F07: keys change by the clock; each is listed before it signs and after.
func TestF06ByTheClock(t *testing.T) {
	b := newBench(t)
	k := b.keys(t)
	first := signing(t, k)
	for _, step := range []struct {
		after        time.Duration // since the one before
		states       string
		files        int
		firstKeyOver bool
	}{
		{0, "active next", 2, false},
		{24*time.Hour - time.Millisecond, "active next", 2, false},
		{time.Millisecond, "active active", 2, true}, // the next signs
		{terms.Lag() - time.Millisecond, "active active next", 3, true},
		{time.Millisecond, "retired active next", 2, true},
		{terms.After(), "retired active next", 2, true}, // nothing is due
		{24*time.Hour - terms.After() - terms.Lag(), "active active", 2, true},
	} {
		b.clock.move(step.after)
		if err := k.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.states(t); got != step.states || len(b.files(t)) != step.files || (signing(t, k) != first) != step.firstKeyOver {
			t.Errorf("after %s: %s, %d private keys, the first signs: %v; want %+v",
				step.after, got, len(b.files(t)), signing(t, k) == first, step)
		}
	}
	if log := b.log.String(); strings.Count(log, "step=") != 5 || strings.Count(log, "another key signs") != 2 || strings.Contains(log, `"d"`) {
		t.Errorf("logged:\n%s", log)
	}
}

// One process takes each step, and the private keys are those of the ring.
func TestF06OneAtATime(t *testing.T) {
	b := newBench(t)
	var all []*Keys
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 6 { // they begin together, too
		wg.Go(func() {
			k, err := New(t.Context(), b.config())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, k)
		})
	}
	wg.Wait()
	for range 8 {
		for _, k := range all {
			wg.Go(func() {
				if err := k.Step(t.Context()); err != nil {
					t.Error(err)
				}
				if err := k.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		states := strings.Fields(b.states(t))
		next, private := 0, 0
		for _, state := range states {
			switch rotation.State(state) {
			case rotation.Next:
				next++
				private++
			case rotation.Active:
				private++
			}
		}
		if next > 1 || len(b.files(t)) != private {
			t.Errorf("%v, %d private keys", states, len(b.files(t)))
		}
		var signs []string
		for _, k := range all {
			signs = append(signs, signing(t, k))
		}
		if slices.Sort(signs); signs[0] != signs[len(signs)-1] {
			t.Errorf("they sign with %v", signs)
		}
		b.clock.move(6 * time.Hour)
	}
}

// What signs is known to be the signing key, by a look that is no older than Lag.
func TestStale(t *testing.T) {
	b := newBench(t)
	k := b.keys(t)
	second := b.keys(t)
	first := signing(t, k)
	steps := rotation.Steps{Store: b.db, Folder: b.folder, Now: b.clock.now}
	if _, _, err := steps.Prepare(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := steps.Taint(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	b.clock.move(terms.Lag() - time.Millisecond)
	second.Confirm(b.clock.now()) // as one that has not heard may
	b.clock.move(time.Millisecond)
	if signing(t, k) == first {
		t.Error("a key signs that was tainted Lag ago")
	}
	if signing(t, second) != first {
		t.Error("it looks although it has just been told")
	}
	b.db.Close()
	b.clock.move(terms.Lag())
	if signer, err := k.Signer(t.Context()); err == nil {
		t.Errorf("%v signs although nobody knows", signer)
	}
}

// A next key is of the kind of the one that signs.
func TestAlgorithmStays(t *testing.T) {
	b := newBench(t)
	first, err := signkey.Generate(handoff.ES256)
	if err != nil {
		t.Fatal(err)
	}
	config := b.config()
	config.First = first
	k, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if signing(t, k) != first.Key().ID() {
		t.Error("the first key does not sign")
	}
	key, _, err := k.steps.Prepare(t.Context(), "")
	if err != nil || key.Algorithm() != handoff.ES256 {
		t.Errorf("%v, %v", key.Algorithm(), err)
	}
}

// A process that died between a step and the removal of the private key is made
// up for.
func TestSweep(t *testing.T) {
	b := newBench(t)
	k := b.keys(t)
	first := signing(t, k)
	steps := rotation.Steps{Store: b.db, Folder: b.folder, Now: b.clock.now}
	if _, _, err := steps.Prepare(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	died := steps
	died.Folder = ""
	if _, err := died.Taint(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(b.files(t), first) {
		t.Fatal("it did not die")
	}
	b.keys(t)
	if slices.Contains(b.files(t), first) {
		t.Error("the private half of a tainted key stays")
	}
}

// A process that died before it could settle a step is made up for, by the next
// step, also one that is refused, and by the server: what the step was for counts
// from then on, however long ago it was taken.
func TestF06Settled(t *testing.T) {
	const ago = 48 * time.Hour
	for name, next := range map[string]func(*testing.T, *bench, rotation.Steps, string){
		"by a step": func(t *testing.T, _ *bench, steps rotation.Steps, kid string) {
			_, err := steps.Activate(t.Context(), kid)
			var early *rotation.EarlyError
			if !errors.As(err, &early) || early.Wait != terms.Before() {
				t.Errorf("%v, want to wait %s", err, terms.Before())
			}
		},
		"by the server": func(t *testing.T, b *bench, _ rotation.Steps, _ string) {
			config := b.config()
			config.Every = 0 // keys change by hand
			k, err := New(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.keys(t)
			steps := rotation.Steps{Store: b.db, Folder: b.folder, Now: b.clock.now}
			key, err := b.folder.Make(handoff.EdDSA)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.db.ChangeRing(t.Context(), b.clock.now, func(ring rotation.Ring, _ trust.Terms, _ time.Time) (rotation.Ring, error) {
				return ring.Prepare(key.Key())
			})
			if err != nil {
				t.Fatal(err)
			}
			b.clock.move(ago)
			next(t, b, steps, key.Key().ID())
			ring, err := b.db.Ring(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if prepared := ring.Records()[1].Prepared; !prepared.Equal(start.Add(ago)) {
				t.Errorf("the key counts as listed since %s", prepared)
			}
			b.clock.move(terms.Before())
			if _, err := steps.Activate(t.Context(), key.Key().ID()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A clock that goes on while the change waits for its turn, and while it is kept,
// counts: nothing is listed for less than is said.
func TestF06SlowChange(t *testing.T) {
	b := newBench(t)
	b.keys(t)
	looks := 0
	steps := rotation.Steps{Store: b.db, Folder: b.folder, Now: func() time.Time {
		looks++
		b.clock.move(time.Minute) // between one look and the next
		return b.clock.now()
	}}
	_, ring, err := steps.Prepare(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if prepared := ring.Records()[1].Prepared; looks < 2 || !prepared.Equal(b.clock.now()) {
		t.Errorf("after %d looks at the clock, the last at %s, a key is listed since %s", looks, b.clock.now(), prepared)
	}
}

// A prepared key that cannot be loaded does not sign by the clock; the log says so
// once. It does once its file is back.
func TestDueWithoutItsPrivateKey(t *testing.T) {
	b := newBench(t)
	k := b.keys(t)
	first := signing(t, k)
	if err := k.Step(t.Context()); err != nil { // prepares one
		t.Fatal(err)
	}
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring, err := b.db.Ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := b.folder.Path(ring.Records()[1].Key.ID())
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	b.clock.move(24 * time.Hour)
	for range 3 {
		if err := k.Step(t.Context()); err != nil {
			t.Error(err)
		}
		b.clock.move(2 * time.Second)
	}
	if err := k.Refresh(t.Context()); err != nil || b.states(t) != "active next" || signing(t, k) != first {
		t.Errorf("%v, %s", err, b.states(t))
	}
	if n := strings.Count(b.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors are logged:\n%s", n, b.log.String())
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Step(t.Context()), k.Refresh(t.Context())); err != nil || signing(t, k) == first {
		t.Errorf("%v, %s", err, b.states(t))
	}
}

func TestNewRefuses(t *testing.T) {
	b := newBench(t)
	for field, change := range map[string]func(*Config){
		"DB": func(c *Config) { c.DB = nil }, "First": func(c *Config) { c.Folder, c.Every = "", 0 },
		"Terms": func(c *Config) { c.Terms = trust.Terms{} }, "Every": func(c *Config) { c.First, c.Folder = &signkey.Key{}, "" },
		"Log": func(c *Config) { c.Log = nil }, "Now": func(c *Config) { c.Now = nil },
	} {
		config := b.config()
		change(&config)
		var refused *handoff.ConfigError
		if _, err := New(context.Background(), config); !errors.As(err, &refused) || refused.Field != "signing.Config."+field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
