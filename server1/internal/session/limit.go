// # How often somebody can try to sign in
//
// An attempt counts against its account and against the network that it comes
// from, before the password is looked at, also to change a password. Of an account
// there are ServiceConfig.Attempts a minute from one network (IPv4 /24, IPv6 /64),
// 4 times as many from one site (IPv6 /48), and 20 times as many from everywhere;
// of all accounts together, 10 times as many from one network and 40 times from
// one site. So a stranger elsewhere does not lock a user out; one with dozens of
// networks slows the user down for as long as they keep trying, and a minute at
// most after that. What is counted takes a fixed room, whoever asks for what.
//
// A proxy that hides its clients' addresses makes one network of all users: they
// share its attempts, and one of them can use them up. Attempts is then to be set
// to what all of them need, and the proxy has to limit each client.
package session

import (
	"context"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

// limiter bounds the attempts to sign in. One that is refused counts nowhere, so
// that nobody is kept out by attempts that came to nothing.
type limiter struct {
	mu    sync.Mutex
	start time.Time // of the first attempt

	account        *buckets // one account, from everywhere
	accountNetwork *buckets // one account, from one network
	accountSite    *buckets
	network        *buckets // all accounts, from one network
	site           *buckets
}

func newLimiter(perMinute int) *limiter {
	return &limiter{
		account:        newBuckets(20 * perMinute),
		accountNetwork: newBuckets(perMinute),
		accountSite:    newBuckets(4 * perMinute),
		network:        newBuckets(10 * perMinute),
		site:           newBuckets(40 * perMinute),
	}
}

// allow reports whether one more attempt may be made, and counts it if it may.
func (l *limiter) allow(account, network string, now time.Time) bool {
	site := siteOf(network)
	counts := [...]struct {
		in  *buckets
		key string
	}{
		{l.network, network},
		{l.site, site},
		{l.accountNetwork, account + "@" + network},
		{l.accountSite, account + "@" + site},
		{l.account, account},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.start.IsZero() {
		l.start = now
	}
	since := now.Sub(l.start)
	for _, count := range counts {
		if !count.in.has(count.key, since) {
			return false
		}
	}
	for _, count := range counts {
		count.in.take(count.key, since)
	}
	return true
}

// The buckets of one kind take 1.5 MiB, whatever there are keys.
const (
	rows    = 3
	rowBits = 16
)

// buckets is a token bucket for each key, full at first, that takes a minute to
// fill. It is a count-min sketch: a key has a place in each row, by a keyed hash,
// which others share, and its bucket is the fullest of the three. So no key gets
// more than its due, and one gets less only while others have used up all three
// of its places, which nobody can choose who does not know the seed.
type buckets struct {
	seed  maphash.Seed
	token time.Duration // that it takes to come back
	// full is when a bucket will be full again, since the limiter's start. One that
	// is full in a minute is empty.
	full [rows][1 << rowBits]time.Duration
}

func newBuckets(perMinute int) *buckets {
	return &buckets{seed: maphash.MakeSeed(), token: max(1, time.Minute/time.Duration(perMinute))}
}

func (b *buckets) has(key string, now time.Duration) bool {
	return b.less(b.places(key), now) <= now+time.Minute
}

// take takes a token that the bucket has. A place that is emptier already stays:
// it has been counted there.
func (b *buckets) take(key string, now time.Duration) {
	places := b.places(key)
	less := b.less(places, now)
	for _, full := range places {
		*full = max(*full, less)
	}
}

// less returns when the bucket of these places will be full with one token less.
func (b *buckets) less(places [rows]*time.Duration, now time.Duration) time.Duration {
	return max(now, min(*places[0], *places[1], *places[2])) + b.token
}

func (b *buckets) places(key string) (at [rows]*time.Duration) {
	hash := maphash.String(b.seed, key)
	for row := range at {
		at[row] = &b.full[row][hash&(1<<rowBits-1)]
		hash >>= rowBits
	}
	return at
}

// networkOf returns the network that a call comes from: an IPv4 /24 or an IPv6
// /64, the least that is one customer's of a provider.
func networkOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return "unknown"
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if address.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(address, bits).Masked().String()
}

// siteOf returns the IPv6 /48 that a network is in: a customer can have one, with
// its 65,536 networks, for the asking (RFC 6177). Any other network is its own.
func siteOf(network string) string {
	prefix, err := netip.ParsePrefix(network)
	if err != nil || prefix.Addr().Is4() {
		return network
	}
	return netip.PrefixFrom(prefix.Addr(), 48).Masked().String()
}
