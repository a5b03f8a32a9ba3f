package handoffgrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// billing is a service as its adopter writes it.
type billing struct {
	server2v1.UnimplementedInvoiceServiceServer
}

func (billing) GetInvoice(ctx context.Context, req *server2v1.GetInvoiceRequest) (*server2v1.GetInvoiceResponse, error) {
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		return nil, handoffgrpc.StatusOf(&handoff.Refusal{Reason: handoff.ReasonTokenMissing}).Err()
	}
	fmt.Println(grant.Subject(), "reads", req.GetInvoiceId())
	return &server2v1.GetInvoiceResponse{}, nil
}

// An issuer signs one call, a guarded server runs that call, and no other.
func Example() {
	ctx := context.Background()
	clientTLS, serverTLS := tlsPair() // an authority for this example, in memory

	// The issuer has the signing key.
	key := must(signkey.Generate(handoff.EdDSA))
	issuer := must(handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key}))

	// The audience has its public half.
	verifier := must(handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example",
		Issuers:  map[string]handoff.KeySource{"https://shop.example": must(keyset.New(key.Key()))},
		Store:    replay.NewMemory(replay.Config{}),
	}))
	guard := must(handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier}))
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
	server2v1.RegisterInvoiceServiceServer(guard.On(s), billing{})
	if err := guard.Check(s); err != nil {
		panic(err)
	}
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = s.Serve(listener) }()
	defer s.Stop()

	// The client has a token for one request.
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	raw, _, err := issuer.Issue(ctx, handoff.IssueParams{
		Audience:  "https://billing.example",
		Subject:   "user-1",
		Operation: must(rule.Operation(server2v1.InvoiceService_GetInvoice_FullMethodName, req)),
	})
	if err != nil {
		panic(err)
	}
	conn := must(grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(clientTLS))))
	defer conn.Close()
	client := server2v1.NewInvoiceServiceClient(conn)

	_, err = client.GetInvoice(ctx, req, handoffgrpc.Token(raw))
	fmt.Println("the request itself:", err)
	_, err = client.GetInvoice(ctx, &server2v1.GetInvoiceRequest{InvoiceId: "INV-43"}, handoffgrpc.Token(raw))
	fmt.Println("another:", handoffgrpc.ReasonOf(err))
	_, err = client.GetInvoice(ctx, req)
	fmt.Println("no token:", handoffgrpc.ReasonOf(err))
	// Output:
	// user-1 reads INV-42
	// the request itself: <nil>
	// another: FIELD_MISMATCH
	// no token: TOKEN_MISSING
}

// A client that has a certificate of its own asks for tokens that nobody else can
// present. It makes the certificate itself: what counts is that it has the key.
func ExamplePeerCertificate() {
	clientTLS, serverTLS := tlsPair() // an authority for this example, in memory
	certificate := clientCertificate()

	// The audience's TLS asks for a certificate, from any issuer; and so does the
	// issuer's.
	serverTLS.ClientAuth = tls.RequestClientCert // Check holds it to that where a rule says certificate_bound
	key := must(signkey.Generate(handoff.EdDSA))
	issuer := must(handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key}))
	verifier := must(handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example",
		Issuers:  map[string]handoff.KeySource{"https://shop.example": must(keyset.New(key.Key()))},
		Store:    replay.NewMemory(replay.Config{}),
	}))
	guard := must(handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, TLS: serverTLS}))
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
	server2v1.RegisterInvoiceServiceServer(guard.On(s), billing{})
	if err := guard.Check(s); err != nil {
		panic(err)
	}
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = s.Serve(listener) }()
	defer s.Stop()

	// The issuer's handler binds the token to the certificate of the call that asks
	// for it: handoffgrpc.PeerCertificate(ctx). Here there is no such call.
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	raw, _, err := issuer.Issue(context.Background(), handoff.IssueParams{
		Audience:    "https://billing.example",
		Subject:     "user-1",
		Operation:   must(rule.Operation(server2v1.InvoiceService_GetInvoice_FullMethodName, req)),
		Certificate: must(x509.ParseCertificate(certificate.Certificate[0])),
	})
	if err != nil {
		panic(err)
	}

	// The client presents its certificate with gRPC's own transport credentials.
	call := func(certificates ...tls.Certificate) error {
		config := clientTLS.Clone()
		config.Certificates = certificates
		conn := must(grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config))))
		defer conn.Close()
		_, err := server2v1.NewInvoiceServiceClient(conn).GetInvoice(context.Background(), req, handoffgrpc.Token(raw))
		return err
	}
	fmt.Println("a thief:", handoffgrpc.ReasonOf(call(clientCertificate())))
	fmt.Println("without one:", handoffgrpc.ReasonOf(call()))
	fmt.Println("the client:", call(certificate))
	// Output:
	// a thief: CERTIFICATE_MISMATCH
	// without one: CERTIFICATE_MISMATCH
	// user-1 reads INV-42
	// the client: <nil>
}
