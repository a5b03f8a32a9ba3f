// Package handofftest is for the tests of services that take handoffs.
//
// # A guarded server and a fake SERVER1
//
//	server := handofftest.Serve(t, func(s grpc.ServiceRegistrar) { billingv1.RegisterBillingServer(s, impl) })
//	raw := server.Token(t, "u-1", billingv1.Billing_Pay_FullMethodName, req)
//	resp, err := billingv1.NewBillingClient(server.Conn).Pay(ctx, req, handoffgrpc.Token(raw))
//
// A method whose rule says visit takes server.Issuer.Visit(t, server.Audience, "u-1", method) as well.
//
// # Attack your own server
//
//	handofftest.Attack(t, conn, handofftest.Target{
//		Issuer: issuer, Audience: "https://billing.example", Method: billingv1.Billing_Pay_FullMethodName, Request: req})
//
// Attack makes hostile tokens, which only this package can make, and shows that
// the server refuses each of them for the right reason.
//
// # A grant for a handler's unit test
//
//	ctx := handofftest.Context(t, "u-1", billingv1.Billing_Pay_FullMethodName, req)
//	resp, err := impl.Pay(ctx, req)
//
// # A store of your own
//
//	handofftest.Store(t, func(t *testing.T) handoff.Store { return newStore(t) })
//
// Nothing here belongs in a program: new keys are made for each test, and
// tokens are made to any measure. Everything is safe for concurrent use.
package handofftest
