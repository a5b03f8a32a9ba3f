package handofftest_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
)

// invoices answers with what its grant says, and counts the calls it gets.
type invoices struct {
	server2v1.UnimplementedInvoiceServiceServer
	calls int
}

func (s *invoices) GetInvoice(ctx context.Context, _ *server2v1.GetInvoiceRequest) (*server2v1.GetInvoiceResponse, error) {
	s.calls++
	grant, _ := handoff.FromContext(ctx)
	return &server2v1.GetInvoiceResponse{Invoice: &server2v1.Invoice{InvoiceId: grant.Subject()}}, nil
}

func (s *invoices) PayInvoice(ctx context.Context, _ *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	s.calls++
	grant, _ := handoff.FromContext(ctx)
	return &server2v1.PayInvoiceResponse{Payment: &server2v1.Payment{HandoffId: grant.ID()}}, nil
}

func (s *invoices) ExportPayments(_ *server2v1.ExportPaymentsRequest, stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error {
	s.calls++
	return stream.Send(&server2v1.ExportPaymentsResponse{Payment: &server2v1.Payment{PaymentId: "1"}})
}

var payment = &server2v1.PayInvoiceRequest{
	InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, Memo: "thanks",
}

func TestAttack(t *testing.T) {
	for _, test := range []struct {
		method  string
		request proto.Message
		sealed  bool
		calls   int // that must reach the handler: one before, one after, one that is then replayed or with a visit
	}{
		{server2v1.InvoiceService_PayInvoice_FullMethodName, payment, false, 3},
		{server2v1.InvoiceService_PayInvoice_FullMethodName, payment, true, 3},
		{server2v1.InvoiceService_GetInvoice_FullMethodName, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, false, 3},
		{server2v1.InvoiceService_ExportPayments_FullMethodName, &server2v1.ExportPaymentsRequest{InvoiceId: "INV-42"}, false, 3},
	} {
		t.Run(fmt.Sprintf("%s, sealed %t", test.method, test.sealed), func(t *testing.T) {
			impl := &invoices{}
			server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, impl) })
			target := handofftest.Target{Issuer: server.Issuer, Audience: server.Audience, Method: test.method, Request: test.request}
			if test.sealed {
				target.Seal, target.Certificate = server.Seal, server.Certificate
			}
			handofftest.Attack(t, server.Conn, target)
			if impl.calls != test.calls {
				t.Errorf("%d calls reached the handler, want %d", impl.calls, test.calls)
			}
		})
	}
}

// Attack itself must find a server without protection.
func TestAttackFindsAnOpenServer(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
	found := attackOf(t, everyone{server.Conn}, server.Issuer, server.Audience)
	if found.errors != 20 || !found.fatal {
		t.Errorf("a server that lets everyone in got %d complaints", found.errors)
	}
}

// A server that trusts somebody else is no server to attack.
func TestAttackOfAStrangersServer(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
	if found := attackOf(t, server.Conn, handofftest.NewIssuer(t), server.Audience); found.errors != 0 || !found.fatal {
		t.Errorf("%d complaints before the first good call", found.errors)
	}
}

// A method without a rule is nobody's to guard: an attack on it shows nothing.
func TestAttackOfAMethodWithoutARule(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
	for _, conn := range []grpc.ClientConnInterface{server.Conn, everyone{server.Conn}} {
		found := attackWith(t, conn, handofftest.Target{
			Issuer: server.Issuer, Audience: server.Audience,
			Method: "/grpc.health.v1.Health/Check", Request: &healthpb.HealthCheckRequest{},
		})
		if found.errors != 0 || !found.fatal || !strings.Contains(found.text, "no rule") {
			t.Errorf("%d complaints, fatal %t: %q", found.errors, found.fatal, found.text)
		}
	}
}

// attackOf attacks in a test of its own, whose failure is what is wanted.
func attackOf(t *testing.T, conn grpc.ClientConnInterface, issuer *handofftest.Issuer, audience string) *counter {
	return attackWith(t, conn, handofftest.Target{
		Issuer: issuer, Audience: audience,
		Method: server2v1.InvoiceService_GetInvoice_FullMethodName, Request: &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"},
	})
}

func attackWith(t *testing.T, conn grpc.ClientConnInterface, target handofftest.Target) *counter {
	found := &counter{TB: t}
	done := make(chan struct{})
	go func() { // that Fatalf ends
		defer close(done)
		handofftest.Attack(found, conn, target)
	}()
	<-done
	return found
}

// everyone is a connection on which every call succeeds.
type everyone struct{ *grpc.ClientConn }

func (everyone) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return nil }

// counter is a test whose failures are counted, and do not count.
type counter struct {
	testing.TB
	errors int
	fatal  bool
	text   string // of the last Fatalf
}

func (c *counter) Errorf(string, ...any) { c.errors++ }

func (c *counter) Fatalf(format string, args ...any) {
	c.fatal, c.text = true, fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestContext(t *testing.T) {
	ctx := handofftest.Context(t, "u-7", server2v1.InvoiceService_GetInvoice_FullMethodName, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
	response, err := (&invoices{}).GetInvoice(ctx, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"})
	if err != nil || response.GetInvoice().GetInvoiceId() != "u-7" {
		t.Errorf("the handler found %v, %v", response, err)
	}
}

func TestServe(t *testing.T) {
	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
	client := server2v1.NewInvoiceServiceClient(server.Conn)
	raw := server.Issuer.Token(t, server.Audience, "u-1", server2v1.InvoiceService_PayInvoice_FullMethodName, payment)
	if _, err := client.PayInvoice(t.Context(), payment, handoffgrpc.Token(raw)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.PayInvoice(t.Context(), payment, handoffgrpc.Token(raw)); handoffgrpc.ReasonOf(err) != handoff.ReasonTokenReplayed {
		t.Errorf("the same token again: %v", err)
	}
}
