package handoffweb

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

func notFrom(detail string) error {
	return &handoff.Refusal{Reason: handoff.ReasonArgumentInvalid, Check: "web.browser", Detail: detail}
}

// navigates demands that a person's browser asks for a page of its own: no fetch, no
// frame, no image. No script can set these headers (Fetch Metadata Request
// Headers); a browser that does not send them is let pass.
func (e *exchange) navigates() error {
	for header, want := range map[string]string{"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"} {
		if values := e.r.Header.Values(header); len(values) > 1 || len(values) == 1 && values[0] != want {
			return notFrom(header + " is not " + want)
		}
	}
	return nil
}

// comesFrom demands that the request was sent by a page of a configured issuer, and
// returns its origin. Without that, somebody could have their own handoff arrive in
// another person's browser.
func (e *exchange) comesFrom() (origin string, err error) {
	values := e.r.Header.Values("Origin")
	switch {
	case len(values) == 0:
		return "", notFrom("the header Origin is missing: the page that sent the form must not withhold it")
	case len(values) > 1:
		return "", notFrom("the header Origin is there twice")
	case values[0] == "null":
		return "", notFrom("the header Origin is null: the page that sent the form must have the header Referrer-Policy: strict-origin")
	case e.r.Header.Get("Sec-Fetch-Site") == "none":
		return "", notFrom("the header Sec-Fetch-Site is none: no page has sent the form")
	}
	for issuer, from := range e.config.From {
		if from.Origin == values[0] {
			e.issuer = issuer // for the way back; the token will say
			return from.Origin, nil
		}
	}
	return "", notFrom("the header Origin names no origin of a configured issuer")
}

// confirmsHere demands that the request was sent by a page of this very origin.
func (e *exchange) confirmsHere() error {
	if origins := e.r.Header.Values("Origin"); len(origins) > 1 || len(origins) == 1 && CheckOrigin(origins[0]) != nil {
		return notFrom("the header Origin is null, not of https, or there twice")
	}
	if e.r.Header.Get("Origin") == "" && e.r.Header.Get("Sec-Fetch-Site") == "" {
		return notFrom("the headers Origin and Sec-Fetch-Site are both missing")
	}
	if err := e.own.Check(e.r); err != nil {
		return notFrom("another origin has sent the form")
	}
	return nil
}

const (
	// maxForm is how long a form's body can be, in bytes.
	maxForm = 8 << 10
	// formTime is how long a form's body may take to come.
	formTime = 10 * time.Second
)

// form reads the urlencoded body. Each field must be one of those named, and be
// there once at most.
func (e *exchange) form(names ...string) (url.Values, error) {
	bad := func(detail string) (url.Values, error) {
		return nil, &handoff.Refusal{Reason: handoff.ReasonArgumentInvalid, Check: "web.form", Detail: detail}
	}
	if e.r.ContentLength > maxForm {
		e.w.Header().Set("Connection", "close")
		return bad("the form is too long")
	}
	// Not every connection has deadlines. The server has time limits of its own.
	control := http.NewResponseController(e.w)
	_ = control.SetReadDeadline(time.Now().Add(formTime))
	body, err := io.ReadAll(http.MaxBytesReader(e.w, e.r.Body, maxForm))
	if err != nil { // the deadline stays: the server would wait for the rest of the body
		return bad("the form is too long, or did not come")
	}
	_ = control.SetReadDeadline(time.Time{})
	if len(body) == 0 {
		return url.Values{}, nil
	}
	types := e.r.Header.Values("Content-Type")
	if len(types) != 1 {
		return bad("the form has not one type")
	}
	if kind, _, err := mime.ParseMediaType(types[0]); err != nil || kind != "application/x-www-form-urlencoded" {
		return bad("the form is not urlencoded")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return bad("the form is malformed")
	}
	for name, values := range form {
		if !slices.Contains(names, name) || len(values) != 1 {
			return bad("the form has a field too many")
		}
	}
	return form, nil
}
