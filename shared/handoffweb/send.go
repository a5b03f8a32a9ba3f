package handoffweb

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"html/template"
	"net/http"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/sealed"
)

// Passage is a handoff, or a visit, on its way through a browser.
type Passage struct {
	// Token is the handoff token or the visit, as Issuer.Issue returned it.
	Token string
	// To is the audience's web origin, such as https://billing.example. It comes
	// from SERVER1's own settings, never from a request.
	To string
}

// Send answers the click of a signed-in user with the page that takes the handoff
// to the audience: a form that a script submits as soon as it is there, and a
// button for those who run no scripts. The token stands in the form, and in no URL.
//
// Call it from the handler of a POST that http.CrossOriginProtection lets pass:
// a link could be followed for the user by somebody else. Nothing is written
// before everything has been checked, so that after an error w is as it was. The
// error is a *handoff.ConfigError, and a *handoff.Refusal in it where the token has no form in which the audience
// could show it: REQUEST_UNBINDABLE for one that carries only a digest of its
// fields, LIMIT_EXCEEDED for one that no cookie can hold, CERTIFICATE_MISMATCH for one that
// is bound to a client's certificate. What a sealed token carries
// only the audience can see, whose page then says so.
func Send(w http.ResponseWriter, p Passage) error {
	if err := CheckOrigin(p.To); err != nil {
		return &handoff.ConfigError{Field: "handoffweb.Passage.To", Problem: err.Error()}
	}
	claims := handoff.Claims{ID: handoff.NewID()} // of a sealed token only the length of its id is known
	if !sealed.Is(p.Token) {
		var err error
		if claims, err = handoff.UnverifiedClaims(p.Token); err != nil {
			return &handoff.ConfigError{Field: "handoffweb.Passage.Token", Problem: "cannot be sent", Err: err}
		}
	}
	if err := showable(claims, p.Token); err != nil {
		return &handoff.ConfigError{Field: "handoffweb.Passage.Token", Problem: "cannot be sent", Err: err}
	}
	nonce := rand.Text()
	pages, err := template.New("").Parse(defaultPages)
	if err != nil {
		return fmt.Errorf("handoffweb: the page: %w", err)
	}
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, "send", sendPage{
		Style: template.CSS(defaultStyle), Nonce: nonce, Action: p.To + landingPath, Host: hostOf(p.To), Token: p.Token,
	}); err != nil {
		return fmt.Errorf("handoffweb: the page: %w", err)
	}
	h := w.Header()
	// Strict-origin, because no-referrer and same-origin make browsers send
	// "Origin: null", which the audience must refuse.
	h.Set("Referrer-Policy", "strict-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-"+nonce+"'; style-src "+hashOf(defaultStyle)+
		"; form-action "+p.To+"; frame-ancestors 'none'; base-uri 'none'")
	writePage(w, http.StatusOK, body.Bytes())
	return nil
}

const landingPath = "/handoff"

// maxCookie is how long a cookie's name and value can be together, in bytes, with
// the attributes that ours have: Chromium and Firefox drop a longer one without a
// word.
const maxCookie = 4078

// cookiePrefix begins the name of the cookie that holds a handoff; its id follows.
const cookiePrefix = "__Host-handoff-"

// showable refuses a token that cannot be held by a browser or shown to a person.
func showable(c handoff.Claims, raw string) error {
	switch {
	case c.CertificateSHA256 != "":
		return &handoff.Refusal{
			Reason: handoff.ReasonCertificateMismatch, Check: "verify.cnf",
			Detail: "the token is bound to a client certificate, which pages do not have",
		}
	case c.FieldsSHA256 != "":
		return &handoff.Refusal{
			Reason: handoff.ReasonRequestUnbindable, Check: "web.shown",
			Detail: "the request is so large that the token carries only a digest of it, which nobody can be shown",
		}
	case c.Kind() == handoff.KindVisit && len(VisitCookie)+len(raw) <= maxCookie:
		return nil
	case len(cookiePrefix)+len(c.ID)+len(raw) > maxCookie:
		return &handoff.Refusal{
			Reason: handoff.ReasonLimitExceeded, Check: "web.cookie",
			Detail: fmt.Sprintf("the token has %d bytes; a cookie holds %d", len(raw), maxCookie-len(cookiePrefix)-len(c.ID)),
		}
	}
	return nil
}
