package overload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// from is the context of a call from an address.
func from(ctx context.Context, address string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}})
}

// arrive has the request of a call arrive.
func arrive(s *Shedder, ctx context.Context) {
	_, _ = s.Unary(ctx, nil, nil, func(context.Context, any) (any, error) { return nil, nil })
}

func newShedder(t *testing.T, config Config) *Shedder {
	t.Helper()
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// I01: calls that are open are bounded in all and for each network, waiting for anything, and make room as they end.
func TestI01OpenCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := 0
		s := newShedder(t, Config{MaxOpen: 128, BodyTimeout: time.Hour, Shed: func(context.Context) { shed++ }})
		ctx, end := context.WithCancel(t.Context())
		open := func(address string, n int) (opened int) {
			for range n {
				begun, err := s.Tap(from(ctx, address), &tap.Info{FullMethodName: "/a.B/C"})
				if err == nil {
					arrive(s, begun)
					opened++
				} else if status.Code(err) != codes.ResourceExhausted {
					t.Error(err)
				}
			}
			return opened
		}
		for _, c := range []struct {
			address string
			want    int
		}{
			{"192.0.2.1", 32}, {"192.0.2.2", 32}, // half of all
			{"192.0.2.3", 2}, {"192.0.2.1", 0}, {"192.0.2.4", 2},
		} {
			if got := open(c.address, 100); got != c.want {
				t.Errorf("%s opened %d calls, want %d", c.address, got, c.want)
			}
		}
		if want := 500 - 68; shed != want {
			t.Errorf("told of %d calls, want %d", shed, want)
		}
		end()
		synctest.Wait()
		ctx = t.Context()
		if got := open("192.0.2.1", 100); got != 32 {
			t.Errorf("once they have ended, %d", got)
		}
	})
}

// I01: a call whose request does not come is ended; one whose request has come is not.
func TestI01BodiesHaveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShedder(t, Config{})
		begin := func() context.Context {
			ctx, err := s.Tap(t.Context(), &tap.Info{FullMethodName: "/a.B/C"})
			if err != nil {
				t.Fatal(err)
			}
			return ctx
		}
		start := time.Now()
		silent, quick := begin(), begin()
		time.Sleep(time.Second)
		arrive(s, quick)
		<-silent.Done()
		if took := time.Since(start); took != 2*time.Second || !errors.Is(context.Cause(silent), errLate) {
			t.Errorf("ended after %s: %v", took, context.Cause(silent))
		}
		time.Sleep(time.Hour)
		if quick.Err() != nil {
			t.Error("a call whose request has come was ended")
		}
	})
}

// I01: a call is refused whose metadata has more values than any needs, under many keys
// or one, and also where it is spared otherwise.
func TestI01MetadataIsBounded(t *testing.T) {
	s := newShedder(t, Config{})
	usual := metadata.Pairs(":authority", "localhost", "content-type", "application/grpc", "user-agent", "x", "authorization", "Bearer x")
	many, one := metadata.MD{}, metadata.MD{}
	for i := range maxFields + 1 {
		many.Set(fmt.Sprint("x", i), "")
		one.Append("x", "")
	}
	for _, c := range []struct {
		header metadata.MD
		want   codes.Code
	}{{nil, codes.OK}, {usual, codes.OK}, {many, codes.ResourceExhausted}, {one, codes.ResourceExhausted}} {
		for _, method := range []string{"/a.B/C", "/grpc.health.v1.Health/Check"} {
			if _, err := s.Tap(t.Context(), &tap.Info{FullMethodName: method, Header: c.header}); status.Code(err) != c.want {
				t.Errorf("I01: %s with %d keys: %v, want %s", method, len(c.header), err, c.want)
			}
		}
	}
}

// While calls wait, what is spared passes.
func TestSpared(t *testing.T) {
	s := newShedder(t, Config{MaxWaiting: 1, Spare: []string{"/a.B/", "/c.D/E"}})
	s.queue.waiting.Store(1)
	s.open.begin(nil, func(error) {}) // a network that has a call open: of few, all pass
	for method, want := range map[string]codes.Code{
		"/a.B/C": codes.OK, "/a.B/": codes.OK, "/c.D/E": codes.OK,
		"/c.D/F": codes.ResourceExhausted, "/a.BB/C": codes.ResourceExhausted, "": codes.ResourceExhausted, "/": codes.ResourceExhausted,
		"a.B/C": codes.ResourceExhausted, "/grpc.health.v1.Health/Check": codes.ResourceExhausted,
	} {
		if _, err := s.Tap(t.Context(), &tap.Info{FullMethodName: method}); status.Code(err) != want {
			t.Errorf("%q: %v, want %s", method, err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for field, config := range map[string]Config{
		"Config.MaxInFlight": {MaxInFlight: -1}, "Config.MaxWaiting": {MaxWaiting: -1},
		"Config.MaxOpen": {MaxOpen: -1}, "Config.MaxConnections": {MaxConnections: -1}, "Config.BodyTimeout": {BodyTimeout: -1},
	} {
		if s, err := New(config); s != nil || err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: %v, %v", config, s, err)
		}
	}
}
