package adopter

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/overload"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// from dials from an address of this machine, which is a network of its own.
func from(address string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 5 * time.Second}
}

// trusted returns what trusts the authority that "handoff devcert" has made.
func trusted(t *testing.T, file string) *tls.Config {
	t.Helper()
	authority, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		t.Fatal("no certificate in ", file)
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// crowd opens connections from an address until n are open or the server takes no more, each with a TLS handshake and
// the preface of HTTP/2, and keeps them.
func crowd(t *testing.T, address, to string, config *tls.Config, n int) (open []net.Conn) {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	for range n {
		conn, err := (&tls.Dialer{NetDialer: from(address), Config: config}).DialContext(t.Context(), "tcp", to)
		if err != nil {
			return open
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
			return open
		}
		open = append(open, conn)
	}
	return open
}

// I03, I05: one address holds all the connections that it can to the program of README, which may open few files. An
// honest caller from another address connects, and pays.
func TestI05OneAddressTakesAll(t *testing.T) {
	const files = 512
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	run := handoffCommand(t)
	program := filepath.Join(t.TempDir(), "billing")
	if output, err := exec.Command("go", "build", "-o", program, "./cmd/billing").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	t.Chdir(t.TempDir())
	run("keygen", "--out", "shop.key")
	run("public", "--key", "shop.key", "--out", "shop.jwks")
	run("devcert", "--out", "tls", "--host", "localhost")
	config := trusted(t, filepath.Join("tls", "ca.pem"))

	ctx, stop := context.WithCancel(t.Context())
	billing := exec.CommandContext(ctx, shell, "-c", `ulimit -n "$1" && exec "$0" -owner u-1 -listen 127.0.0.1:0`, program, strconv.Itoa(files))
	log, err := billing.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := billing.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(); _ = billing.Wait() }()
	began := time.Now()
	lines := bufio.NewScanner(log)
	var address string
	if lines.Scan() {
		_, rest, _ := strings.Cut(lines.Text(), "serving on ")
		address, _, _ = strings.Cut(rest, ";")
	}
	if address == "" {
		t.Fatalf("the program says %q", lines.Text())
	}
	go func() {
		for lines.Scan() {
			if strings.Contains(lines.Text(), "too many open files") {
				t.Error(lines.Text())
			}
		}
	}()

	held := len(crowd(t, "127.0.0.9", address, config, files))
	if held < files/4 {
		t.Fatalf("only %d connections could be opened", held)
	}
	time.Sleep(time.Until(began.Add(handoff.DefaultSkew + 1100*time.Millisecond))) // tokens issued earlier are refused
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return from("127.0.0.1").DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatalf("I05: one address has opened %d connections, and others are not answered: %v", held, err)
	}
	shop, err := NewShop()
	if err != nil {
		t.Fatal(err)
	}
	user := User{ID: "u-1"}
	user.Session.HandoffID = handoff.NewID()
	req := &billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200}
	raw, err := HandOffPayment(t.Context(), shop, user, req)
	if err != nil {
		t.Fatal(err)
	}
	if resp, _, err := Pay(t.Context(), billingv1.NewBillingClient(conn), req, raw); err != nil || resp.GetReceiptId() == "" {
		t.Errorf("I05: the payment: %v, %v", resp, err)
	}
}

// I03: the pages have the same bounds. A request that is under way keeps its connection, and one without makes room.
func TestI03PagesOfOneAddress(t *testing.T) {
	run := handoffCommand(t)
	t.Chdir(t.TempDir())
	run("devcert", "--out", ".", "--host", "localhost")
	certificate, err := tls.LoadX509KeyPair("server.pem", "server.key")
	if err != nil {
		t.Fatal(err)
	}
	shedder, err := overload.New(overload.Config{MaxConnections: 16})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- ServePages(ctx, listener, &tls.Config{Certificates: []tls.Certificate{certificate}}, shedder, http.HandlerFunc(
			func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(asked)
					<-answer
				}
			}))
	}()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	config := trusted(t, "ca.pem")
	get := func(address, path string) error {
		transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, DialContext: from(address).DialContext}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Get("https://" + listener.Addr().String() + path)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	slow := make(chan error, 1)
	go func() { slow <- get("127.0.0.9", "/slow") }()
	<-asked
	held := crowd(t, "127.0.0.9", listener.Addr().String(), config, 40)
	closed := make(chan struct{}, len(held))
	for _, conn := range held { // which have been idle for the longest time, the server says, not the order in which they were opened
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			closed <- struct{}{}
		}()
	}
	late := time.After(30 * time.Second)
	for i := range len(held) - 3 { // a quarter of 16 is the address's: three, and the one with the request
		select {
		case <-closed:
		case <-late:
			t.Fatalf("I03: of %d connections %d are still open", len(held), len(held)-i)
		}
	}
	if err := get("127.0.0.1", "/"); err != nil {
		t.Errorf("I03: another address: %v", err)
	}
	close(answer)
	if err := <-slow; err != nil {
		t.Errorf("I03: a request under way: %v", err)
	}
}
