package serving

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// pages serves a handler over HTTPS until the test ends, with time limits that the
// test can wait for. Each is as many times shorter.
func pages(t *testing.T, handler http.HandlerFunc) (address string, config *tls.Config) {
	t.Helper()
	return pagesOf(t, 1024, handler)
}

// pagesOf is pages with so many connections at most.
func pagesOf(t *testing.T, most int, handler http.HandlerFunc) (address string, config *tls.Config) {
	t.Helper()
	flags, pool := testFlags(t)
	flags.MaxConnections = most
	server, err := New(Config{Flags: flags, Log: flags.Logger(&servingtest.Log{})})
	if err != nil {
		t.Fatal(err)
	}
	https, err := server.HTTPS(HTTPSConfig{Setting: "http", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	s := https.server
	for what, limit := range map[string]struct {
		time *time.Duration
		most time.Duration
	}{
		"read header": {&s.ReadHeaderTimeout, 5 * time.Second}, "read": {&s.ReadTimeout, 10 * time.Second},
		"write": {&s.WriteTimeout, time.Minute}, "idle": {&s.IdleTimeout, time.Minute},
	} {
		if *limit.time <= 0 || *limit.time > limit.most {
			t.Errorf("to %s can take %s; want at most %s", what, *limit.time, limit.most)
		}
		*limit.time = max(*limit.time/20, 1500*time.Millisecond) // in which a busy machine shakes hands
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- https.Run(ctx, handler) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return https.Addr().String(), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// closes waits until the server closes a connection.
func closes(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	began := time.Now()
	if err := conn.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Errorf("%s: the connection stays open", what)
	}
	t.Logf("%s: closed after %s", what, time.Since(began).Round(time.Millisecond))
}

// G09: a connection for pages that does not go on is cut off, at each
// step of both protocols.
func TestG09PagesSilentClients(t *testing.T) {
	t.Parallel()
	address, config := pages(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
	over := func(t *testing.T, protocol, first string) net.Conn {
		t.Helper()
		config := config.Clone()
		config.NextProtos = []string{protocol}
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
			t.Fatalf("the protocol is %q", got)
		}
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	const request = "GET / HTTP/1.1\r\nHost: pages\r\n"
	settings := http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, open := range map[string]func(t *testing.T) net.Conn{
		"no handshake": func(t *testing.T) net.Conn {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		},
		"1.1, no request":        func(t *testing.T) net.Conn { return over(t, "http/1.1", "") },
		"1.1, half a header":     func(t *testing.T) net.Conn { return over(t, "http/1.1", request) },
		"1.1, no second request": func(t *testing.T) net.Conn { return over(t, "http/1.1", request+"\r\n") },
		"2, no preface":          func(t *testing.T) net.Conn { return over(t, "h2", "") },
		"2, no request":          func(t *testing.T) net.Conn { return over(t, "h2", settings) },
		// HEADERS of stream 1, of which the rest never comes: END_HEADERS is not set.
		"2, half a header": func(t *testing.T) net.Conn { return over(t, "h2", settings+"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			closes(t, name, open(t))
		})
	}
}

// G09: a request whose body never comes, and an answer that nobody reads, end in
// time, in both protocols.
func TestG09PagesHalfDone(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	address, config := pages(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
			return
		}
		chunk := make([]byte, 1<<20)
		for range 256 {
			if _, err := w.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	})
	for name, second := range map[string]bool{"1.1": false, "2": true} {
		transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: second}
		defer transport.CloseIdleConnections()
		never, write := io.Pipe()
		defer write.Close()
		for what, request := range map[string]*http.Request{
			"a body that never comes":     newRequest(t, http.MethodPost, "https://"+address, never),
			"an answer that nobody reads": newRequest(t, http.MethodGet, "https://"+address, nil),
		} {
			began := time.Now()
			go func() {
				response, err := transport.RoundTrip(request)
				if err == nil {
					<-request.Context().Done() // with the body unread
					_ = response.Body.Close()
				}
			}()
			select {
			case err := <-ended:
				if err == nil {
					t.Errorf("%s, %s: all of it came", name, what)
				}
				t.Logf("%s, %s: ended after %s: %v", name, what, time.Since(began).Round(time.Millisecond), err)
			case <-time.After(20 * time.Second):
				t.Errorf("%s, %s: it goes on", name, what)
			}
		}
	}
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return request
}
