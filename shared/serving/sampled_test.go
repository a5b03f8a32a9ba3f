package serving

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// I04: who makes calls without end, or has them refused, fills no log: of equal lines few
// are written, and the next one says how many were not. Other lines are all there.
func TestI04CallsAreSampled(t *testing.T) {
	var out bytes.Buffer
	handler := Sampled(slog.NewTextHandler(&out, nil)).(*sampled)
	now := time.Unix(1_900_000_000, 0)
	handler.counts.now = func() time.Time { return now }
	log := slog.New(handler).With("component", "x")
	refuse := func(n int) {
		for i := range n {
			log.Warn("finished call", "grpc.method", "Pay", "grpc.code", "Unauthenticated", "peer.address", fmt.Sprint("192.0.2.1:", i))
			log.Warn("handoff", "outcome", "refused", "method", "/a.B/Pay", "reason", "TOKEN_INVALID", "subject", fmt.Sprint(i))
			log.Info("finished call", "grpc.method", "Pay", "grpc.code", "OK", "i", i)
			log.Info("handoff", "outcome", "redeemed", "method", "/a.B/Pay", "handoff_id", fmt.Sprint(i))
			log.Warn("something else", "i", i)
		}
	}
	lines := func(part string) int { return strings.Count(out.String(), part) }
	refuse(1000)
	for part, want := range map[string]int{
		"grpc.code=Unauthenticated": sampleLines, "grpc.code=OK": sampleLines, "outcome=refused": sampleLines,
		"outcome=redeemed": 1000, `"something else"`: 1000, "unwritten": 0,
	} {
		if got := lines(part); got != want {
			t.Errorf("%s: %d lines, want %d", part, got, want)
		}
	}
	log.Warn("handoff", "outcome", "refused", "method", "/a.B/Pay", "reason", "TOKEN_REPLAYED")
	if lines("TOKEN_REPLAYED") != 1 {
		t.Error("another reason has no line")
	}
	now = now.Add(samplePeriod)
	out.Reset()
	refuse(1)
	if got := lines(fmt.Sprint("unwritten=", 1000-sampleLines)); got != 3 {
		t.Errorf("%d lines say how many were not written, want 3:\n%s", got, out.String())
	}
}

// What is kept of lines is bounded, also where a caller chooses what is in them.
func TestKindsOfLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	handler := Sampled(slog.NewTextHandler(&out, nil)).(*sampled)
	log := slog.New(handler)
	for i := range 100 * sampleKinds {
		log.Warn("finished call", "grpc.method", fmt.Sprint("m", i), "grpc.code", "Unimplemented")
	}
	if n := len(handler.counts.by); n > sampleKinds+1 {
		t.Errorf("%d kinds are kept", n)
	}
	if n := strings.Count(out.String(), "\n"); n > sampleKinds+2*sampleLines {
		t.Errorf("%d lines", n)
	}
}

// I04: a user with a reusable token, who can use it without end, has few lines of each
// method, and other users have theirs.
func TestI04ReusableTokensAreSampled(t *testing.T) {
	var out bytes.Buffer
	handler := Sampled(slog.NewTextHandler(&out, nil)).(*sampled)
	now := time.Unix(1_900_000_000, 0)
	handler.users.now = func() time.Time { return now }
	log := slog.New(handler)
	read := func(n int, subject, method string) {
		for i := range n {
			log.Info("handoff", "outcome", "redeemed", "method", method, "issuer", "https://a.example", "subject", subject, "handoff_id", fmt.Sprint(i), "reusable", true)
		}
	}
	read(1000, "alice", "/a.B/Get")
	read(1, "bob", "/a.B/Get")
	read(1, "alice", "/a.B/List")
	for part, want := range map[string]int{"subject=alice": sampleLines + 1, "subject=bob": 1, "method=/a.B/List": 1} {
		if got := strings.Count(out.String(), part); got != want {
			t.Errorf("I04: %s: %d lines, want %d", part, got, want)
		}
	}
	now = now.Add(samplePeriod)
	read(1, "alice", "/a.B/Get")
	if !strings.Contains(out.String(), fmt.Sprint("unwritten=", 1000-sampleLines)) {
		t.Error("I04: the next line does not say how many were not written")
	}
	// What is kept of users is bounded, and goes with time.
	for i := range 2 * sampleUsers {
		read(1, fmt.Sprint("u", i), "/a.B/Get")
	}
	if n := len(handler.users.by); n > sampleUsers+1 {
		t.Errorf("I04: %d users are kept", n)
	}
	now = now.Add(samplePeriod)
	out.Reset()
	read(1, "carol", "/a.B/Get")
	if !strings.Contains(out.String(), "subject=carol") || len(handler.users.by) > 2 {
		t.Errorf("I04: %d users are kept after their period, and carol has %q", len(handler.users.by), out.String())
	}
}
