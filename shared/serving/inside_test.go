package serving

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/handoff-auth/handoff/shared/internal/quota"
)

// J08: a call of the program's own passes all that others' do.
func TestJ08Memory(t *testing.T) {
	var seen struct{ listener, tap, unary atomic.Int32 }
	var peers []string
	impl := &service{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		p, _ := peer.FromContext(ctx)
		peers = append(peers, p.AuthInfo.AuthType())
		return &testpb.SimpleResponse{}, nil
	}}
	refuse := false
	r := run(t, impl, func(c *Config) {
		c.Listener = func(l net.Listener) net.Listener { return counting{l, &seen.listener} }
		c.Tap = func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			seen.tap.Add(1)
			if refuse {
				return nil, status.Error(codes.ResourceExhausted, "x")
			}
			return ctx, nil
		}
		c.Unary = []grpc.UnaryServerInterceptor{func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			seen.unary.Add(1)
			return handler(ctx, req)
		}}
	})
	conn, err := r.Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testpb.NewTestServiceClient(conn)
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if seen.listener.Load() != 1 || seen.tap.Load() != 1 || seen.unary.Load() != 1 {
		t.Errorf("passed the listener %d times, Tap %d, the interceptor %d", seen.listener.Load(), seen.tap.Load(), seen.unary.Load())
	}
	large := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 1<<20)}}
	if _, err := client.UnaryCall(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a megabyte: %v", err)
	}
	if _, err := r.client(t).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"memory", "tls"}; !slices.Equal(peers, want) {
		t.Errorf("peers %q, want %q", peers, want)
	}
	refuse = true
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("past Tap: %v", err)
	}
	if strings.Contains(r.log.String(), "panic") {
		t.Error(r.log)
	}
}

// I01, J08: a call that the program makes for a client of its pages counts as that
// client's, for what is bounded for each network. Nobody else can say so of theirs.
func TestI01CallsForClients(t *testing.T) {
	type call struct {
		network netip.Prefix
		told    []string
	}
	calls := make(chan call, 1)
	var seen call
	impl := &service{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		of, _ := peer.FromContext(ctx)
		said, _ := metadata.FromIncomingContext(ctx)
		seen.network, seen.told = quota.NetworkOf(of.Addr), said.Get(clientKey)
		calls <- seen
		return &testpb.SimpleResponse{}, nil
	}}
	var tapped netip.Prefix
	r := run(t, impl, func(c *Config) {
		c.Tap = func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			of, _ := peer.FromContext(ctx)
			tapped = quota.NetworkOf(of.Addr)
			return ctx, nil
		}
	})
	conn, err := r.Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testpb.NewTestServiceClient(conn)
	made := func(what string, err error, want string) {
		t.Helper()
		if err != nil {
			t.Fatal(what, err)
		}
		network := netip.Prefix{}
		if want != "" {
			network = netip.MustParsePrefix(want)
		}
		if got := <-calls; got.network != network || tapped != network {
			t.Errorf("%s: counted for %s by the tap and for %s by the handler, want %s", what, tapped, got.network, network)
		} else if strings.HasPrefix(what, "inside") && len(got.told) > 0 {
			t.Errorf("%s: the handler sees %q", what, got.told)
		}
	}
	_, err = client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	made("inside, for nobody", err, "")
	for address, want := range map[string]string{"192.0.2.7:1": "192.0.2.7/32", "[2001:db8:1:2::3]:1": "2001:db8:1::/48"} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))})
		// What a client had the pages send along does not count.
		ctx = metadata.AppendToOutgoingContext(ctx, clientKey, "203.0.113.9:1")
		_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{})
		made("inside, for "+address, err, want)
	}
	forged := metadata.AppendToOutgoingContext(t.Context(), clientKey, "192.0.2.7:1")
	_, err = r.client(t).UnaryCall(forged, &testpb.SimpleRequest{})
	made("from outside", err, "127.0.0.1/32")

	pages, err := r.HTTPS(HTTPSConfig{Setting: "http", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- pages.Run(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := client.UnaryCall(r.Context(), &testpb.SimpleRequest{}); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}))
	}()
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
			transport := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: r.pool, NextProtos: []string{protocol}}, ForceAttemptHTTP2: protocol == "h2",
				DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext,
			}
			response, err := (&http.Client{Transport: transport}).Get("https://" + pages.Addr().String())
			if err == nil {
				response.Body.Close()
			}
			made("a page over "+protocol+" for "+from, err, from+"/32")
			transport.CloseIdleConnections()
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type counting struct {
	net.Listener
	accepted *atomic.Int32
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted.Add(1)
	}
	return conn, err
}

// What is not in memory must speak TLS.
func TestG16NothingElseGoesWithoutTLS(t *testing.T) {
	r := run(t, &service{}, nil)
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	n, _ := conn.Read(answer)
	if n > 0 && answer[0] != 0x15 { // a TLS alert
		t.Errorf("answered %q", answer[:n])
	}
	pool := &tls.Config{RootCAs: r.pool, MaxVersion: tls.VersionTLS12}
	if _, err := tls.Dial("tcp", r.address, pool); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
}

// J08: the program's own calls are bounded as those of one connection are.
func TestJ08StreamLimit(t *testing.T) {
	var running, most atomic.Int64
	hold := make(chan struct{})
	r := run(t, &service{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		now := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
		}
		<-hold
		return &testpb.SimpleResponse{}, nil
	}}, nil)
	conn, err := r.Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testpb.NewTestServiceClient(conn)
	if _, err := warm(t, client, hold); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range maxStreams + 50 {
		all.Go(func() {
			if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(5 * time.Second); running.Load() < maxStreams && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // in which the others would come, too
	close(hold)
	all.Wait()
	if most.Load() != maxStreams {
		t.Errorf("%d calls ran at once, want %d", most.Load(), maxStreams)
	}
}

// warm makes one call, so that the client has heard the server's settings.
func warm(t *testing.T, client testpb.TestServiceClient, hold chan struct{}) (*testpb.SimpleResponse, error) {
	go func() { hold <- struct{}{} }()
	return client.UnaryCall(t.Context(), &testpb.SimpleRequest{})
}
