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

// An attempt that is refused takes nothing from anybody.
func TestRefusedAttemptsDoNotCount(t *testing.T) {
	l := newLimiter(6)
	for range 1000 {
		l.allow("alice", "net1", start)
	}
	allowed := 0
	for i := range 1000 {
		if l.allow(fmt.Sprint("user", i), "net1", start) {
			allowed++
		}
	}
	if allowed != 60-6 {
		t.Errorf("%d attempts at other accounts, want 54", allowed)
	}
}

// One who has all networks of an IPv6 /48 gets 4 times as many attempts as one
// network does.
func TestLimiterOfOneSite(t *testing.T) {
	for name, c := range map[string]struct {
		account func(i int) string
		want    int
	}{
		"one account":  {func(int) string { return "alice" }, 4 * 6},
		"all accounts": {func(i int) string { return fmt.Sprint("user", i) }, 40 * 6},
	} {
		l := newLimiter(6)
		allowed := 0
		for i := range 1 << 12 {
			if l.allow(c.account(i), fmt.Sprintf("2001:db8:1:%x::/64", i), start) {
				allowed++
			}
		}
		if allowed != c.want {
			t.Errorf("%s: %d attempts, want %d", name, allowed, c.want)
		}
		if !l.allow("alice", "2001:db8:2::/64", start) || !l.allow("alice", "192.0.2.0/24", start) {
			t.Errorf("%s: elsewhere alice is refused", name)
		}
	}
}

// One who has networks everywhere gets 20 times as many, and when they stop, the
// owner waits for no more than a token.
func TestLimiterOfOneAccount(t *testing.T) {
	l := newLimiter(6)
	allowed := 0
	for i := range 1 << 12 {
		if l.allow("alice", ipv4(i), start) {
			allowed++
		}
	}
	if allowed != 20*6 {
		t.Errorf("%d attempts from everywhere, want 120", allowed)
	}
	if l.allow("alice", "home", start) {
		t.Error("at once: want no attempt")
	}
	if !l.allow("alice", "home", start.Add(time.Minute/(20*6))) {
		t.Error("half a second later: want an attempt")
	}
	if !l.allow("bob", "home", start) {
		t.Error("another account is refused")
	}
}

func ipv4(i int) string { return fmt.Sprintf("%d.%d.%d.0/24", i>>16+1, i>>8&255, i&255) }

// A stranger's failures, from however many networks, leave a user who has a
// session their own attempts; and those are bounded too.
func TestProvenUsersHaveTheirOwn(t *testing.T) {
	l := newLimiter(6)
	for i := range 1 << 12 {
		l.allow("alice", ipv4(i), start)
	}
	allowed := 0
	for range 100 {
		if _, ok := l.proven("alice's id", start); ok {
			allowed++
		}
	}
	if allowed != 6 {
		t.Errorf("%d attempts of a user with a session, want 6", allowed)
	}
}

func (l *limiter) allow(account, network string, now time.Time) bool {
	_, ok := l.stranger(account, network, now)
	return ok
}

func TestSiteOf(t *testing.T) {
	for network, want := range map[string]string{
		"2001:db8:1:2::/64": "2001:db8:1::/48",
		"192.0.2.0/24":      "192.0.2.0/24",
		"unknown":           "unknown",
	} {
		if got := siteOf(network); got != want {
			t.Errorf("%s: got %s, want %s", network, got, want)
		}
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
