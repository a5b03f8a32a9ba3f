// Package policy says which roles may hand off which methods to which audience,
// and for how long at most.
//
//	p, err := policy.Load("policy.json", rule.Linked(), policy.Limits{Handoff: handoff.MaxLifetime})
//	permission, err := p.Find("https://billing.example", "/billing.v1.Billing/Pay", user.Roles)
//
// # The file
//
// One strict JSON object. What it does not list is not allowed:
//
//	{
//	  "audiences": {
//	    "https://billing.example": {
//	      "target": "dns:///billing.example:443",
//	      "web": "https://billing.example",
//	      "methods": {
//	        "/billing.v1.Billing/Get": {"roles": ["payer", "reader"]},
//	        "/billing.v1.Billing/Pay": {"roles": ["payer"], "max_lifetime_seconds": 30}
//	      },
//	      "visits": {
//	        "roles": ["payer"],
//	        "methods": ["/billing.v1.Billing/Get", "/billing.v1.Billing/Export"],
//	        "max_lifetime_seconds": 900
//	      }
//	    }
//	  }
//	}
//
// `target` is where the audience listens, as a gRPC target. `web` is optional: the
// https origin of its pages, to which a browser can be redirected. `seal` is optional:
// the JWK Set that `handoff public` makes of the audience's key for sealed tokens, of
// one key, or of two while it changes. All tokens for the audience are then sealed to
// the first; without it, a method whose rule takes only sealed ones cannot be listed. `roles` needs at
// least one. `max_lifetime_seconds` is optional, and at most what the issuer and
// the method's rule allow. `certificate_bound` is optional: true issues tokens for the
// method only to clients with a TLS certificate, and binds them to it.
// `visits` is optional: who may visit an application of the
// audience's, which 1 to 32 methods it may call then, whose rules must say visit, and
// for how long. Visits are not sealed, as they name no values.
//
// # Invariants
//
// A policy that loads can be carried out: each method is one that the audience's
// descriptors have and that carries a rule, and clients are asked for certificates where
// it binds tokens to them. An unknown member, a name that occurs twice, or anything after
// the document is refused. The file is followed: a policy that does not load replaces
// nothing.
package policy

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// What Find answers when it does not permit.
var (
	// ErrUnknownAudience means that the policy has no such audience.
	ErrUnknownAudience = errors.New("the policy does not have the audience")
	// ErrUnknownMethod means that no token can be issued for such a method.
	ErrUnknownMethod = errors.New("no method of this name carries a rule")
	// ErrDenied means that none of the roles may hand the method off.
	ErrDenied = errors.New("the policy does not list the method for any of the roles")
)

// Policy is what users may hand off, as its file says it at the moment. It is safe
// for concurrent use.
type Policy struct {
	// Observe, if not nil, is told of each change of the file, once: nil when what it
	// says now is in force, or why the last good policy stays. Set it before the policy
	// is used. It must not block.
	Observe func(error)

	file *vetted.Followed[*document]
}

// Look reads the file now, even if it has been read within the second.
func (p *Policy) Look() { p.file.Look() }

// Methods returns the full names of the methods that can be handed off, to any audience.
func (p *Policy) Methods() (names []string) {
	for _, to := range p.file.Get().audiences {
		names = slices.AppendSeq(names, maps.Keys(to.methods))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// document is what a file says. It is immutable.
type document struct {
	audiences map[string]audience
	methods   *rule.Set
}

type audience struct {
	target  string
	web     string // empty: it has no pages
	seal    sealed.Key
	methods map[string]entry
	visits  visits
}

// visits says who may visit an audience; the zero value: nobody.
type visits struct {
	methods     []string
	roles       []string
	maxLifetime time.Duration
}

// Limits are what the issuer can do: the longest lifetimes that it grants, in whole
// seconds, and whether it can bind tokens.
type Limits struct {
	Handoff time.Duration
	Visit   time.Duration // zero: it issues no visits
	// Certificates says that clients are asked for certificates. Unless they are, a
	// policy that has tokens bound to one is refused with ErrNoCertificates.
	Certificates bool
}

// ErrNoCertificates means that a policy demands what no client can do.
var ErrNoCertificates = errors.New("clients are not asked for one")

type entry struct {
	method      *rule.Method
	roles       []string
	maxLifetime time.Duration
	bound       bool // to the client's certificate
}

// Permission is what a user may hand off.
type Permission struct {
	// Method is the method at the audience.
	Method *rule.Method
	// Target is where the audience listens.
	Target string
	// Seal is the key to which tokens are sealed; the zero Key: they are not.
	Seal sealed.Key
	// MaxLifetime is the longest that a token for it may live, in whole seconds: the
	// least of what the policy, the method's rule and the issuer say.
	MaxLifetime time.Duration
	// CertificateBound says that a token for it must be bound to its client's
	// certificate: the policy or the method's rule demands it.
	CertificateBound bool
}

// certificateBound returns a method for which the policy or its rule demands tokens
// that are bound to a client's certificate, or nothing where there is none.
func (d *document) certificateBound() (method string) {
	for _, to := range d.audiences {
		for name, listed := range to.methods {
			if listed.bound && (method == "" || name < method) {
				method = name
			}
		}
	}
	return method
}

// Find returns the permission of a user with these roles. Otherwise the error is
// one of those above.
func (p *Policy) Find(audience, method string, roles []string) (Permission, error) {
	return p.file.Get().find(audience, method, roles)
}

func (d *document) find(audience, method string, roles []string) (Permission, error) {
	to, ok := d.audiences[audience]
	if !ok {
		return Permission{}, ErrUnknownAudience
	}
	listed, ok := to.methods[method]
	if !ok {
		if known, err := d.methods.Method(method); err == nil {
			if _, ruled := known.Rule(); ruled {
				return Permission{}, ErrDenied
			}
		}
		return Permission{}, ErrUnknownMethod
	}
	if !slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(listed.roles, role) }) {
		return Permission{}, ErrDenied
	}
	return Permission{Method: listed.method, Target: to.target, Seal: to.seal, MaxLifetime: listed.maxLifetime, CertificateBound: listed.bound}, nil
}

// Visit is how a user may visit an audience.
type Visit struct {
	// Methods are those that may be called.
	Methods []string
	// Target is where the audience listens.
	Target string
	// MaxLifetime is the longest that a visit may last, in whole seconds.
	MaxLifetime time.Duration
}

// FindVisit returns how a user with these roles may visit an audience, to call these
// methods or, where there are none, all that the policy lists. Otherwise the error is
// one of those above; an audience that takes no visits is an unknown one.
func (p *Policy) FindVisit(audience string, methods, roles []string) (Visit, error) {
	return p.file.Get().findVisit(audience, methods, roles)
}

func (d *document) findVisit(audience string, methods, roles []string) (Visit, error) {
	to := d.audiences[audience]
	if len(to.visits.methods) == 0 {
		return Visit{}, ErrUnknownAudience
	}
	for _, method := range methods {
		if !slices.Contains(to.visits.methods, method) {
			return Visit{}, ErrUnknownMethod
		}
	}
	if !slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(to.visits.roles, role) }) {
		return Visit{}, ErrDenied
	}
	if len(methods) == 0 {
		methods = to.visits.methods
	}
	return Visit{Methods: slices.Clone(methods), Target: to.target, MaxLifetime: to.visits.maxLifetime}, nil
}

// Page is where an audience's pages are.
type Page struct {
	// Audience is the audience's name.
	Audience string
	// Web is the https origin of its pages.
	Web string
}

// Pages returns the pages of the audiences that somebody may hand the method off to,
// by the audiences' names. What is bound to a client's certificate cannot go through
// a page.
func (p *Policy) Pages(method string) []Page { return p.file.Get().pages(method) }

func (d *document) pages(method string) []Page {
	return d.pagesOf(func(a audience) bool { listed, ok := a.methods[method]; return ok && !listed.bound })
}

// VisitPages returns the pages of the audiences that somebody may visit, by the
// audiences' names.
func (p *Policy) VisitPages() []Page {
	return p.file.Get().pagesOf(func(a audience) bool { return len(a.visits.methods) > 0 })
}

func (d *document) pagesOf(of func(audience) bool) []Page {
	var pages []Page
	for name, to := range d.audiences {
		if of(to) && to.web != "" {
			pages = append(pages, Page{Audience: name, Web: to.web})
		}
	}
	slices.SortFunc(pages, func(a, b Page) int { return strings.Compare(a.Audience, b.Audience) })
	return pages
}
