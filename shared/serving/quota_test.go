package serving

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
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
	q := newQuota(128)
	take := func(address net.Addr, want int) {
		t.Helper()
		var got int
		for range 40 {
			release, ok := q.take(address)
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
	if _, ok := newQuota(1).take(nil); !ok {
		t.Error("a 64th of one is none")
	}
}

// A name that a caller has made up is answered at once, and kept nowhere.
func TestHealthOfTheUnknown(t *testing.T) {
	bubble(t, &service{}, nil, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := healthpb.NewHealthClient(conn)
		for _, name := range []string{"x", "grpc.testing.TestService2", strings.Repeat("x", MaxMessage-64)} {
			req := &healthpb.HealthCheckRequest{Service: name}
			if _, err := client.Check(t.Context(), req); status.Code(err) != codes.NotFound {
				t.Errorf("Check of %.30q: %v", name, err)
			}
			start := time.Now()
			watch, err := client.Watch(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Recv(); status.Code(err) != codes.NotFound || time.Since(start) > 0 {
				t.Errorf("Watch of %.30q: %v after %s", name, err, time.Since(start))
			}
		}
	})
}

// One network has a quarter of the watches of a method, which are a quarter of the
// connections; one that ends makes room, and other calls need none.
func TestWatchesAreBounded(t *testing.T) {
	change := func(c *Config) { c.MaxConnections = 64 }
	bubble(t, &service{}, change, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := healthpb.NewHealthClient(conn)
		watch := func(ctx context.Context) error {
			stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			return err
		}
		first, end := context.WithCancel(t.Context())
		if err := watch(first); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if err := watch(t.Context()); err != nil {
				t.Fatalf("watch %d: %v", n+2, err)
			}
		}
		wantCode(t, watch(t.Context()), codes.ResourceExhausted)
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Error("Check:", err)
		}
		end()
		synctest.Wait()
		if err := watch(t.Context()); err != nil {
			t.Error("after one has ended:", err)
		}
		wantCode(t, watch(t.Context()), codes.ResourceExhausted)
	})
}

// One network's connections end at a quarter; what is too many is closed at once,
// and one that closes makes room.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, func(c *Config) { c.MaxConnections = 8 })
	dial := func() (conn net.Conn, open bool) {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = io.Copy(io.Discard, conn)
		return conn, errors.Is(err, os.ErrDeadlineExceeded)
	}
	conn, open := dial()
	if _, also := dial(); !open || !also {
		t.Fatalf("the first two: %v, %v", open, also)
	}
	for range 3 {
		if _, open := dial(); open {
			t.Error("one more than a quarter of eight is open")
		}
	}
	r.waitLog(t, "--max-connections")
	if n := strings.Count(r.log.String(), "--max-connections"); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
	conn.Close()
	time.Sleep(100 * time.Millisecond)
	if _, err := r.client(t).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error("after one has closed:", err)
	}
}

// The log tells once a minute how many connections were refused.
func TestGateTells(t *testing.T) {
	log := &servingtest.Log{}
	g := &gate{log: Flags{}.Logger(log)}
	now := time.Now()
	for range 5 {
		g.tell(&net.TCPAddr{}, now)
	}
	g.tell(&net.TCPAddr{}, now.Add(tellAgain))
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, `"refused":5`) {
		t.Error(text)
	}
}

func TestQuotaIsConcurrent(t *testing.T) {
	q := newQuota(40)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 100 {
				if release, ok := q.take(nil); ok {
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
