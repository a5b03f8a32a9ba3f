package handofftest_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/handofftest"
)

// A test of a service calls it as its clients do.
func Example() {
	testing.Init()
	test := testing.InternalTest{Name: "TestPay", F: func(t *testing.T) {
		server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { server2v1.RegisterInvoiceServiceServer(s, &invoices{}) })
		request := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
		raw := server.Issuer.Token(t, server.Audience, "u-1", server2v1.InvoiceService_GetInvoice_FullMethodName, request)

		client := server2v1.NewInvoiceServiceClient(server.Conn)
		response, err := client.GetInvoice(context.Background(), request, handoffgrpc.Token(raw))
		fmt.Println(response.GetInvoice().GetInvoiceId(), err)
		_, err = client.GetInvoice(context.Background(), request)
		fmt.Println(handoffgrpc.ReasonOf(err))
	}}
	testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{test})
	// Output:
	// u-1 <nil>
	// TOKEN_MISSING
}
