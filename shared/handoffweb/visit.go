package handoffweb

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// VisitCookie is the name of the cookie that holds a visit, as the issuer signed it,
// until it expires. No script can read it. The prefix `__Host-` keeps other hosts from
// setting it (RFC 6265bis section 4.1.3.2); a browser that sends two of them has one
// that was not set here, and neither counts.
const VisitCookie = "__Host-visit"

const visitPath = "/visit"

// receive takes a visit from the issuer's page into the browser, which goes on to the
// application.
func (e *exchange) receive(raw, origin string) {
	claims, err := e.visiting(raw)
	switch {
	case err != nil:
	case e.config.From[claims.Issuer].Origin != origin:
		err = notFrom("the header Origin is not that of the token's issuer")
	default:
		err = showable(*claims, raw)
	}
	if err != nil {
		e.refuse(err)
		return
	}
	e.setCookie(VisitCookie, raw, seconds(claims.Expires.Sub(e.config.Now())))
	e.leadTo(e.config.App)
}

// visiting verifies a visit of an issuer whose users come by browser.
func (e *exchange) visiting(raw string) (*handoff.Claims, error) {
	if e.config.App == "" {
		return nil, &handoff.Refusal{Reason: handoff.ReasonMethodMismatch, Check: "web.visit", Detail: "there is no application here that a visit could lead to"}
	}
	verified, err := e.verify(raw, e.config.Verifier.VerifyVisit)
	if err != nil {
		return nil, err
	}
	claims := verified.Claims()
	if _, ok := e.config.From[claims.Issuer]; !ok {
		return nil, fromNobody()
	}
	return &claims, nil
}

// visitStatus is what the application is told of its visit.
type visitStatus struct {
	Reason  string   `json:"reason,omitempty"` // why there is none
	Issuer  string   `json:"issuer,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Expires string   `json:"expires,omitempty"` // RFC 3339
	Methods []string `json:"methods,omitempty"`
	Renew   string   `json:"renew,omitempty"`  // where the person gets another: Origin.Visit
	Return  string   `json:"return,omitempty"` // Origin.Return
}

// visitor tells the application whose visit the browser holds, and until when.
func (e *exchange) visitor() {
	e.step = "visit"
	claims, err := e.visits()
	if err != nil {
		e.noVisit(err)
		return
	}
	e.json(http.StatusOK, visitStatus{
		Issuer: claims.Issuer, Subject: claims.Subject, Expires: claims.Expires.UTC().Format(time.RFC3339), Methods: claims.Methods,
		Renew: e.renewal(), Return: e.config.From[claims.Issuer].Return,
	}, nil)
}

// visits returns what the visit that the browser holds says.
func (e *exchange) visits() (*handoff.Claims, error) {
	if values := e.r.Header.Values("Sec-Fetch-Site"); len(values) > 1 || len(values) == 1 && values[0] != "same-origin" {
		return nil, notFrom("Sec-Fetch-Site is not same-origin")
	}
	held := e.r.CookiesNamed(VisitCookie)
	switch {
	case len(held) == 0:
		return nil, &handoff.Refusal{Reason: handoff.ReasonTokenMissing, Check: "web.cookie", Detail: "the browser holds no visit"}
	case len(held) > 1:
		return nil, &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: "web.cookie", Detail: "the browser has two cookies of a visit"}
	}
	claims, err := e.visiting(held[0].Value)
	if err != nil {
		e.guess(held[0].Value)
	}
	return claims, err
}

// noVisit tells the application why there is no visit, and has the browser forget one
// that is over.
func (e *exchange) noVisit(err error) {
	refusal := refusalOf(err)
	code := http.StatusUnauthorized
	switch refusal.Reason {
	case handoff.ReasonTrustStale, handoff.ReasonLimitExceeded:
		code = http.StatusServiceUnavailable
		e.w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	case handoff.ReasonArgumentInvalid: // another site asks
		code = http.StatusForbidden
	case handoff.ReasonTokenExpired, handoff.ReasonTokenRevoked:
		e.setCookie(VisitCookie, "", -1)
	}
	e.json(code, visitStatus{Reason: refusal.Reason.String(), Renew: e.renewal()}, refusal)
}

// renewal is where the person gets another visit: of the issuer that the visit names,
// or of the only one that has such an address. It is configured, and never read from a
// token.
func (e *exchange) renewal() string {
	if e.issuer != "" {
		return e.config.From[e.issuer].Visit
	}
	only := ""
	for _, from := range e.config.From {
		if only != "" && from.Visit != "" {
			return ""
		}
		only += from.Visit
	}
	return only
}

// end has the browser forget its visit. It takes nothing back: that is the issuer's to
// do, when the person signs out there.
func (e *exchange) end() {
	e.step = "end"
	if err := e.confirmsHere(); err != nil {
		e.noVisit(err)
		return
	}
	e.setCookie(VisitCookie, "", -1)
	e.jsonHeaders()
	e.w.WriteHeader(http.StatusNoContent)
	e.observe(http.StatusNoContent, nil)
}

// json answers the application, and says so to the observer.
func (e *exchange) json(code int, status visitStatus, refusal *handoff.Refusal) {
	body, err := json.Marshal(status)
	if err != nil { // strings only
		code, refusal = http.StatusInternalServerError, &handoff.Refusal{Err: err}
	}
	e.jsonHeaders()
	e.w.Header().Set("Content-Type", "application/json")
	e.w.WriteHeader(code)
	_, _ = e.w.Write(append(body, '\n')) // a reader who has gone needs none
	e.observe(code, refusal)
}

// jsonHeaders keep the answer to the application: no other origin can read it, embed it
// or be shown it as a page.
func (e *exchange) jsonHeaders() {
	h := e.w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// refusalOf returns the refusal that err is, or one without a reason.
func refusalOf(err error) *handoff.Refusal {
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) {
		refusal = &handoff.Refusal{Err: err}
	}
	return refusal
}

func fromNobody() error {
	return &handoff.Refusal{Reason: handoff.ReasonIssuerMismatch, Check: "web.from", Detail: "the issuer's users do not come by browser"}
}

// checkApp accepts the path of a page of this origin.
func checkApp(path string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' || len(path) > 1 && path[1] == '/' {
		return errors.New(`must be a path of this origin, such as "/app/"`)
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c > '~' || c == '\\' || c == '"' || c == '<' || c == '>' || c == '?' || c == '#' {
			return errors.New("must be a plain path, without a query, a fragment or characters that a browser would rewrite")
		}
	}
	return nil
}
