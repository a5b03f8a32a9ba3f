package handoffweb

import (
	"net/http"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// arrive takes a handoff from the issuer's page: it is verified, put into a cookie
// of its own and not redeemed. The browser goes on to its page. A visit comes the same
// way.
func (e *exchange) arrive() {
	e.step = "arrive"
	raw, origin, err := e.received()
	if err == nil && handoff.KindVisit.Of(raw) {
		e.receive(raw, origin)
		return
	}
	var p *passage
	if err == nil {
		p, err = e.read(raw)
	}
	if err == nil && e.config.From[p.claims.Issuer].Origin != origin {
		err = notFrom("the header Origin is not that of the token's issuer")
	}
	if err != nil {
		e.refuse(err)
		return
	}
	e.id = p.claims.ID
	e.keepToken(p)
	e.redirect()
}

// received reads the token that the form brings, and which of the issuers' origins has
// sent it.
func (e *exchange) received() (raw, origin string, err error) {
	if err := e.navigates(); err != nil {
		return "", "", err
	}
	if origin, err = e.comesFrom(); err != nil {
		return "", "", err
	}
	form, err := e.form("handoff")
	if err != nil {
		return "", "", err
	}
	if !form.Has("handoff") {
		return "", "", &handoff.Refusal{Reason: handoff.ReasonTokenMissing, Check: "web.form", Detail: "the form has no handoff"}
	}
	return form.Get("handoff"), origin, nil
}

// redirect sends the browser to the page of this handoff. The answer to a post never
// leads anywhere else: a browser can refuse to follow one that does, after the call
// has run.
func (e *exchange) redirect() { e.leadTo(landingPath + "/" + e.id) }

// leadTo sends the browser to a page of this origin.
func (e *exchange) leadTo(path string) {
	e.headers()
	e.w.Header().Set("Location", path)
	e.w.WriteHeader(http.StatusSeeOther)
	e.observe(http.StatusSeeOther, nil)
}
