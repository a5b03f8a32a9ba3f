package handoff

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/internal/ident"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// Bounds of the token. A configuration can be stricter, never looser.
const (
	// MaxLifetime is the longest that a token can live.
	MaxLifetime = 300 * time.Second
	// DefaultSkew is how far the issuer's clock may run ahead.
	DefaultSkew = 5 * time.Second
	// MaxSkew is the largest skew that can be configured.
	MaxSkew = 60 * time.Second

	maxTime = 253402300799 // the last second of the year 9999
)

// Claims are what a token says: a closed schema, defined in SPEC.md.
type Claims struct {
	Issuer    string    // iss
	Audience  string    // aud
	Subject   string    // sub: the user's immutable id at the issuer
	IssuedAt  time.Time // iat, whole seconds
	Expires   time.Time // exp, whole seconds: from then on the token is refused
	NotBefore time.Time // nbf, whole seconds; zero when absent
	ID        string    // jti: 128 random bits in base64url
	Session   string    // sid: 128 random bits in base64url; empty when absent
	// CertificateSHA256 is the member x5t#S256 of cnf (RFC 8705 section 3.1): the
	// SHA-256 in base64url of a client certificate, in DER. The token counts only on
	// connections with that. Empty when absent.
	CertificateSHA256 string
	Actor             string // act.sub (RFC 8693 section 4.1): the API client that acts for Subject; empty when absent

	// The operation (authorization_details, RFC 9396): the full method name and
	// either the bound fields or, in their place, the digest of their canonical
	// form. Fields is sorted by path. All are empty in a visit.
	Method       string
	Fields       []Field
	FieldsSHA256 string

	// Methods are the full names of the methods that a visit is for; nil in a
	// handoff. A visit names no values.
	Methods []string
}

// claimError is what a claim's reading found; decodeClaims makes it a Refusal.
type claimError struct {
	check  Check
	detail string
}

func (e *claimError) Error() string { return e.detail }

// decodeClaims decodes a payload whose signature has verified. It checks each
// claim's form and how they agree with each other; what depends on the verifier
// (who, for whom, when) is the verifier's.
func decodeClaims(kind Kind, payload string) (*Claims, error) {
	if c := cutClaims(kind, payload); c != nil {
		return c, nil
	}
	return parseClaims(kind, payload)
}

// parseClaims reads a payload in any spelling.
func parseClaims(kind Kind, payload string) (*Claims, error) {
	var c Claims
	err := strictjson.Read(payload, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				c.Issuer, err = readText(r, "claim.iss", ident.Name)
			case "aud":
				c.Audience, err = readText(r, "claim.aud", ident.Name)
			case "sub":
				c.Subject, err = readText(r, "claim.sub", ident.Name)
			case "iat":
				c.IssuedAt, err = readSeconds(r, "claim.iat")
			case "exp":
				c.Expires, err = readSeconds(r, "claim.exp")
			case "nbf":
				c.NotBefore, err = readSeconds(r, "claim.nbf")
			case "jti":
				c.ID, err = readText(r, "claim.jti", ident.ID)
			case "sid":
				c.Session, err = readText(r, "claim.sid", ident.ID)
			case "cnf":
				c.CertificateSHA256, err = readOnly(r, "claim.cnf", "x5t#S256", isThumbprint)
			case "act":
				c.Actor, err = readOnly(r, "claim.act", "sub", ident.Name)
			case "authorization_details":
				if kind == KindVisit {
					err = c.readVisit(r)
				} else {
					err = c.readDetails(r)
				}
			default:
				err = &claimError{"payload.members", "a claim that the profile does not have"}
			}
			return err
		})
	})
	if err == nil {
		err = c.complete(kind)
	}
	if err != nil {
		return nil, refusedPayload(err)
	}
	return &c, nil
}

// refusedPayload says which check an error of reading the payload failed.
func refusedPayload(err error) *Refusal {
	refusal := &Refusal{Reason: ReasonClaimsInvalid, Check: "payload.json", Detail: "the payload is not strict JSON"}
	if claim, ok := errors.AsType[*claimError](err); ok {
		refusal.Check, refusal.Detail = claim.check, claim.detail
	} else if errors.Is(err, strictjson.ErrType) {
		refusal.Detail = "the payload is not an object"
	}
	return refusal
}

func readSeconds(r *strictjson.Reader, check Check) (time.Time, error) {
	at, err := r.Time(time.Second)
	return at, within(check, err)
}

// readText reads a string of a form.
func readText(r *strictjson.Reader, check Check, valid func(string) bool) (string, error) {
	s, err := r.String()
	if err != nil {
		return "", within(check, err)
	}
	if !valid(s) {
		return "", &claimError{check, "outside its length or characters"}
	}
	return s, nil
}

// readOnly reads an object that has one member, a string of a form: cnf, whose only one
// confirms a certificate (RFC 7800 section 3.1), and act, which names no chain of actors.
func readOnly(r *strictjson.Reader, check Check, member string, valid func(string) bool) (s string, err error) {
	err = r.Object(func(name string) (err error) {
		if name != member {
			return &claimError{check, "a member that the profile does not have"}
		}
		s, err = readText(r, check, valid)
		return err
	})
	if err == nil && s == "" {
		err = &claimError{check, member + " is missing"}
	}
	return s, within(check, err)
}

// within places an error of the reader at a claim, unless it has its place; bad syntax is
// the payload's.
func within(check Check, err error) error {
	if err == nil || errors.As(err, new(*claimError)) || errors.Is(err, strictjson.ErrSyntax) {
		return err
	}
	return &claimError{check, err.Error()}
}

// readDetails reads authorization_details: an array of exactly one grpc_call.
func (c *Claims) readDetails(r *strictjson.Reader) error {
	const check = "claim.authorization_details"
	var kind string
	var hasFields, hasDigest bool
	elements := 0
	member := func(name string) (err error) {
		switch name {
		case "type":
			kind, err = r.String()
		case "actions":
			err = c.readAction(r, check)
		case "fields":
			hasFields = true
			err = c.readFields(r)
		case "fields_sha256":
			hasDigest = true
			c.FieldsSHA256, err = r.String()
		default:
			err = &claimError{check, "a member that the profile does not have"}
		}
		return err
	}
	err := r.Array(func(int) error {
		if elements++; elements > 1 {
			return &claimError{check, "more than one element"}
		}
		return r.Object(member)
	})
	switch {
	case err != nil:
		return within(check, err)
	case elements != 1:
		return &claimError{check, "not exactly one element"}
	case kind != detailsType:
		return &claimError{check, "type is not " + detailsType}
	case !isMethod(c.Method):
		return &claimError{check, "actions is not one full method name"}
	case hasFields == hasDigest:
		return &claimError{check, "not exactly one of fields and fields_sha256"}
	case hasDigest && !isThumbprint(c.FieldsSHA256):
		return &claimError{check, "fields_sha256 is not 32 bytes in base64url"}
	}
	slices.SortFunc(c.Fields, compareFields)
	return nil
}

// readAction reads actions, which names the one method.
func (c *Claims) readAction(r *strictjson.Reader, check Check) error {
	return r.Array(func(index int) (err error) {
		if index > 0 {
			return &claimError{check, "more than one action"}
		}
		c.Method, err = r.String()
		return err
	})
}

const detailsType = "grpc_call"

// readFields reads the member fields, and no further than its canonical form may
// be long: the digest of a longer one replaces it.
func (c *Claims) readFields(r *strictjson.Reader) error {
	size := len("{}") - len(",") // each member comes with a comma, but the first
	c.Fields = make([]Field, 0, 8)
	return r.Object(func(path string) error {
		if len(c.Fields) == maxInlineNumber {
			return &claimError{"claim.authorization_details", "more than 64 fields: fields_sha256 replaces them"}
		}
		value, err := r.String()
		if err != nil {
			return err
		}
		if size += canonicalSize(path) + len(":") + canonicalSize(value) + len(","); size > maxInlineFields {
			return &claimError{"claim.authorization_details", "fields has more than 1024 bytes: fields_sha256 replaces it"}
		}
		c.Fields = append(c.Fields, Field{Path: path, Value: value})
		return nil
	})
}

// complete checks that no required claim is missing and that the times agree.
func (c *Claims) complete(kind Kind) error {
	for _, required := range [...]struct {
		check   Check
		missing bool
	}{
		{"claim.iss", c.Issuer == ""},
		{"claim.aud", c.Audience == ""},
		{"claim.sub", c.Subject == ""},
		{"claim.iat", c.IssuedAt.IsZero()},
		{"claim.exp", c.Expires.IsZero()},
		{"claim.jti", c.ID == ""},
		{"claim.sid", c.Session == "" && kind == KindVisit},
		{"claim.authorization_details", c.Method == "" && c.Methods == nil},
	} {
		if required.missing {
			return &claimError{required.check, "missing"}
		}
	}
	switch {
	case !c.Expires.After(c.IssuedAt):
		return &claimError{"claim.exp", "not after iat"}
	case !c.NotBefore.IsZero() && !c.NotBefore.Before(c.Expires):
		return &claimError{"claim.nbf", "not before exp"}
	}
	return nil
}

// encode returns the payload. The claims are complete and in form.
func (c *Claims) encode() []byte { return c.append(make([]byte, 0, 1024)) }

// append appends what encode returns.
func (c *Claims) append(b []byte) []byte {
	begin := func(name string) {
		b = append(append(b, `,"`...), name...)
		b = append(b, `":`...)
	}
	member := func(name, value string) {
		begin(name)
		b, _ = jsontext.AppendQuote(b, value) // values are valid UTF-8: Operation.normal and package ident see to it
	}
	number := func(name string, at time.Time) {
		begin(name)
		b = strconv.AppendInt(b, at.Unix(), 10)
	}
	start := len(b)
	member("iss", c.Issuer)
	b[start] = '{'
	member("aud", c.Audience)
	member("sub", c.Subject)
	number("iat", c.IssuedAt)
	if !c.NotBefore.IsZero() {
		number("nbf", c.NotBefore)
	}
	number("exp", c.Expires)
	member("jti", c.ID)
	if c.Session != "" {
		member("sid", c.Session)
	}
	if c.CertificateSHA256 != "" {
		b = append(append(b, `,"cnf":{"x5t#S256":"`...), c.CertificateSHA256...)
		b = append(b, `"}`...)
	}
	if c.Actor != "" {
		b = append(b, `,"act":{"sub":`...)
		b, _ = jsontext.AppendQuote(b, c.Actor)
		b = append(b, '}')
	}
	if c.Methods != nil {
		return appendVisit(b, c.Methods)
	}
	b = append(b, `,"authorization_details":[{"type":"`+detailsType+`","actions":[`...)
	b, _ = jsontext.AppendQuote(b, c.Method)
	b = append(b, ']')
	if c.FieldsSHA256 != "" {
		member("fields_sha256", c.FieldsSHA256)
	} else {
		b = append(b, `,"fields":`...)
		b = appendCanonical(b, c.Fields)
	}
	return append(b, "}]}"...)
}

// isMethod reports whether s is a full gRPC method name, "/package.Service/Method".
func isMethod(s string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(s, "/"), "/")
	return ok && len(s) <= ident.MaxName && s[0] == '/' && isDotted(service) && isDotted(method) && !strings.Contains(method, ".")
}

// isDotted reports whether s is names of letters, digits and underscores between
// dots, of which none begins with a digit.
func isDotted(s string) bool {
	begins := true // a name
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' && !begins:
			begins = false
		case c == '.' && !begins:
			begins = true
		default:
			return false
		}
	}
	return !begins
}
