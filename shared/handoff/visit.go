package handoff

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/strictjson"
)

// Kind is what a token is, by the `typ` of its header: neither can be taken for the
// other (RFC 8725 section 3.11).
type Kind string

// The kinds of tokens.
const (
	// KindHandoff names one operation: a method with the values of its request.
	KindHandoff Kind = "handoff+jwt"
	// KindVisit names methods and no values. A single-page application at the audience
	// calls them for as long as the visit lasts, which is until its session ends.
	KindVisit Kind = "handoff-visit+jwt"
)

// maxToken is the longest compact form of a token that is looked at, in bytes.
const maxToken = 4096

var (
	handoffProfile = Profile{Typ: "handoff+jwt", MaxLength: maxToken}
	visitProfile   = Profile{Typ: "handoff-visit+jwt", MaxLength: maxToken}

	onlyHandoffs = typs{handoffProfile.Typ}
	onlyVisits   = typs{visitProfile.Typ}
	anyKind      = typs{handoffProfile.Typ, visitProfile.Typ}
)

// Profile returns the kind of JWT that such a token is: of at most 4096 bytes.
func (k Kind) Profile() Profile {
	if k == KindVisit {
		return visitProfile
	}
	return handoffProfile
}

// MaxLifetime is the longest that a token of the kind can live: 300 s, and an hour
// of a visit.
func (k Kind) MaxLifetime() time.Duration {
	if k == KindVisit {
		return time.Hour
	}
	return MaxLifetime
}

// DefaultLifetime is how long one lives when its issuer is not told: 60 s, and 15
// minutes of a visit.
func (k Kind) DefaultLifetime() time.Duration {
	if k == KindVisit {
		return 15 * time.Minute
	}
	return time.Minute
}

// Of reports whether raw says of itself that it is of the kind. Nothing else of it is
// looked at, and nothing verified: it decides only what raw is to be verified as.
func (k Kind) Of(raw string) bool {
	if len(raw) > maxToken {
		return false
	}
	jws, err := split(raw)
	if err != nil {
		return false
	}
	_, err = typs{string(k)}.readHeader(jws)
	return err == nil
}

// maxMethods is how many methods a visit names at most.
const maxMethods = 32

// Kind returns what a token with these claims is.
func (c *Claims) Kind() Kind {
	if c.Methods != nil {
		return KindVisit
	}
	return KindHandoff
}

// visit signs a visit.
func (i *Issuer) visit(ctx context.Context, params IssueParams) (string, *Claims, error) {
	most := i.config.MaxVisitLifetime
	switch {
	case most == 0:
		return "", nil, &ConfigError{Field: "handoff.IssueParams.Methods", Problem: "make the token a visit, which this issuer does not issue: see IssuerConfig.MaxVisitLifetime"}
	case !params.Operation.isZero() || params.Seal != nil || params.Actor != "" || params.Certificate != nil:
		return "", nil, &ConfigError{
			Field:   "handoff.IssueParams.Methods",
			Problem: "exclude Operation, Seal, Actor and Certificate: a visit is the user's own, names no values, and is presented by a browser",
		}
	case params.Session == "":
		return "", nil, &ConfigError{Field: "handoff.IssueParams.Session", Problem: "is required of a visit, which ends with it"}
	}
	if err := checkMethods(params.Methods); err != nil {
		return "", nil, &ConfigError{Field: "handoff.IssueParams.Methods", Problem: err.Error()}
	}
	lifetime := cmp.Or(params.Lifetime, min(KindVisit.DefaultLifetime(), most))
	if err := checkLifetime("handoff.IssueParams.Lifetime", lifetime, most); err != nil {
		return "", nil, err
	}
	claims := i.claims(params, lifetime)
	claims.Methods = slices.Clone(params.Methods)
	raw, err := i.sign(ctx, KindVisit, claims)
	if err != nil {
		return "", nil, err
	}
	return raw, claims, nil
}

func checkMethods(methods []string) error {
	if len(methods) < 1 || len(methods) > maxMethods {
		return fmt.Errorf("must be 1 to %d methods", maxMethods)
	}
	for i, method := range methods {
		if !isMethod(method) {
			return errors.New("must be full method names such as /billing.v1.Billing/Get")
		}
		if slices.Contains(methods[:i], method) {
			return errors.New("has a method twice")
		}
	}
	return nil
}

const visitType = "grpc_visit"

// readVisit reads authorization_details of a visit: an array of exactly one
// grpc_visit.
func (c *Claims) readVisit(r *strictjson.Reader) error {
	const check = "claim.authorization_details"
	var kind string
	elements := 0
	err := r.Array(func(int) error {
		if elements++; elements > 1 {
			return &claimError{check, "more than one element"}
		}
		return r.Object(func(name string) (err error) {
			switch name {
			case "type":
				kind, err = r.String()
			case "actions":
				err = r.Array(func(index int) error {
					if index == maxMethods {
						return &claimError{check, "more than 32 actions"}
					}
					method, err := r.String()
					c.Methods = append(c.Methods, method)
					return err
				})
			default:
				err = &claimError{check, "a member that the profile does not have"}
			}
			return err
		})
	})
	switch {
	case err != nil:
		return within(check, err)
	case elements != 1:
		return &claimError{check, "not exactly one element"}
	case kind != visitType:
		return &claimError{check, "type is not " + visitType}
	case checkMethods(c.Methods) != nil:
		return &claimError{check, "actions is not 1 to 32 different full method names"}
	}
	return nil
}

// appendVisit appends authorization_details of a visit and the end of the payload.
func appendVisit(b []byte, methods []string) []byte {
	b = append(b, `,"authorization_details":[{"type":"`+visitType+`","actions":[`...)
	for i, method := range methods {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, method) // cannot fail: checkMethods has seen it
	}
	return append(b, "]}]}"...)
}

// VerifyVisit checks that raw is a visit, as Verify checks a handoff. It accepts one
// only of an issuer whose trust list this audience follows: nothing less could end it
// before it expires. A visit is never sealed.
func (v *Verifier) VerifyVisit(ctx context.Context, raw string) (*Verified, error) {
	return v.verify(ctx, raw, onlyVisits, nil)
}

// VerifyAny checks that raw is a handoff or a visit, as VerifyFrom and VerifyVisit do;
// certificate is as for VerifyFrom. Which kind a method takes is its rule's to say, in
// Redeem.
func (v *Verifier) VerifyAny(ctx context.Context, raw string, certificate *x509.Certificate) (*Verified, error) {
	return v.verify(ctx, raw, anyKind, certificate)
}

// For reports whether the token names the method.
func (v *Verified) For(method string) bool {
	return v.claims.Method == method || slices.Contains(v.claims.Methods, method)
}

// unlisted is standing for a token whose issuer takes nothing back.
func (c *Claims) unlisted() error {
	if c.Kind() != KindVisit {
		return nil
	}
	return &Refusal{
		Reason: ReasonTrustStale, Check: "verify.visit",
		Detail: "this audience follows no trust list of the issuer: nothing could end a visit",
	}
}

// visits checks that the visit names the method, whose rule takes visits.
func (c *Claims) visits(method string, rule Rule) error {
	if !rule.Visit || !rule.Reusable {
		return &Refusal{Reason: ReasonMethodMismatch, Check: "redeem.visit", Detail: "the method takes no visits"}
	}
	if !slices.Contains(c.Methods, method) {
		return &Refusal{Reason: ReasonMethodMismatch, Check: "operation.method", Detail: "the visit is not for this method"}
	}
	return nil
}
