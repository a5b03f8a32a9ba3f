package replay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
)

// killed tells a child process of these tests where its journal is.
const killed = "HANDOFF_REPLAY_KILLED"

// inChild runs one test of this binary in another process, which writes to the
// pipe that is returned.
func inChild(t *testing.T, test, journal string) (*exec.Cmd, io.ReadCloser) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), killed+"="+journal)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return cmd, r
}

// childJournal returns the journal that a child is to use; elsewhere it skips.
func childJournal(t *testing.T) (path string, out *os.File) {
	t.Helper()
	path = os.Getenv(killed)
	if path == "" {
		t.Skip("another test runs it in a process of its own")
	}
	return path, os.NewFile(3, "acknowledged")
}

// quickly is how often the journals of these tests begin a segment, so that the
// kills meet that too.
const quickly = 5 * time.Millisecond

// TestChildRedeems redeems until it is killed, and writes each id as soon as its
// redemption is acknowledged.
func TestChildRedeems(t *testing.T) {
	path, out := childJournal(t)
	s, err := open(path, Config{}, quickly)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for {
				id := handoff.NewID()
				if err := s.Redeem(t.Context(), token(id)); err != nil {
					t.Error(err)
					return
				}
				if _, err := out.WriteString(id + "\n"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

func token(id string) handoff.Redemption {
	now := time.Now().Truncate(time.Second)
	return handoff.Redemption{Issuer: "https://shop.example", ID: id, IssuedAt: now, Expires: now.Add(handoff.MaxLifetime)}
}

// E02: whenever the process is killed under load, at its start and while a
// segment is begun too, no acknowledged redemption is accepted again; and the
// next process accepts at once.
func TestE02JournalKilled(t *testing.T) {
	rounds := measure.Of(5, 20, 500)
	path := filepath.Join(t.TempDir(), "journal")
	long := time.Now().Add(-time.Minute)
	if err := Create(path, Config{Now: func() time.Time { return long }}); err != nil {
		t.Fatal(err)
	}
	var all []handoff.Redemption
	var slowest time.Duration
	for round := range rounds {
		acknowledged := killOne(t, path, round%4 == 0)
		began := time.Now()
		var event Event
		s, err := open(path, Config{Observe: func(e Event) { event = e }}, quickly)
		if err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		if event.Kind != Restored {
			t.Errorf("kill %d: told %q (%v), want %q", round, event.Kind, event.Err, Restored)
		}
		if err := s.Redeem(t.Context(), token(handoff.NewID())); err != nil {
			t.Errorf("kill %d: a new token: %v", round, err)
		}
		for _, r := range acknowledged {
			if err := s.Redeem(t.Context(), r); !errors.Is(err, handoff.ErrReplayed) {
				t.Fatalf("kill %d: an acknowledged redemption again: %v, want ErrReplayed", round, err)
			}
		}
		all = append(all, acknowledged...)
		if round == rounds-1 || round%100 == 99 {
			for _, r := range all {
				if s.Redeem(t.Context(), r) == nil {
					t.Fatalf("kill %d: a redemption that an earlier process acknowledged was accepted again", round)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(all) == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d kills, %d acknowledged redemptions, slowest start %s", rounds, len(all), slowest.Round(time.Millisecond))
}

// killOne kills a process that redeems, and returns what it had acknowledged:
// soon after its start, or some time after its first redemption.
func killOne(t *testing.T, path string, soon bool) (acknowledged []handoff.Redemption) {
	t.Helper()
	cmd, out := inChild(t, "TestChildRedeems", path)
	kill := func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	}
	if soon {
		time.AfterFunc(rand.N(30*time.Millisecond), kill)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if len(acknowledged) == 0 && !soon {
			time.AfterFunc(rand.N(20*time.Millisecond), kill)
		}
		acknowledged = append(acknowledged, token(lines.Text()))
	}
	if err := errors.Join(lines.Err(), out.Close()); err != nil {
		t.Error(err)
	}
	if cmd.Wait() == nil {
		t.Error("the child ended before it was killed")
	}
	return acknowledged
}

// A new boot id means that the kernel may have lost what it took last.
func TestE02JournalAfterAReboot(t *testing.T) {
	for name, boot := range map[string]bootID{"another boot": {1, 2, 3}, "an unknown one": {}} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			var event Event
			c := Config{Now: func() time.Time { return now }, Observe: func(e Event) { event = e }}
			path := filepath.Join(t.TempDir(), "journal")
			if err := Create(path, c); err != nil {
				t.Fatal(err)
			}
			rewriteBoot(t, path, boot)
			now = now.Add(tenure) // else it waits until none of before can have been later
			s, err := Open(path, c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if event.Kind != StartedOver || !errors.Is(event.Err, errReboot) {
				t.Errorf("told %q (%v), want %q", event.Kind, event.Err, StartedOver)
			}
			r := handoff.Redemption{Issuer: "https://shop.example", ID: "1", IssuedAt: now.Add(5 * time.Second), Expires: now.Add(time.Minute)}
			if err := s.Redeem(context.Background(), r); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
				t.Errorf("got %v, want ErrIssuedBeforeStart", err)
			}
			r.IssuedAt = now.Add(6 * time.Second)
			if err := s.Redeem(context.Background(), r); err != nil {
				t.Error(err)
			}
			if all, err := filepath.Glob(filepath.Join(path, "*"+suffix)); err != nil || len(all) != 1 {
				t.Errorf("segments %v (%v), want the new one alone", all, err)
			}
		})
	}
}

// A machine whose clock went back while it was down does not take its start for
// the beginning: what may have been redeemed before is refused all the same.
func TestF01JournalAfterARebootWithTheClockSetBack(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c := Config{Now: func() time.Time { return now }}
	path := filepath.Join(t.TempDir(), "journal")
	if err := Create(path, c); err != nil {
		t.Fatal(err)
	}
	rewriteBoot(t, path, bootID{1})
	before := handoff.Redemption{
		Issuer: "https://shop.example", ID: "1", IssuedAt: now.Add(tenure + c.complete().Skew), Expires: now.Add(tenure + time.Minute),
	}
	now = time.Unix(0, 0)
	s, err := Open(path, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now = before.IssuedAt.Add(time.Second) // the clock is right again
	if err := s.Redeem(context.Background(), before); !errors.Is(err, handoff.ErrIssuedBeforeStart) {
		t.Errorf("got %v, want ErrIssuedBeforeStart", err)
	}
}

func rewriteBoot(t *testing.T, path string, boot bootID) {
	t.Helper()
	file := filepath.Join(path, segmentName(1))
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHeader(content, 1)
	if err != nil {
		t.Fatal(err)
	}
	h.boot = boot
	if err := os.WriteFile(file, h.encode(), 0o600); err != nil {
		t.Fatal(err)
	}
}
