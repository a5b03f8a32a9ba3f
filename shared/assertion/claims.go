package assertion

import (
	"errors"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

var profile = handoff.Profile{Typ: "client-authentication+jwt", MaxLength: 2048}

// Profile returns the assertion's kind of JWT: `typ` client-authentication+jwt, at most 2048
// bytes.
func Profile() handoff.Profile { return profile }

// MaxLifetime is the longest that an assertion can live.
const MaxLifetime = 60 * time.Second

// Claims are what an assertion says: a closed schema, defined in section 8 of
// shared/handoff/SPEC.md.
type Claims struct {
	Client   string    // iss and sub, which are equal: the client's id
	Audience string    // aud: the issuer's own name
	IssuedAt time.Time // iat, whole seconds
	Expires  time.Time // exp, whole seconds: from then on the assertion is refused
	ID       string    // jti: 128 random bits in base64url, never used again
}

// encode returns the payload. The claims are in form.
func (c *Claims) encode() []byte {
	b := append(make([]byte, 0, 512), `{"iss":`...)
	b, _ = jsontext.AppendQuote(b, c.Client) // names are ASCII without quote and backslash
	b = append(b, `,"sub":`...)
	b, _ = jsontext.AppendQuote(b, c.Client)
	b = append(b, `,"aud":`...)
	b, _ = jsontext.AppendQuote(b, c.Audience)
	b = append(b, `,"iat":`...)
	b = strconv.AppendInt(b, c.IssuedAt.Unix(), 10)
	b = append(b, `,"exp":`...)
	b = strconv.AppendInt(b, c.Expires.Unix(), 10)
	b = append(b, `,"jti":"`...)
	b = append(b, c.ID...)
	return append(b, `"}`...)
}

// claimError is what a claim's reading found.
type claimError struct {
	check  handoff.Check
	detail string
}

func (e *claimError) Error() string { return e.detail }

// decode decodes a payload whose signature has verified.
func decode(payload string) (*Claims, error) {
	var c Claims
	var subject string
	err := strictjson.Read(payload, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "iss":
				c.Client, err = text(r, "claim.iss", ident.Name)
			case "sub":
				subject, err = text(r, "claim.sub", ident.Name)
			case "aud":
				c.Audience, err = text(r, "claim.aud", ident.Name)
			case "iat":
				c.IssuedAt, err = seconds(r, "claim.iat")
			case "exp":
				c.Expires, err = seconds(r, "claim.exp")
			case "jti":
				c.ID, err = text(r, "claim.jti", ident.ID)
			default:
				err = &claimError{"payload.members", "it has a claim that no assertion has"}
			}
			return err
		})
	})
	if err == nil {
		err = c.complete(subject)
	}
	if err == nil {
		return &c, nil
	}
	var claim *claimError
	if !errors.As(err, &claim) {
		claim = &claimError{"payload.json", "its payload is not a strict JSON object"}
	}
	return nil, refused(claim.check, claim.detail)
}

// complete checks that no claim is missing and that they agree with each other.
func (c *Claims) complete(subject string) error {
	for _, required := range [...]struct {
		check   handoff.Check
		missing bool
	}{
		{"claim.iss", c.Client == ""},
		{"claim.sub", subject == ""},
		{"claim.aud", c.Audience == ""},
		{"claim.iat", c.IssuedAt.IsZero()},
		{"claim.exp", c.Expires.IsZero()},
		{"claim.jti", c.ID == ""},
	} {
		if required.missing {
			return &claimError{required.check, "a claim is missing"}
		}
	}
	switch {
	case subject != c.Client:
		return &claimError{"claim.sub", "sub is not iss"}
	case !c.Expires.After(c.IssuedAt):
		return &claimError{"claim.exp", "exp is not after iat"}
	}
	return nil
}

func text(r *strictjson.Reader, check handoff.Check, valid func(string) bool) (string, error) {
	s, err := r.String()
	if err != nil {
		return "", within(check, err)
	}
	if !valid(s) {
		return "", &claimError{check, "a claim is outside its length or characters"}
	}
	return s, nil
}

func seconds(r *strictjson.Reader, check handoff.Check) (time.Time, error) {
	at, err := r.Time(time.Second)
	return at, within(check, err)
}

// within places an error of the reader at a claim; bad syntax is the payload's.
func within(check handoff.Check, err error) error {
	if err == nil || errors.Is(err, strictjson.ErrSyntax) {
		return err
	}
	return &claimError{check, err.Error()}
}
