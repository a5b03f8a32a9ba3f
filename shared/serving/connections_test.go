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
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

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
