package session

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/peer"
)

var start = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func TestLimiter(t *testing.T) {
	l := newLimiter(6)
	now := start
	spend := func(account, network string) (allowed int) {
		for range 100 {
			if l.allow(account, network, now) {
				allowed++
			}
		}
		return allowed
	}
	if got := spend("alice", "net1"); got != 6 {
		t.Errorf("at first: %d attempts, want 6", got)
	}
	if got := spend("alice", "net2"); got != 6 {
		t.Errorf("from another network: %d attempts, want 6: a stranger must not lock her out", got)
	}
	if now = now.Add(10 * time.Second); spend("alice", "net2") != 1 {
		t.Error("ten seconds later: want one attempt")
	}
	if now = now.Add(time.Minute); spend("alice", "net2") != 6 {
		t.Error("a minute later: want all attempts")
	}
}

func TestLimiterOfOneNetwork(t *testing.T) {
	l := newLimiter(6)
	allowed := 0
	for i := range 1000 {
		if l.allow(fmt.Sprint("user", i), "net1", start) {
			allowed++
		}
	}
	if allowed != 60 {
		t.Errorf("%d attempts at as many accounts, want 60", allowed)
	}
	if !l.allow("alice", "net2", start) {
		t.Error("another network is refused")
	}
}

// What is forgotten is only what would be full again.
func TestBucketsForgetNothingThatCounts(t *testing.T) {
	b := newBuckets(6)
	now := start
	for range 6 {
		b.allow("alice", now)
	}
	for step := range 600 { // a new key every second turns the maps again and again
		now = now.Add(time.Second)
		b.allow(fmt.Sprint(step), now)
		if want := step%10 == 9; b.allow("alice", now) != want {
			t.Fatalf("after %d s: want %v", step+1, want)
		}
	}
	if n := len(b.current) + len(b.last); n > 125 {
		t.Errorf("%d buckets are kept of two minutes with one new each second", n)
	}
}

func TestBucketsAreBounded(t *testing.T) {
	b := newBuckets(6)
	for i := range maxBuckets {
		if !b.allow(fmt.Sprint(i), start) {
			t.Fatalf("bucket %d is refused", i)
		}
	}
	if b.allow("one more", start) || !b.allow("1", start) {
		t.Error("full: want the new refused and the known allowed")
	}
	if n := len(b.current); n != maxBuckets {
		t.Errorf("%d buckets", n)
	}
	if !b.allow("one more", start.Add(time.Minute+1)) {
		t.Error("a minute later there is no room")
	}
}

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.77:1":             "192.0.2.0/24",
		"[::ffff:192.0.2.77]:1":    "192.0.2.0/24",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := networkOf(peer.NewContext(context.Background(), &peer.Peer{Addr: tcp})); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	other := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.UnixAddr{Name: "x"}})
	if a, b := networkOf(context.Background()), networkOf(other); a != b || a == "" {
		t.Errorf("what has no network: %q, %q", a, b)
	}
}
