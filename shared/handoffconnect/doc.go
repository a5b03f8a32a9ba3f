// Package handoffconnect guards connect-go handlers (https://connectrpc.com) with
// handoff tokens, in each of their protocols: Connect, gRPC and
// gRPC-Web. Every decision is package handoffgrpc's: the configuration, the reasons and
// what Observe is told are the same.
//
// # A server
//
//	guard, err := handoffconnect.NewGuard(handoffgrpc.Config{
//		Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health/"}})
//	mux := http.NewServeMux()
//	mux.Handle(handoffconnect.On(guard, billingv1connect.NewBillingHandler, impl, logging)) // inside all interceptors
//	err = guard.Check(mux) // until it succeeds every call is refused
//
// On makes the handler itself, so that what stands before it and what stands in it
// cannot come apart. In the service's methods, handoff.FromContext returns the grant; a
// method that finds none refuses.
//
// # A client
//
//	req := connect.NewRequest(&billingv1.PayRequest{InvoiceId: "INV-1", Cents: 1200})
//	req.Header().Set("Authorization", "Bearer "+raw) // over TLS, once
//	resp, err := client.Pay(ctx, req)
//	reason := handoffconnect.ReasonOf(err)
//
// # Invariants
//
// Those of package handoffgrpc: a method runs only with a grant for the very request it
// is given, and each method has a rule or is exempt.
//
// A request whose token does not verify is not decoded, and no interceptor sees it:
// Config.Observe does.
//
// # What it does not do
//
// It guards no client-streaming method. It sets no deadline and no size limit: set
// connect.WithReadMaxBytes, as connect-go has none unless told. It cannot see what is
// mounted after Check, nor behind a pattern that does not name the service.
package handoffconnect
