package handoff

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/strictjson"
)

var tokenProfile = Profile{Typ: "handoff+jwt", MaxLength: 4096}

// TokenProfile returns the handoff token's kind of JWT: `typ` handoff+jwt, at
// most 4096 bytes.
func TokenProfile() Profile { return tokenProfile }

// Bounds of the token. A configuration can be stricter, never looser.
const (
	// DefaultLifetime is how long a token lives when its issuer is not told.
	DefaultLifetime = 60 * time.Second
	// MaxLifetime is the longest that a token can live.
	MaxLifetime = 300 * time.Second
	// DefaultSkew is how far the issuer's clock may run ahead.
	DefaultSkew = 5 * time.Second
	// MaxSkew is the largest skew that can be configured.
	MaxSkew = 60 * time.Second

	maxTime = 253402300799 // the last second of the year 9999
	maxName = 255          // bytes of an iss, aud, sub or method
)

// Claims are what a handoff token says: a closed schema, defined in SPEC.md.
type Claims struct {
	Issuer    string    // iss
	Audience  string    // aud
	Subject   string    // sub: the user's immutable id at the issuer
	IssuedAt  time.Time // iat, whole seconds
	Expires   time.Time // exp, whole seconds: from then on the token is refused
	NotBefore time.Time // nbf, whole seconds; zero when absent
	ID        string    // jti: 128 random bits in base64url
	Session   string    // sid: 128 random bits in base64url; empty when absent

	// The operation (authorization_details, RFC 9396): the full method name and
	// either the bound fields or, in their place, the digest of their canonical
	// form. Fields is sorted by path.
	Method       string
	Fields       []Field
	FieldsSHA256 string
}

// The checks of the payload. SPEC.md defines each.
const (
	CheckPayloadJSON    Check = "payload.json"
	CheckPayloadMembers Check = "payload.members"
	CheckClaimIss       Check = "claim.iss"
	CheckClaimAud       Check = "claim.aud"
	CheckClaimSub       Check = "claim.sub"
	CheckClaimIat       Check = "claim.iat"
	CheckClaimExp       Check = "claim.exp"
	CheckClaimNbf       Check = "claim.nbf"
	CheckClaimJti       Check = "claim.jti"
	CheckClaimSid       Check = "claim.sid"
	CheckClaimDetails   Check = "claim.authorization_details"
)

// claimError is what a claim's reading found; decodeClaims makes it a Refusal.
type claimError struct {
	check  Check
	detail string
}

func (e *claimError) Error() string { return e.detail }

// decodeClaims decodes a payload whose signature has verified. It checks each
// claim's form and how they agree with each other; what depends on the verifier
// (who, for whom, when) is the verifier's.
func decodeClaims(payload string) (*Claims, error) {
	var c Claims
	err := strictjson.Read(payload, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				c.Issuer, err = readText(r, CheckClaimIss, isName)
			case "aud":
				c.Audience, err = readText(r, CheckClaimAud, isName)
			case "sub":
				c.Subject, err = readText(r, CheckClaimSub, isName)
			case "iat":
				c.IssuedAt, err = readSeconds(r, CheckClaimIat)
			case "exp":
				c.Expires, err = readSeconds(r, CheckClaimExp)
			case "nbf":
				c.NotBefore, err = readSeconds(r, CheckClaimNbf)
			case "jti":
				c.ID, err = readText(r, CheckClaimJti, isRandom128)
			case "sid":
				c.Session, err = readText(r, CheckClaimSid, isRandom128)
			case "authorization_details":
				err = c.readDetails(r)
			default:
				err = &claimError{CheckPayloadMembers, "a claim that the profile does not have"}
			}
			return err
		})
	})
	if err == nil {
		err = c.complete()
	}
	if err == nil {
		return &c, nil
	}
	refusal := &Refusal{Reason: ReasonClaimsInvalid, Check: CheckPayloadJSON, Detail: "the payload is not strict JSON"}
	var claim *claimError
	if errors.As(err, &claim) {
		refusal.Check, refusal.Detail = claim.check, claim.detail
	} else if errors.Is(err, strictjson.ErrType) {
		refusal.Detail = "the payload is not an object"
	}
	return nil, refusal
}

// readSeconds reads a NumericDate (RFC 7519 section 2) in whole seconds.
func readSeconds(r *strictjson.Reader, check Check) (time.Time, error) {
	n, err := r.Integer()
	if err == nil && n > maxTime {
		err = strictjson.ErrRange
	}
	if err != nil {
		return time.Time{}, within(check, err)
	}
	return time.Unix(n, 0).UTC(), nil
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

// within places an error of the reader at a claim; bad syntax is the payload's.
func within(check Check, err error) error {
	if errors.Is(err, strictjson.ErrSyntax) {
		return err
	}
	return &claimError{check, err.Error()}
}

// readDetails reads authorization_details: an array of exactly one grpc_call.
func (c *Claims) readDetails(r *strictjson.Reader) error {
	const check = CheckClaimDetails
	var kind string
	var hasFields, hasDigest bool
	elements := 0
	err := r.Array(func(index int) error {
		if elements++; elements > 1 {
			return &claimError{check, "more than one element"}
		}
		return r.Object(func(name string) (err error) {
			switch name {
			case "type":
				kind, err = r.String()
			case "actions":
				err = r.Array(func(index int) (err error) {
					if index > 0 {
						return &claimError{check, "more than one action"}
					}
					c.Method, err = r.String()
					return err
				})
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
		})
	})
	switch {
	case err != nil:
		var claim *claimError
		if errors.As(err, &claim) {
			return err
		}
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

const detailsType = "grpc_call"

// readFields reads the member fields, and no further than its canonical form may
// be long: the digest of a longer one replaces it.
func (c *Claims) readFields(r *strictjson.Reader) error {
	size := len("{}") - len(",") // each member comes with a comma, but the first
	c.Fields = make([]Field, 0, 8)
	return r.Object(func(path string) error {
		if len(c.Fields) == maxInlineNumber {
			return &claimError{CheckClaimDetails, "more than 64 fields: fields_sha256 replaces them"}
		}
		value, err := r.String()
		if err != nil {
			return err
		}
		if size += canonicalSize(path) + len(":") + canonicalSize(value) + len(","); size > maxInlineFields {
			return &claimError{CheckClaimDetails, "fields has more than 1024 bytes: fields_sha256 replaces it"}
		}
		c.Fields = append(c.Fields, Field{Path: path, Value: value})
		return nil
	})
}

// complete checks that no required claim is missing and that the times agree.
func (c *Claims) complete() error {
	for _, required := range [...]struct {
		check   Check
		missing bool
	}{
		{CheckClaimIss, c.Issuer == ""},
		{CheckClaimAud, c.Audience == ""},
		{CheckClaimSub, c.Subject == ""},
		{CheckClaimIat, c.IssuedAt.IsZero()},
		{CheckClaimExp, c.Expires.IsZero()},
		{CheckClaimJti, c.ID == ""},
		{CheckClaimDetails, c.Method == ""},
	} {
		if required.missing {
			return &claimError{required.check, "missing"}
		}
	}
	switch {
	case !c.Expires.After(c.IssuedAt):
		return &claimError{CheckClaimExp, "not after iat"}
	case !c.NotBefore.IsZero() && !c.NotBefore.Before(c.Expires):
		return &claimError{CheckClaimNbf, "not before exp"}
	}
	return nil
}

// encode returns the payload. The claims are complete and in form.
func (c *Claims) encode() []byte {
	b := make([]byte, 0, 1024)
	member := func(name, value string) {
		b = append(b, ',', '"')
		b = append(b, name...)
		b = append(b, '"', ':')
		b, _ = jsontext.AppendQuote(b, value) // values are valid UTF-8: Operation.normal and isName see to it
	}
	number := func(name string, at time.Time) {
		b = append(b, ',', '"')
		b = append(b, name...)
		b = append(b, '"', ':')
		b = strconv.AppendInt(b, at.Unix(), 10)
	}
	member("iss", c.Issuer)
	b[0] = '{'
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

// isName reports whether s can be an iss, aud or sub: 1 to 255 visible ASCII
// characters other than the double quote and the backslash, so that it has one
// spelling in JSON, in logs and to the eye.
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// isRandom128 reports whether s is 128 bits in base64url.
func isRandom128(s string) bool { return len(s) == 22 && isBase64URL(s) }

// isMethod reports whether s is a full gRPC method name, "/package.Service/Method".
func isMethod(s string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(s, "/"), "/")
	return ok && len(s) <= maxName && s[0] == '/' && isDotted(service) && isDotted(method) && !strings.Contains(method, ".")
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

// checkName is isName for settings and parameters.
func checkName(what, s string) error {
	if !isName(s) {
		return fmt.Errorf("%s must be 1 to %d visible ASCII characters without space, quote or backslash", what, maxName)
	}
	return nil
}
