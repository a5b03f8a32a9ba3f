// Package quota bounds what strangers hold at once, so that no few of them keep all
// the others out.
package quota

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"google.golang.org/grpc/peer"
)

// A Quota bounds what strangers hold at once: so much in all, and a Share of that
// from one network. It is safe for concurrent use.
type Quota struct {
	all int

	mu    sync.Mutex
	taken int
	by    map[netip.Prefix]int // no entry is zero
}

// New returns a quota of so much in all.
func New(all int) *Quota {
	return &Quota{all: all, by: map[netip.Prefix]int{}}
}

// Take takes one for who is at the address, if there is one left. What is taken is
// to be released once.
func (q *Quota) Take(address net.Addr) (release func(), ok bool) {
	network := NetworkOf(address)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken >= q.all || q.by[network] >= Share(q.all, q.taken) {
		return nil, false
	}
	q.taken++
	q.by[network]++
	return func() { q.release(network) }, true
}

func (q *Quota) release(network netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken--
	if q.by[network]--; q.by[network] == 0 {
		delete(q.by, network)
	}
}

// Share returns how much of all one network can have while so much is taken: a
// quarter, and once half is taken a 64th; but one at least.
func Share(all, taken int) int {
	if taken >= all/2 {
		return max(1, all/64)
	}
	return max(1, all/4)
}

// NetworkOf returns what is taken to be one stranger: an IPv4 address, or an IPv6
// /48, of which one costs no more than an address does. All that has no address of
// TCP is one stranger too.
func NetworkOf(address net.Addr) netip.Prefix {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 48
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// AddressOf returns where a request comes from, or nil where that is no address of TCP.
func AddressOf(r *http.Request) net.Addr {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(address)
}

// WithPeer returns a request's context with where it comes from as gRPC's peer, unless it
// has one: what asks for a call's network finds a request's.
func WithPeer(r *http.Request) context.Context {
	ctx := r.Context()
	if _, ok := peer.FromContext(ctx); ok {
		return ctx
	}
	return peer.NewContext(ctx, &peer.Peer{Addr: AddressOf(r)})
}
