// Package serving is what both demo servers need to be good gRPC citizens: TLS
// 1.3 and nothing less, limits on all that a stranger can make a server hold,
// health, an orderly stop, recovered panics, errors that give nothing away, a
// log and metrics.
//
// # Use
//
//	server, err := serving.New(serving.Config{
//		Flags: flags, // what the operator sets; kong reads its tags
//		Log:   log,
//		Ready:  []serving.Readiness{{Name: "database", Check: db.PingContext}},
//		Listening: func(a net.Addr) { fmt.Fprintln(stdout, "listening on", a) },
//	})
//	billingv1.RegisterBillingServer(guard.On(server.GRPC()), impl)
//	err = guard.Check(server.GRPC())
//	err = server.Run(ctx) // until ctx is done, then drained
//
// A mistake in the settings is a *SettingError before a port is open; Exit makes
// it one line and exit status 2.
//
// # The order of interceptors
//
// Recovery outermost; metrics; the log; what a caller may know of an error,
// with recovery once more, so that a panic is logged and counted as the call
// that it was; then the program's own. The deadline is set before all of them,
// when the call's header arrives, so that it covers a body that never comes.
//
// # What strangers can hold
//
// The constants bound what one connection holds, and for how long;
// Flags.MaxConnections bounds the connections, and by it the calls that stay open
// (Config.Watches). Of both, one network (an IPv4 address, an IPv6 /48) has at
// most a quarter, and once half is taken a 64th, so that a handful cannot keep the
// others out. A connection beyond that takes the place of one without an open call:
// the longest idle of the network that holds the most. One with a call is never
// closed for another. Half of the watches' places are kept for the networks of
// Config.Known. Behind a proxy that hides its clients' addresses all clients are one
// network, and the proxy has to bound them.
//
// # Invariants
//
// No port speaks plain TCP except that of the metrics, which then is on loopback; elsewhere
// it speaks TLS to clients whom the operator's authority vouches for. The
// public port offers the registered services, health and, only when asked,
// reflection. No compressor is linked. Every error that leaves a handler carries
// google.rpc.ErrorInfo; any other becomes INTERNAL with a fixed text, and its
// cause stays in the log. The log has no payloads and no metadata.
//
// # What it does not do
//
// It authorizes nobody: that is the work of a guard, which stands in front of the
// handlers. It does not limit the rate of calls.
package serving
