// Package policy says which roles may hand off which methods to which audience,
// and for how long at most.
//
//	p, err := policy.Load("policy.json", rule.Linked(), handoff.MaxLifetime)
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
//	      "methods": {
//	        "/billing.v1.Billing/Get": {"roles": ["payer", "reader"]},
//	        "/billing.v1.Billing/Pay": {"roles": ["payer"], "max_lifetime_seconds": 30}
//	      }
//	    }
//	  }
//	}
//
// `target` is where the audience listens, as a gRPC target. `roles` needs at
// least one. `max_lifetime_seconds` is optional, and at most what the issuer and
// the method's rule allow.
//
// # Invariants
//
// A policy that loads can be carried out: each method is one that the audience's
// descriptors have and that carries a rule. An unknown member, a name that occurs
// twice, or anything after the document is refused. A Policy never changes.
package policy

import (
	"errors"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/shared/rule"
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

// Policy is what users may hand off. It is immutable and safe for concurrent
// use.
type Policy struct {
	audiences map[string]audience
	methods   *rule.Set
}

type audience struct {
	target  string
	methods map[string]entry
}

type entry struct {
	method      *rule.Method
	roles       []string
	maxLifetime time.Duration
}

// Permission is what a user may hand off.
type Permission struct {
	// Method is the method at the audience.
	Method *rule.Method
	// Target is where the audience listens.
	Target string
	// MaxLifetime is the longest that a token for it may live, in whole seconds: the
	// least of what the policy, the method's rule and the issuer say.
	MaxLifetime time.Duration
}

// Find returns the permission of a user with these roles. Otherwise the error is
// one of those above.
func (p *Policy) Find(audience, method string, roles []string) (Permission, error) {
	to, ok := p.audiences[audience]
	if !ok {
		return Permission{}, ErrUnknownAudience
	}
	listed, ok := to.methods[method]
	if !ok {
		if known, err := p.methods.Method(method); err == nil {
			if _, ruled := known.Rule(); ruled {
				return Permission{}, ErrDenied
			}
		}
		return Permission{}, ErrUnknownMethod
	}
	if !slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(listed.roles, role) }) {
		return Permission{}, ErrDenied
	}
	return Permission{Method: listed.method, Target: to.target, MaxLifetime: listed.maxLifetime}, nil
}
