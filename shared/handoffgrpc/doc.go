// Package handoffgrpc guards a gRPC server with handoff tokens, and gives its
// clients the credentials to call it.
//
// # A server
//
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{
//		Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health/"}})
//	s := grpc.NewServer(
//		grpc.InTapHandle(guard.Tap), // sheds what the processors cannot check
//		grpc.ChainUnaryInterceptor(logging, guard.Unary),
//		grpc.ChainStreamInterceptor(logging, guard.Stream)) // the guard is last
//	billingv1.RegisterBillingServer(s, impl)
//	err = guard.Check(s) // until it succeeds every call is refused
//	err = s.Serve(guard.Listener(listener)) // reads no more than it can check
//
// Install both interceptors: each guards its own kind of method. In a handler,
// handoff.FromContext returns the grant; a handler that finds none refuses.
//
// # A client
//
//	resp, err := client.Pay(ctx, req, handoffgrpc.Token(raw))
//	reason := handoffgrpc.ReasonOf(err)
//
// # Invariants
//
// A guarded handler runs only with a grant for the very request it is given: the
// token was verified, it names the method and the request, and it was redeemed.
// A server-streaming handler gets its request and its grant together, from
// RecvMsg, and sends nothing before. When the grant ends while a stream is open,
// the stream's context is cancelled and the client's status says why.
//
// Every method of the server has a rule or is named in Config.Exempt. A method
// that Check has not seen does not run.
//
// A refused caller learns a Reason, in a status whose text is fixed. Config.Observe
// learns the check and the cause as well. Neither is given a token.
//
// # What it does not do
//
// It guards no client-streaming method, and no method that was registered by hand
// as a stream in neither direction: gRPC runs those past every interceptor. It sets no deadline and no size limit,
// recovers no panic, and logs and counts nothing itself. It looks at the metadata
// of a call, never at its connection: TLS is the server's to set up. An
// interceptor between the guard and the handler could change what was bound,
// which is why the guard comes last.
package handoffgrpc
