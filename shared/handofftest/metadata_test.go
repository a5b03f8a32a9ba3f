package handofftest_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
)

// once is a store for the life of a test.
type once struct{ ids sync.Map }

func (o *once) Redeem(_ context.Context, r handoff.Redemption) error {
	if _, spent := o.ids.LoadOrStore(r.Issuer+" "+r.ID, true); spent {
		return handoff.ErrReplayed
	}
	return nil
}

// A server that reads tokens from handoff-token is attacked there.
func TestAttackMetadata(t *testing.T) {
	const audience = "https://own.test"
	issuer := handofftest.NewIssuer(t)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: audience, Issuers: map[string]handoff.KeySource{issuer.Name(): issuer.Keys()}, Store: new(once),
	})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Metadata: "handoff-token"})
	if err != nil {
		t.Fatal(err)
	}
	impl := &invoices{}
	server := grpc.NewServer()
	server2v1.RegisterInvoiceServiceServer(guard.On(server), impl)
	if err := guard.Check(server); err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///own.test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	target := handofftest.Target{
		Issuer: issuer, Audience: audience, Metadata: "handoff-token",
		Method: server2v1.InvoiceService_GetInvoice_FullMethodName, Request: &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"},
	}
	handofftest.Attack(t, conn, target)
	if impl.calls != 3 { // one of them with a visit
		t.Errorf("%d calls reached the handler, want 3", impl.calls)
	}
	target.Metadata = "" // where the server reads nothing
	if found := attackWith(t, conn, target); !found.fatal || found.errors != 0 {
		t.Errorf("%d complaints, fatal %t", found.errors, found.fatal)
	}
}
