package handoffgrpc_test

import (
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// In development, and behind a sidecar that ends TLS, a token may go in the clear as
// long as it does not leave the machine. G17: what is bound to a certificate does not.
func TestLocalToken(t *testing.T) {
	for _, network := range []struct{ name, address, target string }{
		{"tcp", "127.0.0.1:0", ""}, {"unix", filepath.Join(t.TempDir(), "s"), "unix:"},
	} {
		listener, err := net.Listen(network.name, network.address)
		if err != nil {
			t.Fatal(err)
		}
		k := newKit(t, handoffgrpc.Config{})
		s := k.server(grpc.Creds(local.NewCredentials()))
		if err := k.guard.Check(s); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(listener) }()
		pay := func(creds credentials.TransportCredentials, option grpc.CallOption) error {
			conn, err := grpc.NewClient(network.target+listener.Addr().String(), grpc.WithTransportCredentials(creds))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = server2v1.NewInvoiceServiceClient(conn).PayInvoice(t.Context(), payment(), option)
			return err
		}
		if err := pay(local.NewCredentials(), handoffgrpc.LocalToken(k.pay(t).Compact())); err != nil {
			t.Errorf("%s: %v", network.name, err)
		}
		private := network.name == "unix"
		if err := pay(local.NewCredentials(), handoffgrpc.Token(k.pay(t).Compact())); (err == nil) != private {
			t.Errorf("%s: Token: %v", network.name, err)
		}
		before := k.store.len()
		if err := pay(insecure.NewCredentials(), handoffgrpc.LocalToken(k.pay(t).Compact())); status.Code(err) != codes.Unauthenticated || handoffgrpc.ReasonOf(err) != 0 {
			t.Errorf("%s: a channel that would go anywhere: %v", network.name, err)
		}
		err = pay(local.NewCredentials(), handoffgrpc.LocalToken(boundTo(k.pay(t), clientCertificate()).Compact()))
		if handoffgrpc.ReasonOf(err) != handoff.ReasonCertificateMismatch || k.store.len() != before {
			t.Errorf("%s: bound to a certificate: %v", network.name, err)
		}
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := handoffgrpc.LocalToken("not a token").(grpc.PerRPCCredsCallOption).Creds.GetRequestMetadata(t.Context()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no connection: %v", err)
	}
}
