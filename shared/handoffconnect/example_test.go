package handoffconnect_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"connectrpc.com/connect"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffconnect"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/replay"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// newInvoices stands for what protoc-gen-connect-go generates, here for
// one method.
func newInvoices(get func(context.Context, *connect.Request[server2v1.GetInvoiceRequest]) (*connect.Response[server2v1.GetInvoiceResponse], error),
	options ...connect.HandlerOption,
) (string, http.Handler) {
	const method = server2v1.InvoiceService_GetInvoice_FullMethodName
	return "/handoff.server2.v1.InvoiceService/", connect.NewUnaryHandler(method, get, options...)
}

func Example() {
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example",
		Issuers:  map[string]handoff.KeySource{"https://shop.example": noKeys{}},
		Store:    replay.NewMemory(replay.Config{}),
	})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := handoffconnect.NewGuard(handoffgrpc.Config{Verifier: verifier})
	if err != nil {
		log.Fatal(err)
	}
	impl := func(ctx context.Context, req *connect.Request[server2v1.GetInvoiceRequest]) (*connect.Response[server2v1.GetInvoiceResponse], error) {
		grant, ok := handoff.FromContext(ctx)
		if !ok {
			return nil, connect.NewError(connect.CodeInternal, nil)
		}
		log.Println(grant.Subject(), "reads", req.Msg.GetInvoiceId())
		return connect.NewResponse(&server2v1.GetInvoiceResponse{}), nil
	}
	mux := http.NewServeMux()
	mux.Handle(handoffconnect.On(guard, newInvoices, impl))
	if err := guard.Check(mux); err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(mux)
	defer server.Close()

	client := connect.NewClient[server2v1.GetInvoiceRequest, server2v1.GetInvoiceResponse](
		server.Client(), server.URL+server2v1.InvoiceService_GetInvoice_FullMethodName)
	_, err = client.CallUnary(context.Background(), connect.NewRequest(&server2v1.GetInvoiceRequest{InvoiceId: "INV-1"}))
	fmt.Println(handoffconnect.ReasonOf(err))
	// Output: TOKEN_MISSING
}

// noKeys is an issuer that nobody vouches for.
type noKeys struct{}

func (noKeys) Key(context.Context, string) (handoff.Key, error) {
	return handoff.Key{}, handoff.ErrKeyUnknown
}
