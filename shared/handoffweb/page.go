package handoffweb

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// defaultStyle is the one stylesheet, which stands in every page.
//
//go:embed page.css
var defaultStyle string

// defaultPages is the default templates.
//
//go:embed pages.html
var defaultPages string

// Pages is an adopter's own look.
type Pages struct {
	// Templates has the templates "confirm", "outcome" and "refused"; each is given a
	// Page. They run no script and load nothing: the pages' Content-Security-Policy
	// allows one stylesheet, {{.Style}}, and forms to this origin. The form of
	// "confirm" contains {{.Proof}}: NewLanding refuses templates without it.
	Templates *template.Template
	// Style is the stylesheet. Empty: the default one.
	Style string
}

// Page is what a template is given. Texts are for people, and show what would be
// invisible.
type Page struct {
	// Style goes between <style> and </style>, with nothing around it.
	Style template.CSS
	// Title is the heading.
	Title string
	// Sender is the host of SERVER1, and Back the address that leads there. Empty:
	// unknown.
	Sender, Back string

	// App is the path of the application here, where the browser holds a visit of it.
	// Link to it with rel="noreferrer": a script there has no business with the address
	// of this page.
	App string

	// Of "confirm": Rows are the adopter's details and may be none, Signed is every
	// field of the request. The form posts to Action the Inputs, under their paths, and
	// Proof, a hidden field that stands in the form as {{.Proof}}, with a button that says
	// Confirm. Left is how many seconds it can be confirmed.
	Rows, Signed             []Row
	Inputs                   []Field
	Proof                    template.HTML
	Action, Confirm, Subject string
	Until                    time.Time
	Left                     int
	Fault                    string // what has to be corrected; empty: nothing

	// Of "outcome" and "refused". State says whether anything happened: "done";
	// "nothing"; "unsure", if nobody here can tell; "lapsed", if nothing did unless it
	// was confirmed before. Text says more, and Detail what an operator has to mend.
	// Again is the address of the page that may work later; empty: none.
	State, Text, Detail, Again string
}

// sendPage is what SERVER1's page shows.
type sendPage struct {
	Style  template.CSS
	Nonce  string
	Action string // where the form goes
	Host   string // of the audience
	Token  string
}

// hashOf is a stylesheet's source in a Content-Security-Policy.
func hashOf(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// setPages takes the templates, and tries each.
func (l *Landing) setPages(own *Pages) (err error) {
	style := defaultStyle
	if own != nil && own.Templates != nil {
		l.pages = own.Templates
	} else if l.pages, err = template.New("").Parse(defaultPages); err != nil {
		return err
	}
	if own != nil && own.Style != "" {
		style = own.Style
	}
	l.style = template.CSS(style)
	l.csp = "default-src 'none'; style-src " + hashOf(style) + "; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
	confirm := Page{Style: l.style, Action: landingPath + "/" + handoff.NewID(), Proof: proofInput("")}
	full := confirm
	full.Rows, full.Signed, full.Fault = []Row{{}}, []Row{{}}, "A fault."
	full.Inputs = []Field{{Path: "memo"}}
	for _, try := range []struct {
		name string
		page Page
	}{{"confirm", confirm}, {"confirm", full}, {"outcome", Page{Style: l.style}}, {"refused", Page{Style: l.style}}} {
		if _, err := l.render(try.name, try.page); err != nil {
			return fmt.Errorf("the page %s: %w", try.name, err)
		}
	}
	return nil
}

// render writes a page. One whose form would be refused is an error.
func (l *Landing) render(name string, page Page) ([]byte, error) {
	var b bytes.Buffer
	if err := l.pages.ExecuteTemplate(&b, name, page); err != nil {
		return nil, err
	}
	if page.Proof != "" && !inForm(b.String(), page.Action, string(page.Proof)) {
		return nil, errors.New(`the form with method="post" and action="{{.Action}}" must contain {{.Proof}}, once: nothing is confirmed without it`)
	}
	return b.Bytes(), nil
}

// inForm reports whether a page has the field once, within a form that posts to action: in
// one that does not post, the field would be in an address.
func inForm(page, action, field string) bool {
	before, after, found := strings.Cut(page, field)
	form := strings.LastIndex(before, "<form")
	if !found || strings.Contains(after, field) || form <= strings.LastIndex(before, "</form") {
		return false
	}
	tag, _, _ := strings.Cut(before[form:], ">")
	return strings.Contains(tag, `action="`+action+`"`) && strings.Contains(strings.ToLower(tag), `method="post"`)
}

// proofField is the form's field that ties a confirmation to the page that showed the
// handoff. A request's own field has no hyphen in its name.
const proofField = "handoff-confirm"

// proofOf is what only this page can know of a token: no script can read the cookie
// that holds it, or the page. Without it, a script that runs elsewhere on the origin
// could post the same form.
func proofOf(raw string) string {
	sum := sha256.Sum256([]byte(proofField + raw))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func proofInput(raw string) template.HTML {
	return template.HTML(`<input type="hidden" name="` + proofField + `" value="` + proofOf(raw) + `">`)
}

// page begins a page: its heading, and the way back.
func (e *exchange) page(title string) Page {
	p := Page{Style: e.style, Title: title}
	if e.config.App != "" && len(e.r.CookiesNamed(VisitCookie)) > 0 {
		p.App = e.config.App
	}
	if from, ok := e.config.From[e.issuer]; ok {
		p.Sender, p.Back = hostOf(from.Origin), from.Return+e.id
	} else if e.issuer == "" && len(e.config.From) == 1 {
		for _, from := range e.config.From {
			p.Sender, p.Back = hostOf(from.Origin), from.Return+e.id
		}
	}
	return p
}

// headers sets what all answers have.
func (e *exchange) headers() {
	h := e.w.Header()
	h.Set("Content-Security-Policy", e.csp)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin") // no-referrer would make the confirmation's Origin null
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// write writes a page, and says so to the observer.
func (e *exchange) write(code int, name string, page Page, refusal *handoff.Refusal) {
	body, err := e.render(name, page)
	if err != nil { // it worked when it was tried
		code, body = http.StatusInternalServerError, []byte("<!doctype html><html lang=en><title>Error</title><p>The page cannot be shown.")
		refusal = &handoff.Refusal{Err: err}
	}
	e.headers()
	writePage(e.w, code, body)
	e.observe(code, refusal)
}

func (e *exchange) observe(code int, refusal *handoff.Refusal) {
	if e.config.Observe == nil {
		return
	}
	event := Event{Step: e.step, Status: code, Refusal: refusal}
	if e.claims != nil {
		event.Issuer, event.Subject, event.ID = e.claims.Issuer, e.claims.Subject, e.claims.ID
	}
	e.config.Observe(e.r.Context(), event)
}

// writePage writes a page and the headers that all have, SERVER1's too.
func writePage(w http.ResponseWriter, code int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a reader who has gone needs no page
}
