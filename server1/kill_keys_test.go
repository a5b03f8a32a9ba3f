package server1

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust/rotation"
)

// operator changes the keys while everything is being killed, and knows what was
// acknowledged.
type operator struct {
	*site
	db                *database.DB
	until             map[string]time.Time // when a retired key leaves the ring
	mu                sync.Mutex
	prepared, tainted []string // ids
	killed            int      // commands that did not end by themselves
}

func (s *site) operator(t *testing.T) *operator {
	t.Helper()
	db, err := database.OpenExisting(t.Context(), s.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &operator{site: s, db: db, until: map[string]time.Time{}}
}

var preparedID = regexp.MustCompile(`^prepared ([A-Za-z0-9_-]{43}):`)

// work prepares keys and taints them before they have signed, until the context
// ends. Some of the commands are killed.
func (o *operator) work(ctx context.Context, t testing.TB) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
		out, ok := o.keys(t, "prepare")
		id := preparedID.FindStringSubmatch(out)
		if !ok || id == nil {
			continue
		}
		o.note(&o.prepared, id[1])
		for range 2 { // where the first is killed
			if _, ok := o.keys(t, "taint", "--", id[1]); ok {
				o.note(&o.tainted, id[1])
				break
			}
		}
	}
}

func (o *operator) note(acknowledged *[]string, kid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*acknowledged = append(*acknowledged, kid)
}

// count is how many keys were prepared.
func (o *operator) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.prepared)
}

// keys runs the program on the keys, as a process of its own, and says whether it
// ended well.
func (o *operator) keys(t testing.TB, verb string, args ...string) (stdout string, ok bool) {
	program, err := os.Executable()
	if err != nil {
		t.Error(err)
		return "", false
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rand.IntN(4) == 0 {
		timer := time.AfterFunc(time.Duration(20+rand.IntN(150))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"keys", verb, "--database", o.database, "--key-dir", o.path("keys")}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if _, err := cmd.StdinPipe(); err != nil {
		t.Error(err)
		return "", false
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		o.mu.Lock()
		o.killed++
		o.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		t.Logf("keys %s: %v: %s", verb, err, &complaint) // as it may: a step can be refused, and a database be busy
	}
	return out.String(), err == nil
}

// wantStands holds the ring to what was acknowledged: no key is lost, a tainted one
// stays tainted, one signs, and the private half of each that signs or may is
// there. What nobody has settled is, soon.
func (o *operator) wantStands(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	prepared, tainted := slices.Clone(o.prepared), slices.Clone(o.tainted)
	o.mu.Unlock()
	states := map[string]rotation.State{}
	ring := o.ring(t)
	for _, k := range ring.Records() {
		kid := k.Key.ID()
		if !k.Until.IsZero() {
			o.until[kid] = k.Until
		}
		if states[kid] = k.State; k.State != rotation.Next && k.State != rotation.Active {
			continue
		}
		if _, err := signkey.Load(o.path("keys/" + kid + ".key")); err != nil && !o.moved(t, kid) {
			t.Errorf("the private half of a key that is %s: %v", k.State, err)
		}
	}
	if _, ok := ring.Signing(); !ok {
		t.Error("no key signs")
	}
	for _, kid := range prepared {
		if until := o.until[kid]; states[kid] == "" && (until.IsZero() || time.Now().Before(until)) {
			t.Error("a key that was prepared is lost")
		}
	}
	for _, kid := range tainted {
		if states[kid] != rotation.Tainted {
			t.Errorf("a key that was tainted is %s", states[kid])
		}
	}
	servingtest.Eventually(t, "the ring is settled", func() bool { return o.ring(t).Settled() })
}

// ring returns the ring as soon as the database answers.
func (o *operator) ring(t *testing.T) (ring rotation.Ring) {
	t.Helper()
	servingtest.Eventually(t, "the database", func() bool {
		var err error
		ring, err = o.db.Ring(t.Context())
		return err == nil
	})
	return ring
}

// moved reports whether a key neither signs nor will any more: its step was being
// taken when it was looked at.
func (o *operator) moved(t *testing.T, kid string) bool {
	return !slices.ContainsFunc(o.ring(t).Records(), func(k rotation.Record) bool {
		return k.Key.ID() == kid && (k.State == rotation.Next || k.State == rotation.Active)
	})
}

// activations is how many keys have signed.
func (o *operator) activations(t *testing.T) (n int) {
	for _, k := range o.ring(t).Records() {
		if !k.Activated.IsZero() {
			n++
		}
	}
	return n
}
