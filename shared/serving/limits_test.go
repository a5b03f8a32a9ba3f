package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"golang.org/x/net/http2"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"
)

// The server's first words bound what one connection may send before it is read.
func TestWindows(t *testing.T) {
	t.Parallel()
	p := run(t, &service{}, nil).peer(t)
	var window uint32
	for conn := uint32(0); conn == 0; {
		frame, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if value, ok := f.Value(http2.SettingInitialWindowSize); ok {
				window = value
			}
		case *http2.WindowUpdateFrame:
			if conn = f.Increment; f.StreamID != 0 || conn != connWindow-65535 {
				t.Errorf("the window of stream %d grows by %d", f.StreamID, conn)
			}
		}
	}
	if window != streamWindow {
		t.Errorf("the window of a call is %d, want %d", window, streamWindow)
	}
}

// watching is a raw client, inside a bubble, that has a watch open.
func watching(t *testing.T, test func(*testing.T, *rawClient)) {
	t.Helper()
	listening(t, &service{}, nil, func(t *testing.T, listener *bufconn.Listener, pool *x509.CertPool, _ context.CancelFunc) {
		conn, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		secure := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{"h2"}})
		defer conn.Close()
		p := greet(t, secure)
		if err := p.WriteSettingsAck(); err != nil {
			t.Fatal(err)
		}
		if err := p.open(1, healthpb.Health_Watch_FullMethodName); err != nil {
			t.Fatal(err)
		}
		p.body(1, 0, nil)
		test(t, p)
	})
}

// Who is silent is asked whether it lives, and cut off without an answer.
func TestDeadPeersAreFound(t *testing.T) {
	watching(t, func(t *testing.T, p *rawClient) {
		began := time.Now()
		var asked time.Duration
		for {
			frame, err := p.ReadFrame()
			if err != nil {
				break
			}
			if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
				asked = time.Since(began)
			}
		}
		if cut := time.Since(began); asked != pingAfter || cut != pingAfter+pingTimeout {
			t.Errorf("asked after %s and cut off after %s", asked, cut)
		}
	})
}

// A client may ask whether the server lives as often as it must keep to, and no
// oftener.
func TestPingsAreBounded(t *testing.T) {
	watching(t, func(t *testing.T, p *rawClient) {
		answered := make(chan error, 1)
		var last http2.ErrCode
		go func() {
			for {
				frame, err := p.ReadFrame()
				if err != nil {
					answered <- err
					return
				}
				if f, ok := frame.(*http2.GoAwayFrame); ok {
					last = f.ErrCode
				}
			}
		}()
		for range 6 {
			time.Sleep(pingInterval + time.Second)
			if err := p.WritePing(false, [8]byte{}); err != nil {
				t.Fatal("seldom enough:", err)
			}
		}
		time.Sleep(time.Second)
		select {
		case err := <-answered:
			t.Fatal("seldom enough:", last, err)
		default:
		}
		for range 6 {
			_ = p.WritePing(false, [8]byte{}) // it may be cut off already
			time.Sleep(time.Second)
		}
		select {
		case <-answered:
		default:
			t.Fatal("a ping a second is answered")
		}
		if last != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("cut off with %v", last)
		}
	})
}
