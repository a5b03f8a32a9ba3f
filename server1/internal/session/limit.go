package session

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/peer"
)

// limiter bounds the attempts to sign in: those at one account from one network,
// and, ten times as many, those from one network at any account. A stranger
// elsewhere can so not lock a user out.
type limiter struct {
	mu       sync.Mutex
	attempts *buckets // by account and network
	networks *buckets
}

// maxBuckets bounds the memory of each of the four maps: 16 MiB at most.
const maxBuckets = 1 << 17

func newLimiter(perMinute int) *limiter {
	return &limiter{attempts: newBuckets(perMinute), networks: newBuckets(10 * perMinute)}
}

// allow reports whether one more attempt may be made, and counts it.
func (l *limiter) allow(account, network string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.networks.allow(network, now) && l.attempts.allow(account+"@"+network, now)
}

// buckets is a token bucket for each key, full at first, that takes a minute to
// fill. What has not been asked for during a minute is full again, so it can be
// forgotten: the buckets of the last minute and of the one before are kept.
// Where there is no room for another, there is no token in it.
type buckets struct {
	perMinute int
	current   map[string]*rate.Limiter
	last      map[string]*rate.Limiter
	turned    time.Time
}

func newBuckets(perMinute int) *buckets {
	return &buckets{perMinute: perMinute, current: map[string]*rate.Limiter{}}
}

func (b *buckets) allow(key string, now time.Time) bool {
	if now.Sub(b.turned) > time.Minute {
		b.last, b.current, b.turned = b.current, map[string]*rate.Limiter{}, now
	}
	bucket, ok := b.current[key]
	if !ok {
		if len(b.current) >= maxBuckets {
			return false
		}
		if bucket, ok = b.last[key]; !ok {
			bucket = rate.NewLimiter(rate.Limit(float64(b.perMinute)/60), b.perMinute)
		}
		b.current[key] = bucket
	}
	return bucket.AllowN(now, 1)
}

// networkOf returns the network that a call comes from: an IPv4 /24 or an IPv6
// /64, which is what one customer of a provider commonly has.
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
