// Package handoffgrpc guards a gRPC server with handoff tokens, and gives its
// clients the credentials to call it.
//
// # A server
//
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{
//		Verifier: verifier, Exempt: []string{"/grpc.health.v1.Health/"}})
//	s := grpc.NewServer(grpc.Creds(tls), grpc.ChainUnaryInterceptor(logging))
//	billingv1.RegisterBillingServer(guard.On(s), impl) // inside all interceptors
//	err = guard.Check(s) // until it succeeds every call is refused
//	err = s.Serve(listener)
//
// In a handler, handoff.FromContext returns the grant. A handler that finds none
// refuses: it was registered around the guard in a program that never called Check.
//
// # A client
//
//	resp, err := client.Pay(ctx, req, handoffgrpc.Token(raw))
//	reason := handoffgrpc.ReasonOf(err)
//
// A token can be bound to its client's TLS certificate (RFC 8705), so that nobody else
// can present it: see PeerCertificate, with a client and a server that run.
//
// Behind grpc-gateway it is the same guard: scripts/adopter/README.md says what the
// gateway's program must link, and which of its handlers go around the guard.
//
// # Invariants
//
// A guarded handler runs only with a grant for the very request it is given: the
// token was verified, it names the method and the request, and it was redeemed.
// A server-streaming handler gets its request and its grant together, from
// RecvMsg, and sends nothing before. When the grant ends while a stream is open,
// the stream's context is cancelled and the client's status says why.
//
// Every method of the server has a rule or is named in Config.Exempt. A guarded
// method that Check has not seen does not run. A server that Check has refused
// serves nothing.
//
// A refused caller learns a Reason, in a status whose text is fixed. Config.Observe
// learns the check and the cause as well. Neither is given a token.
//
// # What it does not do
//
// It guards no client-streaming method. It sets no deadline and no size limit,
// recovers no panic, and logs and counts nothing itself. TLS is the server's to set up:
// of a call's connection it looks only at the client's certificate, for a token that
// is bound to one.
package handoffgrpc
