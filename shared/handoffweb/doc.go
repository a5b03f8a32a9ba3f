// Package handoffweb takes a handoff through the browser: SERVER1 redirects a
// signed-in person to SERVER2, who sees there exactly what SERVER1 has signed,
// confirms it, and comes back. No token is ever in a URL, or within reach of a
// script.
//
//	browser            SERVER1 (shop)            SERVER2 (billing)
//	1 the click ------> its own session, Issue
//	2 <---------------- Send: a form that
//	                    submits itself
//	3 POST /handoff, the token in the form ----> Origin is the issuer's; Verify
//	  <----------------------------------------- 303, the token in a cookie
//	4 GET /handoff/{jti} ----------------------> Verify: who asks, for what exactly,
//	                                             until when
//	5 POST /handoff/{jti}, the confirmation ---> the call, with the token, to
//	                                             SERVER2's own gRPC server
//	  <----------------------------------------- 303
//	6 GET /handoff/{jti} ----------------------> what became of it, and the way back
//
// # SERVER1
//
// In the handler of the click, a POST behind http.CrossOriginProtection:
//
//	err := handoffweb.Send(w, handoffweb.Passage{Token: raw, To: "https://billing.example"})
//
// # SERVER2
//
//	landing, err := handoffweb.NewLanding(handoffweb.LandingConfig{
//		Verifier: verifier, Server: conn, // a connection into this very server
//		From: map[string]handoffweb.Origin{"https://shop.example": {
//			Origin: "https://shop.example", Return: "https://shop.example/orders/"}}})
//	mux.Handle("/handoff", landing)
//	mux.Handle("/handoff/", landing)
//
// # A single-page application
//
// Where LandingConfig.App names one, Send brings a visit the same way, step 3 puts it
// into the cookie VisitCookie, and the browser goes on to the application. It asks GET
// /visit whose visit that is and until when, and posts to /visit/end to have the browser
// forget it.
//
//	mux.Handle("/visit", landing)
//	mux.Handle("/visit/", landing)
//
// # Invariants
//
//   - Nothing here redeems. A confirmed call is one more call to the gRPC server,
//     through all that stands in front of its handlers.
//   - No GET spends, and an arrival does not either. After a confirmation the token
//     leaves the browser: what became of it takes its place, so that a reload, Back
//     and a second tab tell it.
//   - A handoff arrives only from a page of its issuer's origin, and is confirmed only
//     by a navigation from the page that showed it here: its form has a digest of the
//     token, which no script can read.
//   - No address is read from a request or a token. The way back is configured.
//   - The page shows every field of the request that was signed. Text that would hide
//     or turn around is written out.
//   - No page, error or event contains a token or a cookie.
//
// # What it does not do
//
// It signs nobody in. A script of a stranger's on the same origin cannot read these
// pages, and cannot confirm by a fetch, a frame, a window of theirs or a form of its
// own. It can do what a page of the origin can: imitate them, plant a handoff or a visit
// of its own where the browser has none, or keep others' out with cookies that it sets.
// So an application that a stranger could run a script in is better kept on another host. That holds for browsers which send Fetch
// Metadata, as all current ones do: in an older one, such a script can read the page and
// so confirm it. It has no time limits for connections, except one for the body of a
// form: those are the http.Server's.
package handoffweb
