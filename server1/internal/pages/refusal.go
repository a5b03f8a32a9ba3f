package pages

import (
	"errors"
	"net/http"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// What is asked for, and is not there or not done.
var (
	errNoPage  = errors.New("there is no such page")
	errMethod  = errors.New("the page does not have the method")
	errForeign = errors.New("the request comes from another site")
)

// message is a page that says something, and leads on.
type message struct {
	Title, User string
	Texts       []string
	To, Link    string // where it leads, and in what words
}

// refusal is how an error is told.
type refusal struct {
	status int
	retry  string // seconds, for Retry-After; empty: it would not help
	title  string
	text   string
}

// told lists what pages refuse, in the order in which an error is looked for.
var told = []struct {
	err error
	refusal
}{
	{errNoPage, refusal{http.StatusNotFound, "", "There is no such page", "It may have moved, or be another user's."}},
	{errMethod, refusal{http.StatusMethodNotAllowed, "", "This cannot be done here", "The page that you came from may be out of date."}},
	{errForeign, refusal{
		http.StatusForbidden, "", "This came from another site",
		"Nothing was done: only a page of this shop can do this for you. If you came from one, the Origin header did not arrive as your browser sent it.",
	}},
	{errFormType, refusal{http.StatusUnsupportedMediaType, "", "The form could not be read", "Nothing was done. Open the page again, and send the form from there."}},
	{errFormContent, refusal{http.StatusBadRequest, "", "The form could not be read", "Nothing was done. Open the page again, and send the form from there."}},
	{errFormSize, refusal{http.StatusRequestEntityTooLarge, "", "The form is too large", "Nothing was done. Open the page again, and send the form from there."}},
	{errFormSlow, refusal{http.StatusRequestTimeout, "", "The form took too long to arrive", "Nothing was done. Try again, with a better connection."}},
}

// byReason tells what the services refuse.
var byReason = map[handoff.Reason]refusal{
	handoff.ReasonPolicyDenied:      {http.StatusForbidden, "", "You may not do this", "Nothing was done: your account does not have the role that it takes."},
	handoff.ReasonLimitExceeded:     {http.StatusTooManyRequests, "60", "Too many attempts", "Nothing was done. Wait a minute, and try again."},
	handoff.ReasonIssuerUnavailable: {http.StatusServiceUnavailable, "5", "The shop is out of order", "It may not have been done. Try again in a moment."},
}

// refuse answers with the page of an error. Its cause goes to the log where something
// failed.
func (s *Site) refuse(e *exchange, err error) {
	if isReason(err, handoff.ReasonSessionInvalid) { // it has ended since the request began
		_ = e.askToSignIn()
		return
	}
	shown := explain(err)
	if shown.status >= http.StatusInternalServerError && !errors.Is(err, errPanic) {
		s.config.Log.ErrorContext(e.ctx, "a page could not be shown", "method", e.r.Method, "status", shown.status, "cause", err.Error())
	}
	if shown.retry != "" {
		e.w.Header().Set("Retry-After", shown.retry)
	}
	page := message{Title: shown.title, User: e.user().Name, Texts: []string{shown.text}, To: ordersPath, Link: "To your orders"}
	if page.User == "" {
		page.To, page.Link = signInPath, "To the sign-in page"
	}
	if err := e.show(shown.status, "message", page); err != nil {
		s.config.Log.ErrorContext(e.ctx, "a page could not be shown", "cause", err.Error())
		http.Error(e.w, shown.title, shown.status)
	}
}

func explain(err error) refusal {
	for _, known := range told {
		if errors.Is(err, known.err) {
			return known.refusal
		}
	}
	if refused, ok := errors.AsType[*handoff.Refusal](err); ok {
		if known, ok := byReason[refused.Reason]; ok {
			return known
		}
	}
	return refusal{http.StatusInternalServerError, "", "Something went wrong here", "The cause is in the shop's log. Try again; if it stays, tell the shop."}
}
