package overload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/tap"
)

// I01: when strangers have taken all places by calls whose requests do not come, a
// call from elsewhere takes the place of one of them, of the network that keeps the most. A
// call whose request has come keeps its place.
func TestI01SilentCallsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all, networks = 1024, 40
		s := newShedder(t, Config{MaxOpen: all, BodyTimeout: time.Hour})
		begin := func(address string) context.Context {
			ctx, err := s.Tap(from(t.Context(), address), &tap.Info{FullMethodName: "/a.B/C"})
			if err != nil {
				return nil
			}
			return ctx
		}
		var working, silent []context.Context
		for range 10 {
			ctx := begin("203.0.113.1")
			arrive(s, ctx)
			working = append(working, ctx)
		}
		for i := range networks {
			for range all {
				if ctx := begin(fmt.Sprintf("192.0.2.%d", i)); ctx != nil {
					silent = append(silent, ctx)
				}
			}
		}
		if n, _ := s.open.number(netip.Prefix{}); n != all {
			t.Fatalf("%d calls are open, want %d", n, all)
		}
		ended := func() (n int) {
			for _, ctx := range silent {
				if errors.Is(context.Cause(ctx), errDisplaced) {
					n++
				}
			}
			return n
		}
		before := ended()
		for range 10 {
			ctx := begin("203.0.113.2")
			if ctx == nil {
				t.Fatal("an honest caller finds no place")
			}
			arrive(s, ctx)
			working = append(working, ctx)
		}
		if n, _ := s.open.number(netip.Prefix{}); ended()-before != 10 || n != all {
			t.Errorf("%d calls made room for 10, and %d are open", ended()-before, n)
		}
		for _, ctx := range working {
			if ctx.Err() != nil {
				t.Errorf("a call whose request has come was ended: %v", context.Cause(ctx))
			}
		}
		// Nobody takes more than those from whom it is taken have.
		got := 0
		for range all {
			if begin("203.0.113.3") != nil {
				got++
			}
		}
		if fair := all / (networks + 1); got < fair/2 || got > 2*fair {
			t.Errorf("one more network has %d places of %d", got, all)
		}
	})
}

// Calls whose requests have come are nobody's to take, though there is no place; and
// a place that was taken is given back once.
func TestI01PlacesOfCalls(t *testing.T) {
	at := func(i int) net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(i))} }
	c := newCalls(4)
	displaced := 0
	var open []*call
	for i := range 4 {
		a := c.begin(at(i), func(error) { displaced++ })
		a.late = time.NewTimer(time.Hour)
		a.arrived()
		open = append(open, a)
	}
	if a := c.begin(at(9), nil); a != nil || displaced != 0 {
		t.Errorf("a working call was ended, %d in all", displaced)
	}
	open[0].end()
	open[0].end()
	if n, _ := c.number(netip.Prefix{}); n != 3 {
		t.Errorf("%d calls are open, want 3", n)
	}
	silent := c.begin(at(0), func(err error) {
		if displaced++; !errors.Is(err, errDisplaced) {
			t.Error(err)
		}
	})
	if a := c.begin(at(0), nil); a != nil {
		t.Error("a network that has its share has more")
	}
	open[0] = c.begin(at(9), nil)
	if open[0] == nil || displaced != 1 {
		t.Errorf("a silent call made no room: %d were ended", displaced)
	}
	for _, a := range append(open, silent) {
		a.end()
	}
	if n, _ := c.number(netip.Prefix{}); len(c.by) != 0 || n != 0 {
		t.Errorf("all have ended, and %d are open, of %d networks", n, len(c.by))
	}
}
