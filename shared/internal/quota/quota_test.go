package quota

import (
	"net"
	"sync"
	"testing"
)

func TestQuota(t *testing.T) {
	at := func(text string) net.Addr {
		tcp, err := net.ResolveTCPAddr("tcp", text)
		if err != nil {
			t.Fatal(err)
		}
		return tcp
	}
	var releases []func()
	q := New(128)
	take := func(address net.Addr, want int) {
		t.Helper()
		var got int
		for range 40 {
			release, ok := q.Take(address)
			if !ok {
				break
			}
			got++
			releases = append(releases, release)
		}
		if got != want {
			t.Errorf("%v got %d, want %d", address, got, want)
		}
	}
	take(at("192.0.2.1:1"), 32)
	take(at("[::ffff:192.0.2.1]:2"), 0) // the same address
	releases[0]()
	take(at("192.0.2.1:3"), 1)
	take(at("[2001:db8:1:2::3]:1"), 32)
	take(at("[2001:db8:1:ffff::]:1"), 0) // the same /48
	releases[1]()
	take(at("192.0.2.1:3"), 1) // the last of the first half
	take(&net.UnixAddr{Name: "x"}, 2)
	take(nil, 0)
	for n := range 31 {
		take(&net.TCPAddr{IP: net.IPv4(198, 51, 100, byte(n))}, 2)
	}
	take(at("192.0.2.3:1"), 0) // none is left
	releases[2]()
	take(at("192.0.2.1:3"), 0)
	take(at("192.0.2.3:1"), 1)
	for _, release := range append(releases[:0:0], releases[3:]...) {
		release()
	}
	if q.taken != 0 || len(q.by) != 0 {
		t.Errorf("all is given back, and %d are taken by %v", q.taken, q.by)
	}
	if _, ok := New(1).Take(nil); !ok {
		t.Error("a 64th of one is none")
	}
}

func TestQuotaIsConcurrent(t *testing.T) {
	q := New(40)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 100 {
				if release, ok := q.Take(nil); ok {
					release()
				}
			}
		})
	}
	all.Wait()
	if q.taken != 0 || len(q.by) != 0 {
		t.Errorf("%d are taken by %v", q.taken, q.by)
	}
}
