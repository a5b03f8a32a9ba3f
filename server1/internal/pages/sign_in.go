package pages

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
)

// handoffID is the form of a handoff's id.
var handoffID = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

// orderID is the form of an order's id.
var orderID = regexp.MustCompile(`^INV-[0-9]{1,8}$`)

// wanted returns where somebody wants to go once signed in, as one of the pages that can
// be wanted. What a request says is only compared, so that it leads nowhere else.
func wanted(text string) string {
	if text == grantsPath {
		return grantsPath
	}
	if id, ok := strings.CutPrefix(text, ordersPath+"/"); ok && (handoffID.MatchString(id) || orderID.MatchString(id)) {
		return ordersPath + "/" + id
	}
	if text == visitPath {
		return visitPath
	}
	return ordersPath
}

// askToSignIn leads to the sign-in form, and from there back to a page that was asked for.
func (e *exchange) askToSignIn() error {
	to := ordersPath
	if e.r.Method != http.MethodPost {
		to = wanted(e.r.URL.Path)
	}
	if to == ordersPath {
		return e.goTo(signInPath)
	}
	return e.goTo(signInPath + "?" + url.Values{"to": {to}}.Encode())
}

// signInPage is what the sign-in form shows.
type signInPage struct {
	Title, User string
	Name, To    string
	Over        bool   // a session has ended
	Problem     string // why signing in failed
}

func (s *Site) signInForm(e *exchange) error {
	to := wanted(e.r.URL.Query().Get("to"))
	if e.signedIn() {
		return e.goTo(to)
	}
	if e.over {
		e.keep("")
	}
	return e.show(http.StatusOK, "sign-in", signInPage{Title: "Sign in", To: to, Over: e.over})
}

// signIn begins a new session, and ends the one that the browser had, if any.
func (s *Site) signIn(e *exchange) error {
	form, err := e.form("user_name", "password", "to")
	if err != nil {
		return err
	}
	to := wanted(form["to"])
	signedIn, err := s.config.Sessions.SignIn(e.ctx, &server1v1.SignInRequest{UserName: form["user_name"], Password: form["password"]})
	if isReason(err, handoff.ReasonSessionInvalid) || isReason(err, handoff.ReasonArgumentInvalid) {
		return e.show(http.StatusForbidden, "sign-in", signInPage{
			Title: "Sign in", Name: form["user_name"], To: to,
			Problem: "There is no user with this name and password.",
		})
	}
	if err != nil {
		return err
	}
	if e.signedIn() {
		if _, err := s.config.Sessions.SignOut(e.ctx, &server1v1.SignOutRequest{}); err != nil {
			s.config.Log.WarnContext(e.ctx, "the session before a sign-in could not be ended", "user", e.user().ID, "cause", err.Error())
		}
	}
	e.keep(signedIn.GetSession())
	return e.goTo(to)
}

// signOut ends the session, and takes back its handoffs.
func (s *Site) signOut(e *exchange) error {
	if _, err := e.form(); err != nil {
		return err
	}
	if _, err := s.config.Sessions.SignOut(e.ctx, &server1v1.SignOutRequest{}); err != nil {
		return err
	}
	e.keep("")
	return e.goTo(signedOutPath)
}

// signOutEverywhere ends all sessions of the user, and takes back all handoffs.
func (s *Site) signOutEverywhere(e *exchange) error {
	if _, err := e.form(); err != nil {
		return err
	}
	if _, err := s.config.Sessions.SignOutEverywhere(e.ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
		return err
	}
	e.keep("")
	return e.goTo(signedOutPath)
}

func (s *Site) signedOut(e *exchange) error {
	if e.signedIn() {
		return e.goTo(ordersPath)
	}
	return e.show(http.StatusOK, "message", message{
		Title: "You are signed out",
		Texts: []string{
			"What you had handed off and not yet confirmed has been taken back.",
			// Which of them an audience does, nobody tells SERVER1.
			"A service that follows this shop's list refuses it within seconds. Any other refuses it when its time is over, at most five minutes from now.",
		},
		To: signInPath, Link: "Sign in again",
	})
}
