package handoffweb

import (
	"cmp"
	"context"
	"errors"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

// LandingConfig says what a Landing receives, and how it shows it.
type LandingConfig struct {
	// Verifier verifies what is shown. Required.
	Verifier *handoff.Verifier
	// Server is a connection into the gRPC server that the guard stands in front of:
	// a confirmed call goes there with its token, as any other client's does.
	// Required.
	Server grpc.ClientConnInterface
	// From maps each issuer whose users come by browser to its web addresses. At
	// least one is required. The handoffs of all others are refused.
	From map[string]Origin
	// App is the path on this origin of the single-page application that a visit leads
	// to: "/app/". Empty: visits are refused, and what is below /visit does not exist.
	App string
	// Admit, if set, is asked for a turn before a token is verified, which keeps a
	// processor busy. It is handoffgrpc.Config.Admit, and should be the same: who
	// brings tokens by browser waits with those who bring them by gRPC.
	Admit func(context.Context) (done func(), err error)
	// Metadata is where the guard of Server reads tokens: its
	// handoffgrpc.Config.Metadata. Empty: authorization.
	Metadata string
	// Methods are those that can be called, with the rules by which Server's guard judges:
	// its handoffgrpc.Config.Rules. With other rules a page asks for values that the guard
	// refuses. Nil: what is linked, rule.Linked.
	Methods *rule.Set
	// Describe says in words what a call does and what became of it. Nil, or an
	// empty text in what it returns: the method's name and the fields of the request.
	Describe func(Call) Words
	// Pages replaces the default pages. See the type.
	Pages *Pages
	// Observe, if set, is told of each answer, for the log. See Event.
	Observe func(context.Context, Event)
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Origin is where the users of an issuer come from, and where they go back to.
type Origin struct {
	// Origin is the web origin of the pages that call Send, byte for byte as
	// browsers send it: https://shop.example.
	Origin string
	// Return is how the address begins that leads back; the handoff's id follows,
	// or nothing where none was recognised: https://shop.example/orders/.
	Return string
	// Visit is the address to which an application whose visit has ended sends the
	// person for another: https://shop.example/visit. The issuer answers a GET there
	// with a page that leads to Send. Empty: the application is told of none.
	Visit string
}

// Event is one answer of a Landing. It contains no token and no cookie.
type Event struct {
	// Step is "arrive", "show" or "confirm", and for an application "visit" or "end";
	// empty for a request that is none.
	Step string
	// Status is the answer's HTTP status.
	Status int
	// Issuer, Subject and ID are the token's iss, sub and jti once the issuer is
	// known to vouch for them; empty before.
	Issuer, Subject, ID string
	// Refusal is why the answer is a refusal; nil if it is none. Its Check, Detail
	// and Err are not for the reader of the page. Its Reason is 0 where no reason
	// tells what went wrong: a lost connection, or an address that does not exist.
	Refusal *handoff.Refusal
}

// Landing is SERVER2's side of a handoff by browser: an http.Handler for
// "/handoff" and what is below, and for "/visit" and what is below where there is an
// application. It never redeems. It is safe for concurrent use.
type Landing struct {
	config LandingConfig
	pages  *template.Template
	style  template.CSS
	csp    string
	own    *http.CrossOriginProtection // trusts nobody

	mu      sync.Mutex
	known   map[string]*rule.Method // by name
	flights map[string]*flight      // by issuer and token id
}

// NewLanding returns a landing. The error is a *handoff.ConfigError.
func NewLanding(config LandingConfig) (*Landing, error) {
	switch {
	case config.Verifier == nil:
		return nil, refused("Verifier", "is required")
	case config.Server == nil:
		return nil, refused("Server", "is required: the guard in front of it redeems, and nothing here does")
	case config.Metadata != "" && config.Metadata != "authorization" && config.Metadata != "handoff-token":
		return nil, refused("Metadata", `must be "authorization" or "handoff-token"`)
	}
	if err := checkFrom(config.From); err != nil {
		return nil, err
	}
	if err := checkApp(config.App); err != nil {
		return nil, refused("App", err.Error())
	}
	config.From = maps.Clone(config.From)
	config.Methods = cmp.Or(config.Methods, rule.Linked())
	if config.Now == nil {
		config.Now = time.Now
	}
	l := &Landing{config: config, own: http.NewCrossOriginProtection(), known: map[string]*rule.Method{}, flights: map[string]*flight{}}
	if err := l.setPages(config.Pages); err != nil {
		return nil, &handoff.ConfigError{Field: "handoffweb.LandingConfig.Pages", Problem: "cannot be shown", Err: err}
	}
	return l, nil
}

func refused(field, problem string) error {
	return &handoff.ConfigError{Field: "handoffweb.LandingConfig." + field, Problem: problem}
}

func checkFrom(from map[string]Origin) error {
	if len(from) == 0 {
		return refused("From", "is required: without an issuer nobody can arrive")
	}
	for _, issuer := range slices.Sorted(maps.Keys(from)) {
		if err := CheckOrigin(from[issuer].Origin); err != nil {
			return &handoff.ConfigError{Field: "handoffweb.Origin.Origin", Problem: err.Error()}
		}
		if err := checkReturn(from[issuer].Return); err != nil {
			return &handoff.ConfigError{Field: "handoffweb.Origin.Return", Problem: err.Error()}
		}
		if visit := from[issuer].Visit; visit != "" {
			if err := checkReturn(visit); err != nil {
				return &handoff.ConfigError{Field: "handoffweb.Origin.Visit", Problem: err.Error()}
			}
		}
	}
	return nil
}

// checkReturn accepts the beginning of an absolute address, to which an id is
// added.
func checkReturn(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Host == "" || strings.ContainsAny(address, " \t\r\n\\\"'<>`") {
		return errors.New("must be the beginning of an address, such as https://shop.example/orders/")
	}
	origin := u.Scheme + "://" + u.Host
	if err := CheckOrigin(origin); err != nil {
		return err
	}
	if len(address) == len(origin) {
		return errors.New("must have a path: the handoff's id is put behind it")
	}
	return nil
}

// ServeHTTP answers the requests of the routes, and refuses all others.
func (l *Landing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := &exchange{Landing: l, w: w, r: r}
	id, below := strings.CutPrefix(r.URL.Path, landingPath+"/")
	switch {
	case r.URL.Path == landingPath:
		e.route(map[string]func(){http.MethodPost: e.arrive})
	case r.URL.Path == visitPath && l.config.App != "":
		e.route(map[string]func(){http.MethodGet: e.visitor, http.MethodHead: e.visitor})
	case r.URL.Path == visitPath+"/end" && l.config.App != "":
		e.route(map[string]func(){http.MethodPost: e.end})
	case below && isID(id):
		e.id = id
		e.route(map[string]func(){http.MethodGet: e.show, http.MethodHead: e.show, http.MethodPost: e.confirm})
	default:
		e.fail(http.StatusNotFound)
	}
}

// isID reports whether s has the form of a token's id: 128 bits in base64url.
func isID(s string) bool {
	return len(s) == 22 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
