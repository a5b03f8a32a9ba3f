package serving

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// service is a service whose methods are what a test makes them.
type service struct {
	testpb.UnimplementedTestServiceServer
	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	stream func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error
}

func (s *service) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if s.unary == nil {
		return &testpb.SimpleResponse{}, nil
	}
	return s.unary(ctx, req)
}

func (s *service) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	return s.stream(req, stream)
}

// running is a server that a test runs over real TLS.
type running struct {
	*Server
	address string
	pool    *x509.CertPool
	log     *servingtest.Log
	stop    context.CancelFunc
	stopped chan error
}

// run runs a server until the test ends.
func run(t *testing.T, impl *service, change func(*Config)) *running {
	t.Helper()
	flags, pool := testFlags(t)
	r := &running{pool: pool, log: &servingtest.Log{}, stopped: make(chan error, 1)}
	listening := make(chan net.Addr, 1)
	config := Config{Flags: flags, Listening: func(a net.Addr) { listening <- a }}
	if change != nil {
		change(&config)
	}
	config.Log = config.Logger(r.log)
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	testpb.RegisterTestServiceServer(server.GRPC(), impl)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.stopped <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err, ok := <-r.stopped; ok && err != nil {
			t.Error("Run:", err)
		}
	})
	select {
	case a := <-listening:
		r.address = a.String()
	case err := <-r.stopped:
		close(r.stopped)
		t.Fatal(err)
	}
	return r
}

func (r *running) dial(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := credentials.NewTLS(&tls.Config{RootCAs: r.pool, MinVersion: tls.VersionTLS13})
	conn, err := grpc.NewClient(r.address, append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *running) client(t *testing.T) testpb.TestServiceClient {
	return testpb.NewTestServiceClient(r.dial(t))
}

func testFlags(t *testing.T) (Flags, *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	flags := Flags{
		Listen:         "127.0.0.1:0",
		TLSCert:        filepath.Join(dir, "tls.crt"),
		TLSKey:         filepath.Join(dir, "tls.key"),
		MaxConnections: 1024,
		LogLevel:       Level(slog.LevelDebug),
		ShutdownGrace:  5 * time.Second,
	}
	pool := x509.NewCertPool()
	pool.AddCert(writePair(t, flags, 1, time.Now().Add(time.Hour)))
	return flags, pool
}

// writePair writes a self-signed certificate and its key. It is old enough for a
// synctest bubble, whose clock begins in the year 2000.
func writePair(t *testing.T, flags Flags, serial int64, notAfter time.Time) *x509.Certificate {
	t.Helper()
	return writePairFrom(t, flags, serial, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), notAfter)
}

func writePairFrom(t *testing.T, flags Flags, serial int64, notBefore, notAfter time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: notBefore, NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, flags.TLSCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, flags.TLSKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return cert
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantCode checks the code of an error that this package made.
func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	if got := infoOf(err).GetDomain(); got != errorDomain {
		t.Errorf("%v: the domain is %q, want %q", err, got, errorDomain)
	}
}

func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}
