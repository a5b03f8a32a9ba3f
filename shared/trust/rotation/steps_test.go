package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// memory is a store that keeps nothing beyond the process.
type memory struct {
	mu    sync.Mutex
	ring  rotation.Ring
	terms trust.Terms
}

func (m *memory) Ring(context.Context) (rotation.Ring, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring, nil
}

func (m *memory) ChangeRing(_ context.Context, clock func() time.Time, change rotation.Change) (rotation.Ring, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ring, err := change(m.ring, m.terms, clock())
	if err == nil {
		m.ring = ring
	}
	return m.ring, err
}

func ExampleSteps() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx, now := context.Background(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	steps := rotation.Steps{
		Store:  &memory{terms: trust.Terms{Issuer: "https://shop.example"}}, // yours is a database
		Folder: signkey.Folder(dir),
		Now:    func() time.Time { return now },
	}
	if err := steps.Begin(ctx); err != nil { // with a first key, which signs at once
		fmt.Println(err)
		return
	}
	next, _, err := steps.Prepare(ctx, handoff.ES256)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = steps.Activate(ctx, next.ID())
	var early *rotation.EarlyError
	if errors.As(err, &early) {
		fmt.Println(err)
		now = now.Add(early.Wait)
	}
	ring, err := steps.Activate(ctx, next.ID())
	kid, _ := ring.Signing()
	fmt.Println(kid == next.ID(), err)
	// Output:
	// too early: audiences may still rely on a list without the key; wait 1m10s
	// true <nil>
}

// shopTerms have a token lifetime of 300 s, a list lifetime of 60 s and a skew of 5 s.
var shopTerms = trust.Terms{Issuer: issuer}

func newSteps(t *testing.T) (rotation.Steps, *memory) {
	t.Helper()
	m := &memory{terms: shopTerms}
	steps := rotation.Steps{Store: m, Folder: signkey.Folder(t.TempDir()), Now: time.Now}
	if err := steps.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return steps, m
}

// files returns the ids of the private keys in the folder.
func files(t *testing.T, f signkey.Folder) (kids []string) {
	t.Helper()
	paths, err := filepath.Glob(f.Path("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		kids = append(kids, strings.TrimSuffix(filepath.Base(path), ".key"))
	}
	return kids
}

// readOnly is a store that keeps no change.
type readOnly struct{ rotation.Store }

var errReadOnly = errors.New("nothing can be written")

func (readOnly) ChangeRing(context.Context, func() time.Time, rotation.Change) (rotation.Ring, error) {
	return rotation.Ring{}, errReadOnly
}

// forgetful is a store that keeps a change and says that it did not.
type forgetful struct{ rotation.Store }

func (f forgetful) ChangeRing(ctx context.Context, clock func() time.Time, change rotation.Change) (rotation.Ring, error) {
	ring, err := f.Store.ChangeRing(ctx, clock, change)
	return ring, errors.Join(err, errReadOnly)
}

// A step that does not come to be leaves no private key. One that was taken,
// though the store said otherwise, leaves the key that the ring names.
func TestPrepareWithdraws(t *testing.T) {
	steps, m := newSteps(t)
	failing := steps
	failing.Store = readOnly{m}
	if _, _, err := failing.Prepare(t.Context(), ""); !errors.Is(err, errReadOnly) || len(files(t, steps.Folder)) != 1 {
		t.Errorf("%v, %d private keys", err, len(files(t, steps.Folder)))
	}
	failing.Store = readOnly{&memory{terms: shopTerms}}
	failing.Folder = signkey.Folder(t.TempDir())
	if err := failing.Begin(t.Context()); !errors.Is(err, errReadOnly) || len(files(t, failing.Folder)) != 0 {
		t.Errorf("the first: %v, %d private keys", err, len(files(t, failing.Folder)))
	}
	unsure := steps
	unsure.Store = forgetful{m}
	key, _, err := unsure.Prepare(t.Context(), "")
	if !errors.Is(err, errReadOnly) || !slices.Contains(files(t, steps.Folder), key.ID()) || len(m.ring.Records()) != 2 {
		t.Errorf("kept after all: %v, %d private keys", err, len(files(t, steps.Folder)))
	}
	if _, _, err := (rotation.Steps{Store: m, Now: time.Now}).Prepare(t.Context(), ""); err == nil {
		t.Error("a key is made without a place for it")
	}
}

// No more keys are prepared than a trust list can name, so that there always is
// one; tainted ones do not count.
func TestKeysFitAList(t *testing.T) {
	steps, m := newSteps(t)
	for range trust.MaxKeys - 2 {
		key, err := signkey.Generate(handoff.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		if m.ring, err = m.ring.Prepare(key.Key()); err != nil {
			t.Fatal(err)
		}
	}
	last, _, err := steps.Prepare(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := steps.Prepare(t.Context(), ""); err == nil || len(files(t, steps.Folder)) != 2 {
		t.Errorf("%v, %d private keys", err, len(files(t, steps.Folder)))
	}
	if _, err := steps.Taint(t.Context(), last.ID()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := steps.Prepare(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

// A folder that lacks the key that signs is not the one of the ring: no key is made
// there, unless the key is said to be lost.
func TestPrepareElsewhere(t *testing.T) {
	steps, m := newSteps(t)
	signs, _ := m.ring.Signing()
	steps.Folder = signkey.Folder(t.TempDir())
	_, _, err := steps.Prepare(t.Context(), "")
	if missing, ok := errors.AsType[*rotation.MissingError](err); !ok || missing.Kid != signs || len(files(t, steps.Folder)) != 0 {
		t.Errorf("%v, %d private keys", err, len(files(t, steps.Folder)))
	}
	steps.Lost = signs
	if _, _, err := steps.Prepare(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

// F07: of the prepared keys, the first that can be loaded signs in the place of a tainted
// one. Where none can, the taint is refused, as nothing would sign.
func TestF07TaintPassesOverAMissingKey(t *testing.T) {
	steps, m := newSteps(t)
	first, _ := m.ring.Signing()
	var next [2]string
	for i := range next {
		key, _, err := steps.Prepare(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		next[i] = key.ID()
	}
	if err := os.Remove(steps.Folder.Path(next[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := steps.Taint(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if signs, _ := m.ring.Signing(); signs != next[1] {
		t.Errorf("%s signs, want %s", signs, next[1])
	}
	_, err := steps.Taint(t.Context(), next[1])
	if missing, ok := errors.AsType[*rotation.MissingError](err); !ok || missing.Kid != next[0] || !errors.Is(err, rotation.ErrLast) {
		t.Errorf("the last that can be loaded: %v", err)
	}
	if signs, _ := m.ring.Signing(); signs != next[1] || !slices.Contains(files(t, steps.Folder), next[1]) {
		t.Errorf("%s signs, want %s", signs, next[1])
	}
	if _, err := steps.Taint(t.Context(), next[0]); err != nil {
		t.Errorf("one that does not sign: %v", err)
	}
}

// F07: a former key that is still active signs again only if it can be loaded, from the
// folder or from beside it.
func TestF07TaintPassesOverAMissingFormerKey(t *testing.T) {
	steps, m := newSteps(t)
	former, _ := m.ring.Signing()
	now := time.Now()
	steps.Now = func() time.Time { return now }
	signs, _, err := steps.Prepare(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if _, err := steps.Activate(t.Context(), signs.ID()); err != nil {
		t.Fatal(err)
	}
	next, _, err := steps.Prepare(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	beside, err := steps.Folder.Load(former)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(steps.Folder.Path(former)); err != nil {
		t.Fatal(err)
	}
	ring := m.ring
	for _, c := range []struct {
		first *signkey.Key
		signs string
	}{{beside, former}, {nil, next.ID()}} {
		m.ring, steps.First = ring, c.first
		if _, err := steps.Taint(t.Context(), signs.ID()); err != nil {
			t.Fatal(err)
		}
		if kid, _ := m.ring.Signing(); kid != c.signs {
			t.Errorf("%s signs, want %s", kid, c.signs)
		}
	}
}
