package serving

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// A name that a caller has made up is answered at once, and kept nowhere.
func TestHealthOfTheUnknown(t *testing.T) {
	bubble(t, &service{}, nil, func(t *testing.T, conn *grpc.ClientConn, _ context.CancelFunc) {
		client := healthpb.NewHealthClient(conn)
		for _, name := range []string{"x", "grpc.testing.TestService2", strings.Repeat("x", maxMessage-64)} {
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

// I02: one network has a quarter of the watches of a method, which are a quarter of the
// connections; one that ends makes room, and other calls need none.
func TestI02WatchesAreBounded(t *testing.T) {
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

// The log tells how many connections had to go.
func TestCrowdIsLogged(t *testing.T) {
	log := &servingtest.Log{}
	s := &Server{config: Config{Log: Flags{}.Logger(log)}}
	s.crowded(8, 4, &net.TCPAddr{})
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"idle_closed":8,"refused":4`) {
		t.Error(text)
	}
}

// I02: strangers take all the places that they get; a known network's watches have
// their own, of those one address can have all, and others are refused and may ask.
func TestI02KnownNetworksKeepPlaces(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, func(c *Config) {
		c.MaxConnections = 64 // 16 places
		c.Known = make([]Network, 2)
		for n, text := range []string{"192.0.2.0/24", "127.0.1.0/24"} {
			if err := c.Known[n].UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	})
	client := func(from string) healthpb.HealthClient {
		return healthpb.NewHealthClient(r.dial(t, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer(from).DialContext(ctx, "tcp", address)
		})))
	}
	// watches opens watches until one is refused, and says how many it has got.
	watches := func(client healthpb.HealthClient) int {
		for n := 0; ; n++ {
			stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			if err != nil {
				wantCode(t, err, codes.ResourceExhausted)
				return n
			}
		}
	}
	strangers := 0
	for n := range 10 {
		strangers += watches(client(fmt.Sprintf("127.0.0.%d", 10+n)))
	}
	if strangers != 8 {
		t.Errorf("strangers have %d places, want half of 16", strangers)
	}
	known := client("127.0.1.7")
	if got := watches(known); got != 8 {
		t.Errorf("a known network has %d places, want the other half", got)
	}
	for _, client := range []healthpb.HealthClient{known, client("127.0.0.99")} {
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Error("who has no place may ask:", err)
		}
	}
}

// I02: of the places that nobody is known for, none is kept, and the known share the
// others' once their own are taken.
func TestI02Places(t *testing.T) {
	var network Network
	if err := network.UnmarshalText([]byte("2001:db8::/32")); err != nil {
		t.Fatal(err)
	}
	known, stranger := &net.TCPAddr{IP: net.ParseIP("2001:db8:1::1")}, &net.TCPAddr{IP: net.ParseIP("2001:db9::1")}
	for _, c := range []struct {
		all            int
		networks       []Network
		known, unknown int // that a single address gets
	}{
		{1024, nil, 256, 256},
		{1024, []Network{network}, 512 + 128, 128},
		{1, []Network{network}, 2, 1},
	} {
		for address, want := range map[*net.TCPAddr]int{known: c.known, stranger: c.unknown} {
			p, got := newPlaces(c.all, c.networks), 0
			var releases []func()
			for ; ; got++ {
				release, ok := p.take(address)
				if !ok {
					break
				}
				releases = append(releases, release)
			}
			if got != want {
				t.Errorf("of %d places %s gets %d, want %d", c.all, address, got, want)
			}
			for _, release := range releases {
				release()
			}
			if _, ok := p.take(address); !ok {
				t.Error("all are given back, and none is left")
			}
		}
	}
}

func TestNetworks(t *testing.T) {
	for text, ok := range map[string]bool{
		"192.0.2.0/24": true, "192.0.2.7/32": true, "2001:db8::/48": true, "fd00::1/128": true,
		"": false, "192.0.2.7": false, "192.0.2.7/24": false, "2001:db8::1/48": false, "0.0.0.0/0": false, "::/0": false,
		"192.0.2.0/33": false, "::ffff:192.0.2.0/120": false, "fe80::%eth0/64": false, "billing.example": false, " 192.0.2.0/24": false,
	} {
		if err := new(Network).UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		} else if err != nil && !strings.HasPrefix(err.Error(), "must ") {
			t.Errorf("%q: %v, which does not say what it must be", text, err)
		}
	}
}
