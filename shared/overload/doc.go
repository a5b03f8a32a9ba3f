// Package overload keeps a gRPC server at work when more comes than it can check,
// and bounds what it holds for callers that nobody knows yet. It knows no token: a
// guard asks it for a turn.
//
//	shedder, err := overload.New(overload.Config{})
//	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Admit: shedder.Admit})
//	s := grpc.NewServer(append(shedder.Options(), grpc.Creds(tls))...)
//	billingv1.RegisterBillingServer(guard.On(s), impl)
//	err = guard.Check(s)
//	err = s.Serve(shedder.Listener(listener))
//
// # How
//
// A signature check takes a processor and gives it to nobody until it is done, so
// calls that come faster than that wait, each as a goroutine. Admit has them wait
// in order, networks one after the other: one that calls without end does not keep
// others waiting. While too many wait, Tap refuses calls on their headers, and Listener
// reads connections no faster than calls are checked.
//
// # Invariants
//
// No more than Config.MaxConnections connections and Config.MaxOpen calls are open at
// once, and one network has no more than its share of them. A connection with an open
// call is never closed for another. A call whose request has not arrived within
// Config.BodyTimeout of its header is ended, or sooner where others need its place.
// One whose request has arrived keeps its place.
//
// # What it does not do
//
// It authorizes nobody. It does not know the clients behind a proxy: to it they are one
// network, and the proxy has to bound them.
package overload
