package serving

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// Network is the addresses of a network, as CIDR has them (RFC 4632): 192.0.2.0/24.
type Network netip.Prefix

// UnmarshalText reads a network, of which no bit beyond its length is set. It refuses
// the network of all addresses.
func (n *Network) UnmarshalText(text []byte) error {
	prefix, err := netip.ParsePrefix(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("must be a network, such as 192.0.2.0/24 or 2001:db8::/48, not %q", text)
	case prefix.Addr().Is4In6():
		return fmt.Errorf("must be an IPv4 network without ::ffff:, not %q", text)
	case prefix.Bits() == 0:
		return errors.New("must not be all addresses")
	case prefix != prefix.Masked():
		return fmt.Errorf("must be %s, where its bits are %d", prefix.Masked(), prefix.Bits())
	}
	*n = Network(prefix)
	return nil
}

// places are how many watches of one method can be open at once. Those of the known
// are their own, and they share the others' where those are taken.
type places struct {
	networks []Network
	known    chan struct{} // holds one for each that is taken
	others   *quota.Quota
}

// newPlaces returns so many places: half of them are the known networks', if there are
// any.
func newPlaces(all int, known []Network) *places {
	own := 0
	if len(known) > 0 {
		own = max(1, all/2)
	}
	return &places{networks: known, known: make(chan struct{}, own), others: quota.New(max(1, all-own))}
}

// take takes a place for who is at the address, if there is one left. What is taken
// is to be released once.
func (p *places) take(address net.Addr) (release func(), ok bool) {
	if p.knows(address) {
		select {
		case p.known <- struct{}{}:
			return func() { <-p.known }, true
		default:
		}
	}
	return p.others.Take(address)
}

func (p *places) knows(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.networks, func(n Network) bool { return netip.Prefix(n).Contains(ip) })
}

// boundWatches refuses one watch too many of a method.
func (s *Server) boundWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	watches := s.long[info.FullMethod].watches
	if watches == nil {
		return handler(srv, stream)
	}
	release, ok := watches.take(addressOf(stream.Context()))
	if !ok {
		return fixed(codes.ResourceExhausted)
	}
	defer release()
	return handler(srv, stream)
}

// addressOf returns where a call comes from, or nil.
func addressOf(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return nil
}

// untilStop returns a context that also ends when the server begins to drain.
func (s *Server) untilStop(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.watching, cancel)
	context.AfterFunc(ctx, func() { forget() })
	return ctx
}
