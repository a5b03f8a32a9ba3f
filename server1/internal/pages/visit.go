package pages

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/handoff-auth/handoff/server1/internal/policy"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// openVisit issues a visit, as IssueVisit does over gRPC, and answers with the page that
// takes it to its audience's application.
func (s *Site) openVisit(e *exchange) error {
	form, err := e.form("audience")
	if err != nil {
		return err
	}
	to, ok := pageOf(s.visited(), form["audience"])
	if !ok {
		return errFormContent
	}
	issued, err := s.config.Handoffs.IssueVisit(e.ctx, &handoffv1.IssueVisitRequest{Audience: to.Audience})
	if err != nil {
		return err
	}
	return e.send(issued.GetToken(), to)
}

// renewPage is what the way back to an application shows.
type renewPage struct {
	Title, User string
	Nonce       string // of the script that goes on by itself; empty: there is a choice
	Visited     []destination
}

// renewVisit is where an application sends a user whose visit has ended. For those who
// come from the application, or have just signed in, the page goes on by itself: it posts
// the form that opens the application. Any site can link to this page, and a visit that
// only a link has asked for would be one that the user did not: there is a button.
func (s *Site) renewVisit(e *exchange) error {
	page := renewPage{Title: "Open again", User: e.user().Name, Visited: destinations(s.visited())}
	if len(page.Visited) == 1 && s.asked(e.r) {
		page.Nonce = rand.Text()
		e.w.Header().Set("Content-Security-Policy", strings.Replace(s.policy, "default-src 'none'", "default-src 'none'; script-src 'nonce-"+page.Nonce+"'", 1))
	}
	return e.show(http.StatusOK, "renew", page)
}

// asked reports whether a request for a page was made by a page of this site, or of an
// audience's where users open applications. Browsers say the former, and no page can
// name another's origin in Referer, only withhold its own.
func (s *Site) asked(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return true
	}
	from, err := url.Parse(r.Header.Get("Referer"))
	return err == nil && slices.ContainsFunc(s.visited(), func(a policy.Page) bool { return a.Web == from.Scheme+"://"+from.Host })
}
