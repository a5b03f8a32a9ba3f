package adopter

import (
	"context"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/overload"
	"github.com/handoff-auth/handoff/shared/replay"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// NewVerifier says whose tokens the audience takes.
func NewVerifier() (*handoff.Verifier, error) {
	keys, err := keyset.Load("shop.jwks")
	if err != nil {
		return nil, err
	}
	return handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example",
		Issuers:  map[string]handoff.KeySource{"https://shop.example": keys},
		Store:    replay.NewMemory(replay.Config{}),
	})
}

// ServeBilling is the audience's life, until ctx ends.
func ServeBilling(ctx context.Context, listener net.Listener, tls credentials.TransportCredentials, impl billingv1.BillingServer) error {
	verifier, err := NewVerifier()
	if err != nil {
		return err
	}
	shedder, err := overload.New(overload.Config{}) // bounds what strangers can make a server hold, and for how long
	if err != nil {
		return err
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{
		Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health/"}, Admit: shedder.Admit,
	})
	if err != nil {
		return err
	}
	s := grpc.NewServer(append(shedder.Options(), grpc.Creds(tls), grpc.ChainUnaryInterceptor(logging))...)
	billingv1.RegisterBillingServer(guard.On(s), impl) // inside all interceptors
	healthpb.RegisterHealthServer(s, health.NewServer())
	if err := guard.Check(s); err != nil { // until it succeeds every call is refused
		return err
	}
	context.AfterFunc(ctx, s.Stop)
	return s.Serve(shedder.Listener(listener)) // reads no more than it can check
}

// Billing pays, and knows by the grant for whom.
type Billing struct {
	billingv1.UnimplementedBillingServer

	// Owner is the subject who owns INV-1.
	Owner string
}

// Pay runs only for a caller whose token names this very call.
func (b Billing) Pay(ctx context.Context, req *billingv1.PayRequest) (*billingv1.PayResponse, error) {
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "no grant")
	}
	if !b.owns(grant.Issuer(), grant.Subject(), req.GetInvoiceId()) {
		return nil, status.Error(codes.NotFound, "no such invoice")
	}
	return &billingv1.PayResponse{ReceiptId: grant.ID()}, nil // an idempotency key
}

// List may be called again with the same token.
func (b Billing) List(_ *billingv1.ListRequest, stream grpc.ServerStreamingServer[billingv1.ListResponse]) error {
	grant, ok := handoff.FromContext(stream.Context())
	if !ok {
		return status.Error(codes.Internal, "no grant")
	}
	if !b.owns(grant.Issuer(), grant.Subject(), "INV-1") {
		return nil
	}
	return stream.Send(&billingv1.ListResponse{InvoiceId: "INV-1"})
}

// owns is the service's own decision: a signed operation does not make the
// invoice the user's.
func (b Billing) owns(issuer, subject, invoice string) bool {
	return issuer == "https://shop.example" && subject == b.Owner && invoice == "INV-1"
}

func logging(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	log.Print(info.FullMethod, " ", status.Code(err))
	return resp, err
}

func audit(words ...any) { log.Println(words...) }
