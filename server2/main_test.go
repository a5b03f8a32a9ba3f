package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
)

const (
	testAudience = "https://server2.test"
	testIssuer   = "https://server1.test"
	alice        = "u-alice"

	seed = `[
		{"invoice_id": "INV-42", "issuer": "https://server1.test", "subject": "u-alice", "currency_code": "EUR", "minor_units": 1200},
		{"invoice_id": "INV-43", "issuer": "https://server1.test", "subject": "u-bob", "currency_code": "EUR", "minor_units": 1200}
	]`
)

// patience is how long a busy machine may take for what is soon done.
const patience = 30 * time.Second

// running is the whole program, in the test's process, over TLS on loopback.
type running struct {
	pid     int // of the process, where it has one of its own
	address string
	log     *servingtest.Log
	out     *servingtest.Log // stdout, behind its first line
	conn    *grpc.ClientConn
	client  server2v1.InvoiceServiceClient
	issuer  *handoff.Issuer
	stop    context.CancelFunc
	status  chan int
}

// startWith seeds and starts a program whose settings change, if not nil, alters,
// and waits until it is ready.
func startWith(t *testing.T, change func(settings)) *running {
	t.Helper()
	s, key := goodSettings(t)
	if change != nil {
		change(s)
	}
	var out servingtest.Log
	invoices := write(t, filepath.Join(t.TempDir(), "invoices.json"), []byte(seed))
	if code := run(t.Context(), []string{"seed", "--database=" + s["database"], invoices}, &out, &out); code != 0 {
		t.Fatalf("seed: status %d: %s", code, &out)
	}
	r := start(t, s.args())
	r.issuer = newIssuer(t, key, nil)
	r.connect(t, s["tls-cert"])
	return r
}

// start runs the program until the test ends, and waits for its address.
func start(t *testing.T, args []string) *running {
	t.Helper()
	r := &running{log: &servingtest.Log{}, out: &servingtest.Log{}, status: make(chan int, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	stdout, announce := io.Pipe()
	go func() {
		r.status <- run(ctx, args, announce, r.log)
		announce.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if code, ok := <-r.status; ok && code != 0 {
			t.Errorf("status %d: %s", code, r.log)
		}
	})
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	var ok bool
	if r.address, ok = strings.CutPrefix(strings.TrimSpace(line), "listening on "); !ok {
		t.Fatalf("%q, %v: %s", line, err, r.log)
	}
	go io.Copy(r.out, lines)
	return r
}

// announced waits for a line of stdout that begins so, and returns the rest of it.
func (r *running) announced(t *testing.T, prefix string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(r.out.String()) {
			if rest, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(rest, "\n") {
				return strings.TrimSpace(rest)
			}
		}
	}
	t.Fatalf("stdout has no line %q: %s", prefix, r.out)
	return ""
}

// connect waits until the server is ready.
func (r *running) connect(t *testing.T, certificate string) {
	t.Helper()
	r.dial(t, certificate)
	r.health(t, healthpb.HealthCheckResponse_SERVING)
}

func (r *running) dial(t *testing.T, certificate string) {
	t.Helper()
	creds, err := credentials.NewClientTLSFromFile(certificate, "")
	if err != nil {
		t.Fatal(err)
	}
	if r.conn, err = grpc.NewClient(r.address, grpc.WithTransportCredentials(creds), grpc.WithStaticStreamWindowSize(64<<10)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	r.client = server2v1.NewInvoiceServiceClient(r.conn)
}

// health waits for the server to say that it has a status.
func (r *running) health(t *testing.T, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := healthpb.NewHealthClient(r.conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "handoff.server2.v1.InvoiceService"})
	for err == nil {
		var got *healthpb.HealthCheckResponse
		if got, err = watch.Recv(); err == nil && got.GetStatus() == want {
			return
		}
	}
	t.Errorf("health is not %v after %s: %v", want, patience, err)
}

func newIssuer(t *testing.T, key *signkey.Key, now func() time.Time) *handoff.Issuer {
	t.Helper()
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: testIssuer, Key: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

// token returns a token of the issuer's for alice.
func token(t *testing.T, issuer *handoff.Issuer, method string, req proto.Message, change func(*handoff.IssueParams)) string {
	t.Helper()
	op, err := rule.Operation(method, req)
	if err != nil {
		t.Fatal(err)
	}
	params := handoff.IssueParams{Audience: testAudience, Subject: alice, Operation: op}
	if change != nil {
		change(&params)
	}
	raw, _, err := issuer.Issue(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// poolOf returns a pool that trusts a certificate's file.
func poolOf(t *testing.T, name string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

func TestSeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"seed", "--database", filepath.Join(dir, "server2.db"), write(t, filepath.Join(dir, "invoices.json"), []byte(seed))}
	for _, want := range []string{"added 2 of 2 invoices\n", "added 0 of 2 invoices; the others were there\n"} {
		var stdout, stderr servingtest.Log
		if code := run(t.Context(), args, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), want) {
			t.Errorf("status %d: %s%s", code, &stdout, &stderr)
		}
	}
	write(t, args[3], []byte(strings.Replace(seed, "1200", "1300", 1)))
	var stdout, stderr servingtest.Log
	if code := run(t.Context(), args, &stdout, &stderr); code != 1 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("another amount: status %d: %s%s", code, &stdout, &stderr)
	}
}

// The program stops when it is told to, with status 0 and no file but its own.
func TestStops(t *testing.T) {
	t.Parallel()
	var folder string
	r := startWith(t, func(s settings) { folder = filepath.Dir(s["database"]) })
	r.stop()
	select {
	case code := <-r.status:
		close(r.status)
		if code != 0 {
			t.Errorf("status %d: %s", code, r.log)
		}
	case <-time.After(patience):
		t.Fatal("it does not stop")
	}
	if _, err := tls.Dial("tcp", r.address, &tls.Config{}); err == nil {
		t.Error("the port is still open")
	}
	left, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if name := f.Name(); strings.HasSuffix(name, "-wal") || strings.HasSuffix(name, "-shm") {
			t.Errorf("%s was left behind", name)
		}
	}
}
