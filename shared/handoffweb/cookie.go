package handoffweb

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// A browser holds one cookie for each handoff: `__Host-handoff-` and its id, with the
// token, while it is open, and then `__Host-handoff-done-` and its id, with what became
// of it. The prefix `__Host-` keeps other hosts from setting them (RFC 6265bis section
// 4.1.3.2). An arrival sees neither: SameSite=Lax holds them back from a post that
// comes from another site.

const (
	// maxPending is how many handoffs a browser can have open: more cookies of that
	// size would not fit into a request's header.
	maxPending = 4
	// maxOutcomes is how many handoffs a browser remembers the end of.
	maxOutcomes = 4
	// outcomeLife is how long it does.
	outcomeLife = 10 * time.Minute
	// maxOutcomeText is how long each text of an outcome is at most, in bytes.
	maxOutcomeText = 400

	donePrefix = cookiePrefix + "done-"
)

// outcome is what became of a confirmed handoff.
type outcome struct {
	Issuer string `json:"iss"`
	State  state  `json:"state"`
	Title  string `json:"title"` // of the call
	Text   string `json:"text"`
}

// state says whether anything happened.
type state string

const (
	done    state = "done"    // the call was carried out
	nothing state = "nothing" // it was not
	unsure  state = "unsure"  // nobody here can tell
)

// held returns what the browser holds for a handoff: its token, or what became of it,
// which counts if it has both.
func (e *exchange) held() (raw string, ended *outcome, err error) {
	open, over := e.r.CookiesNamed(cookiePrefix+e.id), e.r.CookiesNamed(donePrefix+e.id)
	switch {
	case len(open) > 1 || len(over) > 1:
		return "", nil, &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: "web.cookie", Detail: "the browser has two cookies of this handoff"}
	case len(over) == 1:
		if ended = parseOutcome(over[0].Value); ended == nil {
			return "", nil, &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: "web.cookie", Detail: "the cookie is not one that was set here"}
		}
		return "", ended, nil
	case len(open) == 0:
		return "", nil, &handoff.Refusal{Reason: handoff.ReasonTokenMissing, Check: "web.cookie", Detail: "the browser has no cookie of this handoff"}
	}
	return open[0].Value, nil, nil
}

func parseOutcome(value string) *outcome {
	text, err := base64.RawURLEncoding.DecodeString(value)
	o := &outcome{}
	if err != nil || json.Unmarshal(text, o) != nil || o.State != done && o.State != nothing && o.State != unsure {
		return nil
	}
	return o
}

// keepToken has the browser hold the token until it expires.
func (e *exchange) keepToken(p *passage) {
	e.setCookie(cookiePrefix+p.claims.ID, p.raw, seconds(p.claims.Expires.Sub(e.config.Now())))
}

// crowded refuses a handoff beyond those that a browser can have open, and forgets it.
func (e *exchange) crowded() error {
	pending := 0
	for _, c := range e.r.Cookies() {
		if id, ok := strings.CutPrefix(c.Name, cookiePrefix); ok && isID(id) && id != e.id {
			pending++
		}
	}
	if pending < maxPending {
		return nil
	}
	e.setCookie(cookiePrefix+e.id, "", -1)
	return &handoff.Refusal{Reason: handoff.ReasonLimitExceeded, Check: "web.pending", Detail: "the browser has four other handoffs open"}
}

// keepOutcome has the browser hold, in the token's place, what became of it, and forget
// the oldest such outcomes.
func (e *exchange) keepOutcome(o outcome) {
	o.Title, o.Text = shorten(o.Title), shorten(o.Text)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // six bytes for each "<" would not fit into a cookie
	_ = encoder.Encode(o)        // strings only
	e.setCookie(donePrefix+e.id, base64.RawURLEncoding.EncodeToString(text.Bytes()), seconds(outcomeLife))
	e.setCookie(cookiePrefix+e.id, "", -1)
	var ended []string
	for _, c := range e.r.Cookies() {
		if strings.HasPrefix(c.Name, donePrefix) {
			ended = append(ended, c.Name)
		}
	}
	for len(ended) >= maxOutcomes { // browsers send the oldest first (RFC 6265 section 5.4)
		e.setCookie(ended[0], "", -1)
		ended = ended[1:]
	}
}

// setCookie sets a cookie for some seconds, or removes it.
func (e *exchange) setCookie(name, value string, life int) {
	http.SetCookie(e.w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: life, Secure: true, HttpOnly: true,
		// Strict would not come with the redirect that follows a post from elsewhere.
		SameSite: http.SameSiteLaxMode,
	})
}

// seconds rounds up to whole seconds, at least one.
func seconds(d time.Duration) int { return int(max(1, (d+time.Second-1)/time.Second)) }

func shorten(text string) string {
	if len(text) <= maxOutcomeText {
		return text
	}
	return strings.ToValidUTF8(text[:maxOutcomeText-len("…")], "") + "…"
}
