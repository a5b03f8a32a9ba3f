package handoffgrpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// clientCertificate returns a certificate that signs itself, as a client makes one for
// itself. It has expired, which nobody looks at.
func clientCertificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// boundTo returns the token, bound to a certificate.
func boundTo(t forge.Token, certificate tls.Certificate) forge.Token {
	sum := sha256.Sum256(certificate.Certificate[0])
	return t.WithClaim("cnf", `{"x5t#S256":"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"}`)
}

// G17: over TLS, a bound token runs its call on its own client's connection and on no
// other, even one that says the same of itself.
func TestG17Connections(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	client, server := tlsPair()
	server.ClientAuth = tls.RequestClientCert
	s := k.server(grpc.Creds(credentials.NewTLS(server)))
	if err := k.guard.Check(s); err != nil {
		t.Fatal(err)
	}
	listener := start(t, s)
	as := func(certificates ...tls.Certificate) *grpc.ClientConn {
		config := client.Clone()
		config.Certificates = certificates
		return dial(t, listener, credentials.NewTLS(config))
	}
	own, other := clientCertificate(), clientCertificate()
	chain := other
	chain.Certificate = append(chain.Certificate[:1:1], own.Certificate...) // the right one, behind its own
	pem := "Hash=" + fmt.Sprintf("%x", sha256.Sum256(own.Certificate[0]))
	for _, c := range []struct {
		name string
		conn *grpc.ClientConn
		ctx  context.Context
		want handoff.Reason
	}{
		{"its own", as(own), t.Context(), 0},
		{"another's", as(other), t.Context(), handoff.ReasonCertificateMismatch},
		{"another's, with it in the chain", as(chain), t.Context(), handoff.ReasonCertificateMismatch},
		{"none", as(), t.Context(), handoff.ReasonCertificateMismatch},
		{"none, as a proxy would tell of it", as(), raw(t, "x-forwarded-client-cert", pem, "x-client-cert", pem), handoff.ReasonCertificateMismatch},
	} {
		token := boundTo(k.pay(t), own)
		_, err := server2v1.NewInvoiceServiceClient(c.conn).PayInvoice(c.ctx, payment(), handoffgrpc.Token(token.Compact()))
		if handoffgrpc.ReasonOf(err) != c.want || (c.want == 0) != (err == nil) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		stream, err := server2v1.NewInvoiceServiceClient(c.conn).ExportPayments(c.ctx, &server2v1.ExportPaymentsRequest{},
			handoffgrpc.Token(boundTo(k.export(t), own).Compact()))
		if err == nil {
			_, err = stream.Recv()
		}
		if handoffgrpc.ReasonOf(err) != c.want || (c.want == 0) != (err == nil) {
			t.Errorf("%s, a stream: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := server2v1.NewInvoiceServiceClient(as(other)).PayInvoice(t.Context(), payment(), handoffgrpc.Token(k.pay(t).Compact())); err != nil {
		t.Errorf("an unbound token over a connection with a certificate: %v", err)
	}
}

// G17: a server that asks for no certificate lets no bound token in, though its client
// has the right one to show.
func TestG17NobodyAsks(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{})
	own := clientCertificate()
	_, err := server2v1.NewInvoiceServiceClient(k.serve(t)).PayInvoice(t.Context(), payment(), handoffgrpc.Token(boundTo(k.pay(t), own).Compact()))
	if handoffgrpc.ReasonOf(err) != handoff.ReasonCertificateMismatch {
		t.Errorf("%v", err)
	}
	for _, event := range k.take() {
		if event.Refusal == nil || event.Refusal.Check != "verify.cnf" || event.ID == "" {
			t.Errorf("the audit has %+v", event)
		}
	}
}

// like is an AuthInfo that has a TLS state and is none of gRPC's own.
type like struct{ credentials.TLSInfo }

// G17: what is no TLS handshake of gRPC's own has no certificate to show.
func TestG17PeerCertificate(t *testing.T) {
	certificate := &x509.Certificate{Raw: []byte("a client's")}
	state := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{certificate, {Raw: []byte("its CA's")}}}
	begun := state
	begun.HandshakeComplete = false
	from := func(info credentials.AuthInfo) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: info})
	}
	for _, c := range []struct {
		name string
		ctx  context.Context
		want *x509.Certificate
	}{
		{"TLS", from(credentials.TLSInfo{State: state}), certificate},
		{"TLS without a certificate", from(credentials.TLSInfo{State: tls.ConnectionState{HandshakeComplete: true}}), nil},
		{"a handshake that has only begun", from(credentials.TLSInfo{State: begun}), nil},
		{"another's TLS", from(like{credentials.TLSInfo{State: state}}), nil},
		{"a private connection in memory", from(level{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}), nil},
		{"in the clear", from(nil), nil},
		{"no call", t.Context(), nil},
		{"metadata", metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-forwarded-client-cert", "Cert=x")), nil},
	} {
		if got := handoffgrpc.PeerCertificate(c.ctx); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
