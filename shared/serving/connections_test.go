package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// at is a connection from an address that nothing is sent on.
type at struct {
	net.Conn
	address net.Addr
}

func (a at) RemoteAddr() net.Addr { return a.address }
func (a at) Close() error         { return nil }

// held are connections of a network, all with an open call or all without.
type held struct {
	network, n int
	busy       bool
}

// full are 64 connections, of which so many, of network 1, are idle.
func full(idle int) []held {
	all := []held{{1, idle, false}, {1, 16 - idle, true}, {2, 16, true}}
	for n := range 32 {
		all = append(all, held{3 + n, 1, true})
	}
	return all
}

// I03: who gets the place of whom.
func TestI03Places(t *testing.T) {
	const busy, idle = true, false
	for name, c := range map[string]struct {
		open []held
		from int  // the network that asks for one more
		want bool // it gets it
		lost int  // the network that loses its longest idle one; 0: none
	}{
		"I03 there is room":                               {open: []held{{1, 10, idle}}, from: 1, want: true},
		"I03 a quarter is taken by one, and idle":         {open: []held{{1, 16, idle}}, from: 1, want: true, lost: 1},
		"I03 a quarter is taken by one, all with calls":   {open: []held{{1, 16, busy}, {2, 9, idle}}, from: 1},
		"I03 half is taken by two who are idle":           {open: []held{{1, 16, idle}, {2, 15, idle}, {3, 1, busy}}, from: 3, want: true, lost: 1},
		"I03 the largest has calls, the second is idle":   {open: []held{{1, 16, busy}, {2, 15, idle}, {3, 1, busy}}, from: 3, want: true, lost: 2},
		"I03 all who hold more have calls":                {open: []held{{1, 16, busy}, {2, 15, busy}, {3, 1, busy}}, from: 3},
		"I03 who holds no more, and is idle":              {open: []held{{1, 16, busy}, {2, 8, idle}, {3, 8, busy}}, from: 3, want: true, lost: 2},
		"I03 the 64th of another is its own":              {open: []held{{1, 16, busy}, {2, 14, busy}, {4, 1, idle}, {3, 1, busy}}, from: 3},
		"I03 it holds the most itself":                    {open: []held{{1, 16, busy}, {2, 7, idle}, {3, 8, busy}, {3, 1, idle}}, from: 3, want: true, lost: 3},
		"I03 of two who hold as much, the longest idle":   {open: []held{{1, 8, idle}, {2, 16, idle}, {1, 8, idle}, {3, 1, busy}}, from: 3, want: true, lost: 1},
		"I03 a newcomer where half is taken":              {open: []held{{1, 16, idle}, {2, 16, idle}}, from: 3, want: true},
		"I03 a newcomer where all is taken, some idle":    {open: full(15), from: 99, want: true, lost: 1},
		"I03 a newcomer where all is taken and has calls": {open: full(0), from: 99},
		"I03 a quarter, and others hold more than a 64th": {open: []held{{1, 16, idle}, {2, 16, busy}}, from: 2},
		"I03 one who holds the most may replace its own":  {open: []held{{1, 16, idle}, {2, 15, idle}, {4, 1, idle}}, from: 1, want: true, lost: 1},
	} {
		t.Run(name, func(t *testing.T) {
			all := newConnections(64)
			var first [100]*connection // that is idle, of each network
			n := 0
			open := func(network int) (*connection, *connection) {
				n++
				return all.admit(at{address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(network)), Port: n}})
			}
			for _, h := range c.open {
				for range h.n {
					conn, lost := open(h.network)
					if lost != nil {
						t.Fatal("one is lost already")
					}
					if conn == nil {
						t.Fatal("one is refused already")
					}
					if h.busy {
						all.begin(conn.RemoteAddr())
					} else if first[h.network] == nil {
						first[h.network] = conn
					}
				}
			}
			got, lost := open(c.from)
			if (got != nil) != c.want {
				t.Errorf("it gets one: %v, want %v", got != nil, c.want)
			}
			if lost != first[c.lost] {
				t.Errorf("lost: %+v, want the first of network %d", lost, c.lost)
			}
			if lost != nil && all.begin(lost.RemoteAddr()) {
				t.Error("a call begins on a connection that has no place any more")
			}
			for _, conn := range all.from {
				_ = conn.Close()
				_ = conn.Close()
			}
			if all.taken != 0 || len(all.by) != 0 || len(all.from) != 0 {
				t.Errorf("all are closed, and %d are taken, by %v", all.taken, all.by)
			}
		})
	}
}

func TestConnectionsAreConcurrent(t *testing.T) {
	all := newConnections(16)
	var done sync.WaitGroup
	for n := range 20 {
		done.Go(func() {
			for i := range 100 {
				address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(n%3)), Port: i}
				conn, lost := all.admit(at{address: address})
				if lost != nil {
					_ = lost.Close()
				}
				if conn == nil {
					continue
				}
				if all.begin(address) {
					all.end(address)
				}
				_ = conn.Close()
			}
		})
	}
	done.Wait()
	if all.taken != 0 || len(all.by) != 0 || len(all.from) != 0 {
		t.Errorf("%d are taken, by %v", all.taken, all.by)
	}
}

// patience is how long a busy machine may take for what is soon done.
const patience = 30 * time.Second

// waiting is a service whose streams say that they have begun and stay open.
func waiting() *service {
	return &service{stream: func(_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}}
}

// dialer connects from an address of this machine, which is a network of its own.
func dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
}

func (r *running) silent(t *testing.T, from string) net.Conn {
	t.Helper()
	conn, err := dialer(from).Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// begins opens a call on a connection of its own.
func (r *running) begins(t *testing.T, from string) (grpc.ServerStreamingClient[testpb.StreamingOutputCallResponse], error) {
	t.Helper()
	conn := r.dial(t, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return dialer(from).DialContext(ctx, "tcp", address)
	}))
	stream, err := testpb.NewTestServiceClient(conn).StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return stream, err
}

// isClosed reports whether the server closes a connection within a time.
func isClosed(conn net.Conn, within time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, conn)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// I03: two addresses hold as many connections as they get, silent or idle, and a
// proxy gets its quarter all the same. What has an open call stays.
func TestI03IdleConnectionsGoFirst(t *testing.T) {
	t.Parallel()
	r := run(t, waiting(), func(c *Config) { c.MaxConnections = 64 })
	var idle []net.Conn
	for range 16 {
		for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
			idle = append(idle, r.silent(t, from))
		}
	}
	var calls []grpc.ServerStreamingClient[testpb.StreamingOutputCallResponse]
	for n := range 16 {
		call, err := r.begins(t, "127.0.0.4")
		if err != nil {
			t.Fatalf("call %d of the proxy: %v", n, err)
		}
		calls = append(calls, call)
	}
	if _, err := r.begins(t, "127.0.0.4"); status.Code(err) != codes.Unavailable {
		t.Errorf("more than a quarter: %v", err)
	}
	if _, err := r.begins(t, "127.0.0.5"); err != nil {
		t.Errorf("a newcomer: %v", err)
	}
	for n, conn := range idle {
		within := patience
		if n >= 15 {
			within = 20 * time.Millisecond // it is to stay
		}
		if gone := isClosed(conn, within); gone != (n < 15) {
			t.Errorf("silent connection %d is closed: %v", n, gone)
		}
	}
	for n, call := range calls {
		ended := make(chan error, 1)
		go func() { _, err := call.Recv(); ended <- err }()
		select {
		case err := <-ended:
			t.Errorf("call %d has ended: %v", n, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	r.waitLog(t, `"idle_closed":1`)
}

// I03: one network's connections end at a quarter: a new one takes the place of its
// own that has been idle for the longest time, or is closed where all have calls.
func TestI03OneNetworksConnections(t *testing.T) {
	t.Parallel()
	r := run(t, waiting(), func(c *Config) { c.MaxConnections = 8 })
	first, second := r.silent(t, "127.0.0.1"), r.silent(t, "127.0.0.1")
	third := r.silent(t, "127.0.0.1")
	if !isClosed(first, patience) || isClosed(second, 100*time.Millisecond) || isClosed(third, 100*time.Millisecond) {
		t.Error("the first one is to make room, and no other")
	}
	for range 2 {
		if _, err := r.begins(t, "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	if !isClosed(second, patience) || !isClosed(third, patience) {
		t.Error("two silent ones are to make room for two with calls")
	}
	for range 3 {
		if !isClosed(r.silent(t, "127.0.0.1"), patience) {
			t.Error("one more than a quarter of eight is open, beside two with calls")
		}
	}
	r.waitLog(t, "--max-connections")
	if n := strings.Count(r.log.String(), "--max-connections"); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
}

// I03: a request for a page keeps its connection, from its header to its answer, over
// HTTP/1.1 and HTTP/2; a connection without one makes room.
func TestI03PagesUnderWay(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("I03 HTTP/%d", version), func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			address, config := pagesOf(t, 8, func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != version {
					t.Errorf("asked over %s", r.Proto)
				}
				if r.URL.Path == "/slow" {
					close(asked)
					<-answer
				}
			})
			transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: version == 2}
			defer transport.CloseIdleConnections()
			get := func(path string) error {
				response, err := (&http.Client{Transport: transport}).Get("https://" + address + path)
				if err != nil {
					return err
				}
				return response.Body.Close()
			}
			if err := get("/"); err != nil { // and is idle
				t.Fatal(err)
			}
			slow := make(chan error, 1)
			go func() { slow <- get("/slow") }()
			<-asked
			var silent []net.Conn
			for range 4 {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				silent = append(silent, conn)
			}
			for n, conn := range silent[:3] {
				if !isClosed(conn, patience) {
					t.Errorf("silent connection %d is open", n)
				}
			}
			close(answer)
			if err := <-slow; err != nil {
				t.Errorf("a request under way: %v", err)
			}
		})
	}
}
