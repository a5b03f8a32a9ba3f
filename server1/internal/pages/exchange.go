package pages

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/grpc/peer"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// exchange is one request, and who makes it.
type exchange struct {
	site *Site
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context // with the session, where there is one, and the client's address
	name string          // the part of the path that names an order or a handoff
	over bool            // the browser has a session's cookie, and the session is over
}

// cookieName is the session's cookie. Browsers take a cookie with this prefix only from
// the host itself, over HTTPS, for all of its paths (RFC 6265bis section 4.1.3.2), so
// that no sibling host can plant one.
const cookieName = "__Host-session"

// comingFrom returns the context of a request with the client's address, as gRPC has it.
func comingFrom(r *http.Request) context.Context {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.Context()
	}
	return peer.NewContext(r.Context(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(address)})
}

// fromHere demands that a post was sent by a page of this origin. Where a browser says
// only its Origin, http.CrossOriginProtection compares the hosts: a page of this host
// over plain http, which anybody on the network can write, would pass. So would who says
// nothing.
func (e *exchange) fromHere() error {
	origin := e.r.Header.Get("Origin")
	switch {
	case e.r.Method != http.MethodPost:
		return nil
	case origin == "" && e.r.Header.Get("Sec-Fetch-Site") == "":
		return errors.New("the headers Origin and Sec-Fetch-Site are both missing")
	case e.r.TLS != nil && strings.HasPrefix(origin, "http://"):
		return errors.New("the header Origin is not of https")
	}
	return e.site.sameOrigin.Check(e.r)
}

// recognise finds the session of the request's one session cookie. That there is none is
// no error. With two, one of them may be somebody else's: they are worth as much as none.
func (e *exchange) recognise() error {
	cookies := e.r.CookiesNamed(cookieName)
	if len(cookies) == 0 {
		return nil
	}
	if len(cookies) > 1 {
		e.over = true
		return nil
	}
	ctx, err := e.site.config.Keeper.Admit(e.ctx, cookies[0].Value)
	switch {
	case isReason(err, handoff.ReasonSessionInvalid):
		e.over = true
		return nil
	case err != nil:
		return err
	}
	e.ctx = ctx
	return nil
}

func (e *exchange) signedIn() bool {
	_, ok := session.FromContext(e.ctx)
	return ok
}

// user is who is signed in.
func (e *exchange) user() database.User {
	current, _ := session.FromContext(e.ctx)
	return current.User
}

// keep has the browser keep a session's id until it is closed, or forget it, where id is
// empty.
func (e *exchange) keep(id string) {
	cookie := &http.Cookie{Name: cookieName, Value: id, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if id == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(e.w, cookie)
}

// goTo leads to one of the pages, by GET.
func (e *exchange) goTo(path string) error {
	e.w.Header().Set("Location", path)
	e.w.WriteHeader(http.StatusSeeOther)
	return nil
}
