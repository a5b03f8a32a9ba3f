package rpc

import (
	"mime"
	"net/http"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
)

// admitted returns the visit of a call that the app itself makes. No script can set
// the headers that it goes by (Fetch Metadata Request Headers, and the forbidden
// request-headers of the Fetch standard).
func (h *Handler) admitted(r *http.Request) (raw string, err error) {
	foreign := func(detail string) (string, error) {
		return "", refusal(handoff.ReasonArgumentInvalid, "rpc.browser", detail)
	}
	if r.Method != http.MethodPost {
		return foreign("the method is not POST")
	}
	for _, demanded := range []struct{ header, value string }{
		{"Sec-Fetch-Site", "same-origin"}, // required: a browser without it cannot be told from another page's
		{"Sec-Fetch-Dest", "empty"},
	} {
		if values := r.Header.Values(demanded.header); len(values) != 1 || values[0] != demanded.value {
			return foreign(demanded.header + " is not " + demanded.value)
		}
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "cors" && mode != "same-origin" {
		return foreign("Sec-Fetch-Mode is not that of a fetch")
	}
	if err := h.same.Check(r); err != nil {
		return foreign("another origin asks")
	}
	switch kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err != nil || len(r.Header.Values("Content-Type")) != 1:
		return foreign("there is not one Content-Type")
	case kind != "application/json" && kind != "application/proto" && kind != "application/connect+json" && kind != "application/connect+proto":
		return foreign("the Content-Type is none of the Connect protocol's")
	}
	if len(r.Header.Values("Authorization")) > 0 {
		return "", refusal(handoff.ReasonTokenInvalid, "rpc.cookie", "the header Authorization is there: it is gRPC's, and a visit comes in its cookie")
	}
	switch cookies := r.CookiesNamed(handoffweb.VisitCookie); {
	case len(cookies) == 0:
		return "", refusal(handoff.ReasonTokenMissing, "rpc.cookie", "the browser has no cookie of a visit")
	case len(cookies) > 1:
		return "", refusal(handoff.ReasonTokenInvalid, "rpc.cookie", "the browser has two cookies of a visit, of which one is planted")
	case !handoff.KindVisit.Of(cookies[0].Value):
		return "", refusal(handoff.ReasonTokenInvalid, "rpc.cookie", "the cookie holds no visit")
	default:
		return cookies[0].Value, nil
	}
}
