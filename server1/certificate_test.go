package server1

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/shared/handoff"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// as returns a client with a new certificate of its own, and the thumbprint of that.
func (r *running) as(t *testing.T) (handoffv1.HandoffServiceClient, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)} // valid at no time
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(r.conn.Target(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: r.pool, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	sum := sha256.Sum256(der)
	return handoffv1.NewHandoffServiceClient(conn), base64.RawURLEncoding.EncodeToString(sum[:])
}

// boundTo returns the certificate that a token is bound to, by its thumbprint.
func boundTo(t *testing.T, response *handoffv1.IssueHandoffResponse) string {
	t.Helper()
	claims, err := handoff.UnverifiedClaims(response.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	return claims.CertificateSHA256
}

// G17: a handoff is bound to the certificate of the connection that asks for it, on
// demand of its client or of the policy; without one, neither gets any.
func TestG17Bound(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	s.write(t, "policy.json", strings.Replace(goodPolicy, `"max_lifetime_seconds": 30`, `"max_lifetime_seconds": 30, "certificate_bound": true`, 1), 0o644)
	r := s.start(t, map[string]string{"client-certificates": "true"})
	ctx, _ := r.signIn(t, "alice")
	client, thumbprint := r.as(t)
	read := func(bind bool) *handoffv1.IssueHandoffRequest {
		return &handoffv1.IssueHandoffRequest{Audience: billing, Method: getInvoice, Request: pack(t, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}), BindToCertificate: bind}
	}
	for what, c := range map[string]struct {
		client handoffv1.HandoffServiceClient
		ask    *handoffv1.IssueHandoffRequest
		want   string
	}{
		"the policy demands it":            {client, pay(t), thumbprint},
		"the client demands it":            {client, read(true), thumbprint},
		"nobody demands it":                {client, read(false), ""},
		"nobody demands it or could do it": {r.handoffs(), read(false), ""},
	} {
		response, err := c.client.IssueHandoff(ctx, c.ask)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if got := boundTo(t, response); got != c.want {
			t.Errorf("%s: bound to %q, want %q", what, got, c.want)
		}
	}
	for what, ask := range map[string]*handoffv1.IssueHandoffRequest{"the policy demands it": pay(t), "the client demands it": read(true)} {
		_, err := r.handoffs().IssueHandoff(ctx, ask)
		wantField(t, what+", without a certificate", err, handoff.ReasonArgumentInvalid, "bind_to_certificate")
	}
}

// G17: a server that asks for no certificate binds to none, though its client has one;
// and it does not start where its policy demands what it cannot do.
func TestG17NobodyAsks(t *testing.T) {
	s := newSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, nil)
	ctx, _ := r.signIn(t, "alice")
	client, _ := r.as(t)
	ask := pay(t)
	ask.BindToCertificate = true
	_, err := client.IssueHandoff(ctx, ask)
	wantField(t, "bound", err, handoff.ReasonArgumentInvalid, "bind_to_certificate")

	settings := s.settings()
	settings["policy"] = s.write(t, "bound.json", strings.Replace(goodPolicy, `"max_lifetime_seconds": 30`, `"certificate_bound": true`, 1), 0o644)
	refused(t, arguments("serve", settings), nil, "--client-certificates is required: "+settings["policy"]+": handoffs of "+payInvoice)
}

// G17: what is bound to a certificate does not go through pages; and no browser is
// asked for one.
func TestG17Pages(t *testing.T) {
	s := newShop(t)
	text := strings.Replace(goodPolicy, `"target"`, `"web": "`+billing+`", "target"`, 1)
	s.write(t, "policy.json", strings.Replace(text, `"max_lifetime_seconds": 30`, `"certificate_bound": true`, 1), 0o644)
	r := s.openShop(t, "client-certificates", "true")
	if seen := r.browser(t).get("/.well-known/jwks.json"); seen.status != 200 {
		t.Errorf("the public keys: %d", seen.status)
	}
	if seen := r.browser(t).get("/orders/"); seen.status != 404 {
		t.Errorf("pages to pay what no page can hand off: %d\n%s", seen.status, seen.body)
	}
	asked := false
	conn, err := tls.Dial("tcp", r.http, &tls.Config{
		RootCAs: r.pool, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if asked {
		t.Error("the pages ask a browser for a certificate")
	}
}
