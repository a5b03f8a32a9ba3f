package handofftest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/replay"
)

func TestStore(t *testing.T) {
	handofftest.Store(t, func(*testing.T) handoff.Store { return replay.NewMemory(replay.Config{}) })
}

// mistakes are what people get wrong in their first store, with a test of the
// suite that must fail for each.
var mistakes = map[string]string{
	"checks-then-sets": "TestNaive/E01",
	"id-alone":         "TestNaive/E10",
	"joined":           "TestNaive/E10",
	"first-16":         "TestNaive/E11",
	"forgets-at-exp":   "TestNaive/E13",
	"every-field":      "TestNaive/E14",
	"lower-case":       "TestNaive/chosen",
	"ignores-context":  "TestNaive/a_context",
	"ignores-skew":     "TestNaive/E02",
	"loses-marks":      "TestNaive/chaos",
	"none":             "",
}

const mistakeEnv = "HANDOFFTEST_MISTAKE"

// The suite fails for a store with any of the mistakes, and for none without.
func TestStoreCatches(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for mistake, test := range mistakes {
		t.Run(mistake, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestNaive$/"+strings.TrimPrefix(test, "TestNaive/"))
			cmd.Env = append(os.Environ(), mistakeEnv+"="+mistake)
			out, err := cmd.CombinedOutput()
			if failed := strings.Contains(string(out), "--- FAIL: TestNaive/"); failed != (test != "") || failed != (err != nil) {
				t.Errorf("failed: %t (%v), want %t\n%s", failed, err, test != "", out)
			}
		})
	}
}

// Chaos that cannot go on says why, and leaves nothing running.
func TestChaosEnds(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for mistake, want := range map[string]string{
		"harm-fails":  "the harm cannot be done",
		"no-replicas": "Chaos is given no replicas",
	} {
		t.Run(mistake, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestNaive$/^chaos$")
			cmd.Env = append(os.Environ(), mistakeEnv+"="+mistake)
			out, err := cmd.CombinedOutput()
			said := string(out)
			if err == nil || !strings.Contains(said, want) || strings.Contains(said, "panic") || strings.Contains(said, stillRunning) {
				t.Errorf("%v, want %q\n%s", err, want, out)
			}
		})
	}
}

const stillRunning = "redeemed after the end of the test"

func TestNaive(t *testing.T) {
	mistake := os.Getenv(mistakeEnv)
	if mistake == "" {
		t.Skip("TestStoreCatches runs it")
	}
	t.Run("chaos", func(t *testing.T) {
		n := &naive{mistake: mistake, seen: map[any]time.Time{}}
		if mistake == "no-replicas" {
			handofftest.Chaos(t, 0, 0, func() {})
		}
		defer func() {
			before := n.called()
			time.Sleep(20 * time.Millisecond)
			if n.called() != before {
				t.Error(stillRunning)
			}
		}()
		handofftest.Chaos(t, 100*time.Millisecond, 5, func() {
			time.Sleep(time.Millisecond)
			n.restart()
			if mistake == "harm-fails" {
				t.Fatal("the harm cannot be done")
			}
		}, n, n)
	})
	handofftest.Store(t, func(*testing.T) handoff.Store {
		n := &naive{mistake: mistake, seen: map[any]time.Time{}}
		if mistake == "ignores-skew" {
			return skewed{n}
		}
		return n
	})
}

// skewed is a store that says which skew it covers, and does not keep to it.
type skewed struct{ *naive }

func (skewed) Skew() time.Duration { return handoff.DefaultSkew }

// naive is the store that people write first: a map, with one mistake.
type naive struct {
	mistake string
	mu      sync.Mutex
	seen    map[any]time.Time
	down    bool
	calls   int
}

func (n *naive) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := ctx.Err(); err != nil && n.mistake != "ignores-context" {
		return err
	}
	key := n.key(r)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	if n.down {
		return errors.New("down")
	}
	expires, seen := n.seen[key]
	switch {
	case n.mistake == "forgets-at-exp" && !time.Now().Before(expires):
		seen = false
	case n.mistake == "checks-then-sets":
		n.mu.Unlock()
		time.Sleep(time.Millisecond)
		n.mu.Lock()
	}
	if seen {
		return handoff.ErrReplayed
	}
	n.seen[key] = r.Expires
	return nil
}

// restart has all callers refused for a while, as when a server restarts.
func (n *naive) restart() {
	n.mu.Lock()
	n.down = true
	if n.mistake == "loses-marks" {
		clear(n.seen)
	}
	n.mu.Unlock()
	time.Sleep(5 * time.Millisecond)
	n.mu.Lock()
	n.down = false
	n.mu.Unlock()
}

func (n *naive) called() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

func (n *naive) key(r handoff.Redemption) any {
	switch n.mistake {
	case "id-alone":
		return r.ID
	case "joined":
		return r.Issuer + r.ID
	case "first-16":
		return [2]string{r.Issuer, r.ID[:min(len(r.ID), 16)]}
	case "every-field":
		return r
	case "lower-case":
		return [2]string{r.Issuer, strings.ToLower(r.ID)}
	}
	return [2]string{r.Issuer, r.ID}
}
