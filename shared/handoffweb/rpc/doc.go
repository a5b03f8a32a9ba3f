// Package rpc lets a single-page app call SERVER2's gRPC server, by the Connect
// protocol (https://connectrpc.com/docs/protocol) and with a visit that no script of
// the app can read.
//
//	calls, err := rpc.New(rpc.Config{Verifier: verifier, Connect: server.Conn}) // connections into this very server
//	defer calls.Close()
//	mux.Handle("/rpc/", http.StripPrefix("/rpc", calls))
//
// In the app, with clients generated from the same .proto:
//
//	const transport = createConnectTransport({ baseUrl: '/rpc' })
//	const invoices = createClient(InvoiceService, transport)
//
// # How
//
// The visit is in the cookie that handoffweb.Landing has set. It becomes the bearer
// token of a call to the gRPC server, which passes all that others' calls do: the
// listener, the tap, the limits, the guard. The guard's reasons come back as details
// of the error, as over gRPC: google.rpc.ErrorInfo with the domain "handoff.v1".
//
// # Invariants
//
//   - A call reaches the gRPC server only as a fetch of a page of this very origin,
//     with exactly one cookie of a visit and without the header Authorization. No
//     answer has a CORS header.
//   - Nothing of the request but its message, its deadline and the visit goes on: no
//     handler sees a cookie.
//   - JSON with a member that the message lacks is refused. No message is longer than
//     Config.MaxBytes, and none is compressed.
//   - A user has a bounded number of calls open, by however many visits, and so have all
//     together. A place is taken by a request that has arrived, with a genuine visit.
//     Requests that are being read are bounded for each network.
//   - No error, answer or event contains the visit.
//
// # What it does not do
//
// It knows no rule and authorizes nothing: the guard does. It verifies a visit only to
// know whose calls to count. It offers unary and
// server-streaming methods that carry a rule, since browsers send no streams.
package rpc
