package handofftest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"
)

const audience = "https://audience.test"

// Server is a guarded server in the test's own process.
type Server struct {
	// Conn is a connection to it, over TLS.
	Conn *grpc.ClientConn
	// Issuer is the only issuer that it trusts.
	Issuer *Issuer
	// Audience is its own name.
	Audience string
}

// Serve starts a guarded server with what register registers, and stops it when
// the test ends. exempt is handoffgrpc.Config.Exempt.
func Serve(t testing.TB, register func(grpc.ServiceRegistrar), exempt ...string) *Server {
	t.Helper()
	issuer := NewIssuer(t)
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: newVerifier(t, issuer), Exempt: exempt})
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	certificate, roots := newCertificate(t)
	server := grpc.NewServer(
		grpc.Creds(credentials.NewServerTLSFromCert(&certificate)),
		grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
	register(server)
	if err := guard.Check(server); err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///"+serverName,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13})))
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("handofftest: %v", err)
		}
	})
	return &Server{Conn: conn, Issuer: issuer, Audience: audience}
}

// Context returns a context with the grant that a handler of the method would
// find, for one direct call of the handler. The grant has passed the real
// verifier.
func Context(t testing.TB, subject, method string, request proto.Message) context.Context {
	t.Helper()
	issuer := NewIssuer(t)
	verifier := newVerifier(t, issuer)
	verified, err := verifier.Verify(t.Context(), issuer.Token(t, audience, subject, method, request))
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	described, err := rule.Linked().Method(method)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	demands, ok := described.Rule()
	if !ok {
		t.Fatalf("handofftest: %s has no rule: its handler finds no grant", method)
	}
	op, err := described.Operation(request)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	grant, err := verifier.Redeem(t.Context(), verified, op, demands)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	return handoff.NewContext(t.Context(), grant)
}

func newVerifier(t testing.TB, issuer *Issuer) *handoff.Verifier {
	t.Helper()
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer.Name(): issuer.Keys()}, Store: &spent{},
	})
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	return verifier
}

const serverName = "server.test"

// newCertificate returns a certificate for serverName that signs itself, and the
// pool that trusts it.
func newCertificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
