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
	"github.com/handoff-auth/handoff/shared/sealed"
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
	// Seal is its public key for sealed tokens.
	Seal sealed.Key
	// Certificate is the client certificate of Conn.
	Certificate *x509.Certificate
}

// Token returns a token for subject to make one call over Conn, as the method's rule
// demands it: sealed, and bound to the certificate, where it says so. Issuer.Token
// makes one that is neither.
func (s *Server) Token(t testing.TB, subject, method string, request proto.Message) string {
	t.Helper()
	return dressed(t, s.Issuer, subject, method, request, s.Seal, s.Certificate)
}

func dressed(
	t testing.TB, issuer *Issuer, subject, method string, request proto.Message, key sealed.Key, certificate *x509.Certificate,
) string {
	t.Helper()
	op, err := rule.Operation(method, request)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	token := issuer.good(t, audience, subject, method, request)
	if op.CertificateBound {
		token = bind(token, certificate)
	}
	if !op.Sealed {
		key = sealed.Key{}
	}
	return seal(t, token.Compact(), key)
}

// Serve starts a guarded server with what register registers, and stops it when
// the test ends. exempt is handoffgrpc.Config.Exempt.
func Serve(t testing.TB, register func(grpc.ServiceRegistrar), exempt ...string) *Server {
	t.Helper()
	issuer := NewIssuer(t)
	verifier, key := newVerifier(t, issuer)
	certificate, roots := newCertificate(t)
	secure := &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Exempt: exempt, TLS: secure})
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(secure)))
	register(guard.On(server))
	if err := guard.Check(server); err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	own, _ := newCertificate(t)
	conn, err := grpc.NewClient("passthrough:///"+serverName,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own},
		})))
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
	return &Server{Conn: conn, Issuer: issuer, Audience: audience, Seal: key, Certificate: own.Leaf}
}

// Context returns a context with the grant that a handler of the method would
// find, for one direct call of the handler. The grant has passed the real
// verifier.
func Context(t testing.TB, subject, method string, request proto.Message) context.Context {
	t.Helper()
	issuer := NewIssuer(t)
	verifier, key := newVerifier(t, issuer)
	certificate := &x509.Certificate{Raw: []byte("a client's")}
	verified, err := verifier.VerifyFrom(t.Context(), dressed(t, issuer, subject, method, request, key, certificate), certificate)
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

// newVerifier returns a verifier, and the key that it opens sealed tokens for.
func newVerifier(t testing.TB, issuer *Issuer) (*handoff.Verifier, sealed.Key) {
	t.Helper()
	key, err := sealed.Generate()
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	opener, err := sealed.NewOpener(key)
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer.Name(): issuer.Keys()}, Store: &spent{}, Unseal: opener.Unseal,
	})
	if err != nil {
		t.Fatalf("handofftest: %v", err)
	}
	return verifier, key.Public()
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
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}
