//go:build linux

package replay

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// E06: a write that fails refuses its redemption and, until the journal can be
// written again, every other; what the write left half is not kept.
func TestE06JournalWhenAWriteFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	long := time.Now().Add(-time.Minute)
	if err := Create(path, Config{Now: func() time.Time { return long }}); err != nil {
		t.Fatal(err)
	}
	cmd, out := inChild(t, "TestChildIsLimited", path)
	said, err := io.ReadAll(out)
	if err := errors.Join(err, out.Close(), cmd.Wait()); err != nil || string(said) != "done" {
		t.Errorf("the child with a limited file size: %v, said %q", err, said)
	}
}

// limitFileSize has write(2) fail as on a full disk: after the bytes that fit.
func limitFileSize(t *testing.T, bytes uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = min(bytes, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}

func TestChildIsLimited(t *testing.T) {
	path, out := childJournal(t)
	signal.Ignore(syscall.SIGXFSZ)
	var mu sync.Mutex
	var events []EventKind
	c := Config{Observe: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.Kind)
	}}
	s, err := Open(path, c)
	if err != nil {
		t.Fatal(err)
	}
	accept := func(r handoff.Redemption, what string) {
		t.Helper()
		if err := s.Redeem(t.Context(), r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuse := func(r handoff.Redemption, what string) {
		t.Helper()
		err := s.Redeem(t.Context(), r)
		if err == nil || errors.Is(err, handoff.ErrReplayed) {
			t.Errorf("%s: got %v, want another refusal", what, err)
		}
	}
	const fit, part = 5, 7
	var acknowledged []handoff.Redemption
	for range fit {
		r := token(handoff.NewID())
		acknowledged = append(acknowledged, r)
		accept(r, "with room")
	}
	current := filepath.Join(path, segmentName(s.begun.sequence))

	limitFileSize(t, headerSize+fit*recordSize+part)
	half, never := token(handoff.NewID()), token(handoff.NewID())
	refuse(half, "with room for a part")
	limitFileSize(t, headerSize-1) // nor can a segment be begun
	for began := time.Now(); time.Since(began) < 2500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
		refuse(never, "without room")
		if s.Healthy() == nil {
			t.Error("healthy, without room")
		}
	}
	if s.Live() != fit+1 {
		t.Errorf("%d marks: a refusal without room leaves none", s.Live())
	}
	if info, err := os.Stat(current); err != nil || info.Size() != headerSize+fit*recordSize {
		t.Errorf("the segment: %v (%v), want %d whole records", info.Size(), err, fit)
	}

	limitFileSize(t, ^uint64(0))
	for deadline := time.Now().Add(30 * time.Second); s.Healthy() != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	accept(never, "with room again")
	if err := s.Redeem(t.Context(), half); !errors.Is(err, handoff.ErrReplayed) {
		t.Errorf("the half-written one: got %v, want ErrReplayed", err)
	}
	mu.Lock()
	if want := []EventKind{Restored, Failed, Resumed}; len(events) != 3 || [3]EventKind(events) != [3]EventKind(want) {
		t.Errorf("told %v, want %v", events, want)
	}
	mu.Unlock()
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	if s, err = Open(path, c); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, r := range append(acknowledged, never) {
		if err := s.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrReplayed) {
			t.Errorf("after a restart: got %v, want ErrReplayed", err)
		}
	}
	accept(half, "the half-written one, after a restart")
	if _, err := out.WriteString("done"); err != nil {
		t.Error(err)
	}
}
