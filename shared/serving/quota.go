package serving

import (
	"net"
	"net/netip"
	"sync"
)

// A quota bounds what strangers hold at once: so much in all, and a quarter of
// that from one network; once half is taken, a 64th, so that no handful of
// networks can keep all the others out.
type quota struct {
	all int

	mu    sync.Mutex
	taken int
	by    map[netip.Prefix]int // no entry is zero
}

func newQuota(all int) *quota {
	return &quota{all: all, by: map[netip.Prefix]int{}}
}

// take takes one for whoever is at the address, if there is one left. What is
// taken is to be released once.
func (q *quota) take(address net.Addr) (release func(), ok bool) {
	network := networkOf(address)
	q.mu.Lock()
	defer q.mu.Unlock()
	each := q.all / 4
	if q.taken >= q.all/2 {
		each = q.all / 64
	}
	if q.taken >= q.all || q.by[network] >= max(1, each) {
		return nil, false
	}
	q.taken++
	q.by[network]++
	return func() { q.release(network) }, true
}

func (q *quota) release(network netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken--
	if q.by[network]--; q.by[network] == 0 {
		delete(q.by, network)
	}
}

// networkOf returns what is taken to be one stranger: an IPv4 address, or an IPv6
// /48, of which one costs no more than an address does. Whatever has no address
// is one stranger too.
func networkOf(address net.Addr) netip.Prefix {
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
