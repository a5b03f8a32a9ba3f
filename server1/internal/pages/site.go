package pages

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/grants"
	"github.com/handoff-auth/handoff/server1/internal/issue"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// Config says whose pages they are. Every field is required.
type Config struct {
	// Keeper and Sessions are the sessions, and Handoffs what a session can have
	// issued, as they are served over gRPC.
	Keeper   *session.Keeper
	Sessions *session.Service
	Handoffs *issue.Service
	// Grants are what clients may do for a user.
	Grants *grants.Service
	// Policy says where an order can be paid, and whose application a user can open. It is
	// asked for each page, as it changes.
	Policy *policy.Policy
	// DB knows which handoffs were issued.
	DB *database.DB
	// Log is told why a page could not be shown.
	Log *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Site is the pages: an http.Handler, safe for concurrent use.
type Site struct {
	config     Config
	templates  *template.Template
	policy     string // the Content-Security-Policy, of pages without a script
	orders     map[string][]order
	sameOrigin *http.CrossOriginProtection
}

//go:embed page.html page.css orders.json
var files embed.FS

// New returns the pages, or an error that names the field of config that is missing.
func New(config Config) (*Site, error) {
	for _, field := range []struct {
		name    string
		missing bool
	}{
		{"Keeper", config.Keeper == nil},
		{"Sessions", config.Sessions == nil},
		{"Handoffs", config.Handoffs == nil},
		{"Grants", config.Grants == nil},
		{"Policy", config.Policy == nil},
		{"DB", config.DB == nil},
		{"Log", config.Log == nil},
		{"Now", config.Now == nil},
	} {
		if field.missing {
			return nil, &handoff.ConfigError{Field: "pages.Config." + field.name, Problem: "is required"}
		}
	}
	s := &Site{config: config, sameOrigin: http.NewCrossOriginProtection()}
	var err error
	if s.templates, s.policy, err = parseTemplates(); err != nil {
		return nil, err
	}
	s.orders, err = readOrders()
	return s, err
}

// audiences are where an order can be paid.
func (s *Site) audiences() []policy.Page {
	return s.config.Policy.Pages(server2v1.InvoiceService_PayInvoice_FullMethodName)
}

// Open reports whether there are pages: whether an order can be paid anywhere.
func (s *Site) Open() bool { return len(s.audiences()) > 0 }

// visited are those whose application a user can open. There may be none.
func (s *Site) visited() []policy.Page { return s.config.Policy.VisitPages() }

// page answers a request. What it returns as an error is shown by Site.refuse.
type page func(*exchange) error

// route is what stands at a path. A nil page means that the method is not allowed.
type route struct {
	get, post page
	open      bool // for those who are not signed in as well
}

// page returns the page for the request's method.
func (r route) page(e *exchange) (show page, err error) {
	allowed := []string{}
	if r.get != nil {
		allowed = append(allowed, http.MethodGet, http.MethodHead)
	}
	if r.post != nil {
		allowed = append(allowed, http.MethodPost)
	}
	switch {
	case len(allowed) == 0:
		return nil, errNoPage
	case !slices.Contains(allowed, e.r.Method):
		e.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, errMethod
	case e.r.Method == http.MethodPost:
		return r.post, nil
	}
	return r.get, nil
}

// find returns what stands at a path, and the part of the path that names an order or a
// handoff. Paths are compared as they are: nothing is cleaned, and nobody is redirected
// to what they asked for.
func (s *Site) find(path string) (r route, name string) {
	switch path {
	case "/":
		return route{get: s.home}, ""
	case signInPath:
		return route{get: s.signInForm, post: s.signIn, open: true}, ""
	case "/sign-out":
		return route{post: s.signOut}, ""
	case "/sign-out-everywhere":
		return route{post: s.signOutEverywhere}, ""
	case signedOutPath:
		return route{get: s.signedOut, open: true}, ""
	case ordersPath, ordersPath + "/": // the latter is back from an audience that knows of no handoff
		return route{get: s.list}, ""
	case visitPath:
		if len(s.visited()) > 0 {
			return route{get: s.renewVisit, post: s.openVisit}, ""
		}
	case grantsPath:
		return route{get: s.grantsOf, post: s.grant}, ""
	}
	if name, ok := strings.CutPrefix(path, grantsPath+"/"); ok {
		if id, withdraws := strings.CutSuffix(name, "/withdraw"); withdraws && handoffID.MatchString(id) {
			return route{post: s.withdraw}, id
		}
		return route{}, ""
	}
	rest, ok := strings.CutPrefix(path, ordersPath+"/")
	if order, pays := strings.CutSuffix(rest, "/pay"); ok && pays {
		return route{post: s.pay}, order
	}
	if ok && handoffID.MatchString(rest) {
		return route{get: s.handedOff}, rest
	}
	if ok && orderID.MatchString(rest) {
		return route{get: s.one}, rest
	}
	return route{}, ""
}

// ServeHTTP answers with one of the pages.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", s.policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	ctx, cancel := context.WithTimeout(comingFrom(r), serving.CallTimeout)
	defer cancel()
	e := &exchange{site: s, w: w, r: r, ctx: ctx}
	if err := s.answer(e); err != nil {
		s.refuse(e, err)
	}
}

// answer finds the page that is asked for and who asks. A panic is an error like any
// other: pages are written once they are complete.
func (s *Site) answer(e *exchange) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			s.config.Log.ErrorContext(e.ctx, "recovered from a panic", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	unknown := e.recognise() // also for the page of a refusal, which says who is signed in
	at, name := s.find(e.r.URL.Path)
	e.name = name
	show, err := at.page(e)
	if err != nil {
		return err
	}
	if err := e.fromHere(); err != nil {
		return fmt.Errorf("%w: %w", errForeign, err)
	}
	switch {
	case at.open || e.signedIn():
		return show(e)
	case unknown != nil:
		return unknown
	}
	return e.askToSignIn()
}

// home leads to the orders.
func (s *Site) home(e *exchange) error { return e.goTo(ordersPath) }

// The pages' own paths, and all that a request can choose to be sent to.
const (
	ordersPath    = "/orders"
	grantsPath    = "/grants"
	signInPath    = "/sign-in"
	signedOutPath = "/signed-out"
	visitPath     = "/visit"
)

// errPanic is a page that panicked. Its cause has been logged.
var errPanic = errors.New("a page panicked")

func isReason(err error, reason handoff.Reason) bool {
	return err != nil && handoff.ReasonOf(err) == reason
}
