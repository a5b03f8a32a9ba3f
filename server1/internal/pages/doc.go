// Package pages is SERVER1 in a browser: a user signs in, sees their orders, and is
// redirected to the service that takes the payment.
//
//	site, err := pages.New(pages.Config{Sessions: sessions, Keeper: keeper, Handoffs: handoffs, …})
//	mux.Handle("/", site)
//
//	GET  /sign-in, POST /sign-in         the form, and a new session
//	GET  /orders, GET /orders/           the user's orders
//	GET  /orders/{order}                 one of them
//	GET, POST /grants                    the programs that act for the user, and one more
//	POST /grants/{grant}/withdraw        one less
//	POST /orders/{order}/pay             a handoff of the payment, and the page that takes it there
//	POST /visit, GET /visit              a visit, and the page that takes it there; the way back to it
//	GET  /orders/{jti}                   back from there: what is known of that handoff
//	POST /sign-out, /sign-out-everywhere the end of the session, or of all of the user's
//	GET  /signed-out                     what has ended
//
// # Invariants
//
// Sessions are those of package session, and handoffs come from package issue: the
// accounts, the limits, the policy and the audit are the same as over gRPC. The
// session's id is in one cookie that no script and no other host can read or set
// (`__Host-session`), and is new at each sign-in.
//
// No address is read from a request. Where a handoff is sent stands in the policy, and
// where somebody lands after signing in is one of this package's own paths. A POST from
// another origin does nothing. A page is never kept by a cache and never framed. No page
// runs a script, except for the one line that posts the form of GET /visit.
//
// # What it does not do
//
// It is not told what becomes of a handoff: SERVER2 says that to the user. The orders
// are the demo's own, one list for each demo user.
package pages
