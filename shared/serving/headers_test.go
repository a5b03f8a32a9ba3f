package serving

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// I01: a header of HTTP/1.1 with thousands of fields is refused, and let go of at once,
// though its body has not come.
func TestI01HeadersOfManyFields(t *testing.T) {
	t.Parallel()
	address, config := pages(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
	for fields, want := range map[int]string{maxFields - 10: "HTTP/1.1 200 OK", maxFields + 1: "HTTP/1.1 431 "} {
		var request bytes.Buffer
		request.WriteString("POST / HTTP/1.1\r\nHost: pages\r\nContent-Length: 10\r\n")
		for i := range fields {
			fmt.Fprintf(&request, "x%d:\r\n", i/2)
		}
		request.WriteString("\r\n")
		if strings.HasSuffix(want, "OK") {
			request.WriteString("0123456789")
		}
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(request.Bytes()); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(want))
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != want {
			t.Errorf("I01: %d fields: %q, %v, want %q", fields, answer, err, want)
		}
		if strings.HasSuffix(want, "431 ") {
			closes(t, "I01 too many fields", conn)
		}
	}
}

// I01: requests whose bodies do not come, or whose answers are not read, are bounded in
// all and for each network. One for which the program has made a call counts as that.
func TestI01RequestsUnderWay(t *testing.T) {
	r := run(t, &service{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{}, nil
	}}, func(c *Config) { c.MaxConnections = 16 }) // 64 requests, and 16 of one network
	conn, err := r.Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pages, err := r.HTTPS(HTTPSConfig{Setting: "http", Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended, reading := make(chan error, 1), make(chan struct{}, 17)
	go func() {
		ended <- pages.Run(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/call" {
				if _, err := testpb.NewTestServiceClient(conn).UnaryCall(r.Context(), &testpb.SimpleRequest{}); err != nil {
					t.Error(err)
				}
			}
			if r.Method == http.MethodPost {
				reading <- struct{}{}
				_, _ = io.Copy(io.Discard, r.Body)
			}
		}))
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	client := func(from string) *http.Client {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: r.pool}, ForceAttemptHTTP2: true,
			DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext,
		}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: 10 * time.Second}
	}
	at := "https://" + pages.Addr().String()
	get := func(c *http.Client) int {
		t.Helper()
		response, err := c.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	stranger, other := client("127.0.0.2"), client("127.0.0.3")
	if got := get(stranger); got != http.StatusOK {
		t.Fatal("the first request: ", got)
	}
	hold := func(path string) (let func()) {
		body, more := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if response, err := stranger.Post(at+path, "text/plain", body); err == nil {
				response.Body.Close()
			}
		}()
		<-reading
		return func() { more.Close(); <-done }
	}
	defer hold("/call")() // one more
	var held []func()
	for range 16 {
		held = append(held, hold("/"))
	}
	if got := get(stranger); got != http.StatusServiceUnavailable {
		t.Errorf("I01: one request too many of a network is answered %d", got)
	}
	if got := get(other); got != http.StatusOK {
		t.Errorf("I01: another network's request is answered %d", got)
	}
	held[0]()
	if got := get(stranger); got != http.StatusOK {
		t.Errorf("I01: a request that has ended keeps its seat: %d", got)
	}
	for _, let := range held[1:] {
		let()
	}
}

// I01: who grants all that HTTP/2 can be granted and then reads nothing holds its requests
// for seconds, and not for good.
func TestI01UnreadAnswers(t *testing.T) {
	t.Parallel()
	var under atomic.Int64
	page := make([]byte, 8<<20)
	address, config := pages(t, func(w http.ResponseWriter, _ *http.Request) {
		under.Add(1)
		defer under.Add(-1)
		_, _ = w.Write(page)
	})
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	config.ServerName = "127.0.0.1"
	conn := tls.Client(raw, config)
	var request bytes.Buffer
	request.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&request, nil)
	err = errors.Join(
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}),
		framer.WriteWindowUpdate(0, 1<<31-1-65535))
	for i := range 4 {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}} {
			err = errors.Join(err, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		err = errors.Join(err, framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		}))
	}
	if _, errWrite := conn.Write(request.Bytes()); errors.Join(err, errWrite) != nil {
		t.Fatal(err, errWrite)
	}
	for began := time.Now(); under.Load() != 4; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d requests are under way", under.Load())
		}
	}
	for began := time.Now(); under.Load() != 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 4*HandshakeTimeout {
			t.Fatalf("I01: after %s %d answers that nobody reads are under way", time.Since(began), under.Load())
		}
	}
}

// I01: HTTP/1.1 has one request a connection: the next header could come with the body of
// the one before, where nothing bounds it.
func TestI01OneRequestOfHTTP1(t *testing.T) {
	t.Parallel()
	address, config := pages(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: pages\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nHost: pages\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || !answer.Close {
		t.Errorf("%s, which closes the connection: %v", answer.Status, answer.Close)
	}
	closes(t, "I01 after a request of HTTP/1.1", conn)
}
