package serving

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const unaryCall = "/grpc.testing.TestService/UnaryCall"

// rawClient is a client that keeps to no rule but HTTP/2's framing.
type rawClient struct {
	*http2.Framer
	conn *tls.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

func (r *running) peer(t *testing.T) *rawClient {
	t.Helper()
	conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return greet(t, conn)
}

// greet says a client's first words.
func greet(t *testing.T, conn *tls.Conn) *rawClient {
	t.Helper()
	p := &rawClient{conn: conn}
	p.enc = hpack.NewEncoder(&p.buf)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	p.Framer = http2.NewFramer(conn, conn)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := p.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return p
}

// headers is the header block of a call, with more fields after it.
func (p *rawClient) headers(method string, more ...string) []byte {
	p.buf.Reset()
	fields := []string{
		":method", "POST", ":scheme", "https", ":path", method, ":authority", "test",
		"content-type", "application/grpc", "te", "trailers",
	}
	fields = append(fields, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // into a buffer
	}
	return p.buf.Bytes()
}

// open begins a call and sends no body.
func (p *rawClient) open(stream uint32, method string, more ...string) error {
	block := p.headers(method, more...)
	const most = 16 << 10 // of one frame
	first := block[:min(most, len(block))]
	if err := p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: first, EndHeaders: len(first) == len(block),
	}); err != nil {
		return err
	}
	for rest := block[len(first):]; len(rest) > 0; {
		part := rest[:min(most, len(rest))]
		rest = rest[len(part):]
		if err := p.WriteContinuation(stream, len(rest) == 0, part); err != nil {
			return err
		}
	}
	return nil
}

// body sends a request, compressed or not as flag says. Where the server has
// closed the connection already, await tells.
func (p *rawClient) body(stream uint32, flag byte, message []byte) {
	frame := append([]byte{flag}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...)
	_ = p.WriteData(stream, true, append(frame, message...))
}

// outcome is how a stream ended: with a status or a reset, or with its connection.
type outcome struct {
	status codes.Code
	reset  http2.ErrCode
	err    error
}

// await reads until the stream ends.
func (p *rawClient) await(stream uint32) outcome {
	for {
		frame, err := p.ReadFrame()
		if err != nil {
			return outcome{err: err}
		}
		switch f := frame.(type) {
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return outcome{reset: f.ErrCode}
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return outcome{err: errors.New(f.ErrCode.String())}
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != stream || !f.StreamEnded() {
				continue
			}
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					n, err := strconv.Atoi(field.Value)
					return outcome{status: codes.Code(n), err: err}
				}
			}
			return outcome{err: errors.New("trailers without a status")}
		}
	}
}

// TestG05: more metadata than 16 KiB is refused, and nothing else is.
func TestG05(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	for _, c := range []struct {
		size    int
		refused bool
	}{{8 << 10, false}, {20 << 10, true}, {15 << 20, true}} {
		p := r.peer(t)
		err := p.open(1, unaryCall, "x", strings.Repeat("y", c.size))
		p.body(1, 0, nil)
		got := p.await(1)
		if refused := err != nil || got != (outcome{}); refused != c.refused {
			t.Errorf("%d bytes: %+v, %v", c.size, got, err)
		}
	}
	if _, err := r.client(t).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error("afterwards:", err)
	}
}

// TestG06: a request over 64 KiB is refused, of either kind of method; so is gzip.
func TestG06(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	client := r.client(t)
	large := &testpb.Payload{Body: make([]byte, 5<<20)}
	fits := &testpb.Payload{Body: make([]byte, maxMessage-16)}
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: fits}); err != nil {
		t.Error(err)
	}
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: large}); status.Code(err) != codes.ResourceExhausted {
		t.Error("unary:", err)
	}
	stream, err := client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{Payload: large})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Error("stream:", err)
	}
	r.waitLog(t, `"grpc.method":"StreamingOutputCall","peer.address":"`)
	if log := r.log.String(); strings.Contains(log, codes.Internal.String()) {
		t.Errorf("the log has another code:\n%s", log)
	}

	p := r.peer(t)
	if err := p.open(1, unaryCall, "grpc-encoding", "gzip"); err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(&testpb.SimpleRequest{FillUsername: true})
	if err != nil {
		t.Fatal(err)
	}
	p.body(1, 1, message)
	if got := p.await(1); got.status != codes.Unimplemented {
		t.Errorf("gzip: %+v", got)
	}
}

// TestG07: a connection that has maxStreams calls open is refused another.
func TestG07(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	p := r.peer(t)
	id := func(n int) uint32 { return uint32(2*n + 1) }
	for n := range maxStreams + 1 {
		if err := p.open(id(n), unaryCall); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.await(id(maxStreams)); got.reset != http2.ErrCodeRefusedStream {
		t.Errorf("one more than the most: %+v", got)
	}
	p.body(id(0), 0, nil)
	if got := p.await(id(0)); got != (outcome{}) {
		t.Errorf("the first of them: %+v", got)
	}
}

// TestG08: rapid resets and endless headers cost their sender the connection or
// nothing, and the server no goroutine.
func TestG08(t *testing.T) {
	var begun, running, most atomic.Int64
	r := run(t, &service{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		begun.Add(1)
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		time.Sleep(200 * time.Millisecond) // a handler that does not hear of the reset
		return &testpb.SimpleResponse{}, nil
	}}, nil)
	client := r.client(t)
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	t.Run("rapid reset", func(t *testing.T) {
		p := r.peer(t)
		go func() { _, _ = io.Copy(io.Discard, p.conn) }()
		var reset int
		for ; reset < 20*maxStreams; reset++ {
			id := uint32(2*reset + 1)
			if p.open(id, unaryCall) != nil {
				break // the server has had enough
			}
			p.body(id, 0, nil)
			if p.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		// All that was sent may lie in the connection still, unread: on one processor the
		// server has hardly run.
		for end := time.Now().Add(10 * time.Second); begun.Load() < maxStreams/8 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if n := begun.Load(); n < maxStreams/8 || most.Load() > maxStreams {
			t.Errorf("of %d calls that were reset %d began, %d at once: want many, and %d at once", reset, n, most.Load(), maxStreams)
		}
	})
	t.Run("continuation", func(t *testing.T) {
		p := r.peer(t)
		block := p.headers(unaryCall)
		if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block}); err != nil {
			t.Fatal(err)
		}
		filler := bytes.Clone(p.headers(unaryCall, "x", strings.Repeat("y", 8<<10)))
		var sent int
		for ; sent < 256<<20; sent += len(filler) {
			if p.WriteContinuation(1, false, filler) != nil {
				break
			}
		}
		if got := p.await(1); got.err == nil || sent >= 256<<20 {
			t.Errorf("after %d MiB of one header: %+v", sent>>20, got)
		}
	})
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error("somebody else's call:", err)
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, before it %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestG09: who connects and does not go on is cut off, before TLS and within it.
func TestG09(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	for name, send := range map[string]string{"silence": "", "half a handshake": "\x16\x03\x01\x02"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, send); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_ = conn.SetReadDeadline(start.Add(HandshakeTimeout + 3*time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("still open after %s", time.Since(start))
			}
		})
	}
}

// TestG10: a path without its leading slash is no method.
func TestG10(t *testing.T) {
	t.Parallel()
	p := run(t, &service{}, nil).peer(t)
	if err := p.open(1, strings.TrimPrefix(unaryCall, "/")); err != nil {
		t.Fatal(err)
	}
	p.body(1, 0, nil)
	if got := p.await(1); got.err == nil && got.status != codes.Unimplemented {
		t.Errorf("%+v", got)
	}
}

// TestG16: the port speaks TLS 1.3, and nothing else.
func TestG16(t *testing.T) {
	t.Parallel()
	r := run(t, &service{}, nil)
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":  {RootCAs: r.pool, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
		"HTTP/1.1": {RootCAs: r.pool, NextProtos: []string{"http/1.1"}},
		"no ALPN":  {RootCAs: r.pool},
	} {
		conn, err := tls.Dial("tcp", r.address, config)
		if err != nil {
			continue // refused in the handshake
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(conn, "GET /debug/pprof/ HTTP/1.1\r\nHost: test\r\n\r\n") // it may be closed already
		if answer, err := io.ReadAll(conn); len(answer) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s was answered: %q, %v", name, answer, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	if answer, err := io.ReadAll(conn); bytes.Contains(answer, []byte{0, 0, 0, 4}) {
		t.Errorf("plain HTTP/2 was answered with %x, %v", answer, err)
	}
	if resp, err := http.Get("http://" + r.address + "/debug/pprof/"); err == nil {
		resp.Body.Close()
		t.Error("plain HTTP was answered:", resp.Status)
	}
}
