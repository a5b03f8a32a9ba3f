// # How often somebody can try to sign in
//
// An attempt counts against its account and against the network that it comes
// from, before the password is looked at. Of an account there are
// ServiceConfig.Attempts a minute from one network (IPv4 /24, IPv6 /64), 4 times as
// many from one site (IPv6 /48), and 20 times as many from everywhere; of all
// accounts together, 10 times as many from one network and 40 times from one site. So
// a stranger elsewhere does not lock a user out; one with dozens of networks slows the
// user down for as long as they keep trying, and a minute at most after that.
//
// A user with a session, who changes the password, has attempts of their own, which no
// stranger can use up.
//
// A proxy that hides its clients' addresses makes one network of all users: they
// share its attempts, and one of them can use them up. Attempts is then to be set
// to what all of them need, and the proxy has to limit each client.
package session

import (
	"context"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/server1/internal/limit"
)

// limiter bounds the attempts to sign in. One that is refused counts nowhere, so
// that nobody is kept out by attempts that came to nothing.
type limiter struct {
	account        *limit.Buckets // one account, from everywhere
	accountNetwork *limit.Buckets // one account, from one network
	accountSite    *limit.Buckets
	network        *limit.Buckets // all accounts, from one network
	site           *limit.Buckets
	user           *limit.Buckets // one who has a session
}

func newLimiter(perMinute int) *limiter {
	return &limiter{
		account:        limit.New(20 * perMinute),
		accountNetwork: limit.New(perMinute),
		accountSite:    limit.New(4 * perMinute),
		network:        limit.New(10 * perMinute),
		site:           limit.New(40 * perMinute),
		user:           limit.New(perMinute),
	}
}

// stranger counts one more attempt, if it may be made. If not, it says how long to
// wait.
func (l *limiter) stranger(account, network string, now time.Time) (wait time.Duration, ok bool) {
	site := siteOf(network)
	return limit.Take(now,
		limit.Share{Of: l.network, Key: network},
		limit.Share{Of: l.site, Key: site},
		limit.Share{Of: l.accountNetwork, Key: account + "@" + network},
		limit.Share{Of: l.accountSite, Key: account + "@" + site},
		limit.Share{Of: l.account, Key: account},
	)
}

// proven is stranger for a user who has a session.
func (l *limiter) proven(userID string, now time.Time) (wait time.Duration, ok bool) {
	return limit.Take(now, limit.Share{Of: l.user, Key: userID})
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
