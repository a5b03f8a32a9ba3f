package handoff

import (
	"strconv"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/ident"
)

// cutClaims returns the claims of a payload that is spelled as Claims.encode spells
// it, and nil for every other, which may be good as well. It needs no parser: what it
// cuts out is checked as decodeClaims checks it and encoded again, and only a payload
// that this gives, byte for byte, can mean nothing else.
func cutClaims(kind Kind, payload string) *Claims {
	c := &Claims{}
	s := spelling{rest: payload}
	s.skip(`{"iss":"`)
	c.Issuer = s.text()
	s.skip(`,"aud":"`)
	c.Audience = s.text()
	s.skip(`,"sub":"`)
	c.Subject = s.text()
	s.skip(`,"iat":`)
	c.IssuedAt = s.seconds()
	if s.begins(`,"nbf":`) {
		c.NotBefore = s.seconds()
	}
	s.skip(`,"exp":`)
	c.Expires = s.seconds()
	s.skip(`,"jti":"`)
	c.ID = s.text()
	if s.begins(`,"sid":"`) {
		c.Session = s.text()
	}
	s.details(kind, c)
	s.skip(`}]}`)
	if s.other || s.rest != "" || !c.inForm(kind) || c.complete(kind) != nil {
		return nil
	}
	var room [2048]byte
	if string(c.append(room[:0])) != payload {
		return nil
	}
	return c
}

// inForm reports whether each claim that is there has its form.
func (c *Claims) inForm(kind Kind) bool {
	if !ident.Name(c.Issuer) || !ident.Name(c.Audience) || !ident.Name(c.Subject) || !ident.ID(c.ID) || c.Session != "" && !ident.ID(c.Session) {
		return false
	}
	if kind == KindVisit {
		return checkMethods(c.Methods) == nil
	}
	return isMethod(c.Method) && (c.FieldsSHA256 == "" || isThumbprint(c.FieldsSHA256))
}

// spelling is read from its beginning.
type spelling struct {
	rest  string
	other bool // it is not the one that was expected
}

func (s *spelling) begins(text string) (does bool) {
	s.rest, does = strings.CutPrefix(s.rest, text)
	return does
}

func (s *spelling) skip(text string) { s.other = !s.begins(text) || s.other }

// text returns a string to its closing quote. It may have escapes: encoded again it
// is another then.
func (s *spelling) text() string {
	text, rest, closed := strings.Cut(s.rest, `"`)
	s.rest, s.other = rest, s.other || !closed
	return text
}

// details reads the one element of authorization_details.
func (s *spelling) details(kind Kind, c *Claims) {
	s.skip(`,"authorization_details":[{"type":"`)
	if kind == KindVisit {
		s.skip(visitType + `","actions":[`)
		c.Methods = s.methods()
		return
	}
	s.skip(detailsType + `","actions":["`)
	c.Method = s.text()
	s.skip(`]`)
	if s.begins(`,"fields_sha256":"`) {
		c.FieldsSHA256 = s.text()
		return
	}
	s.skip(`,"fields":{`)
	c.Fields = s.fields()
}

// methods returns the elements of an array, and its end.
func (s *spelling) methods() []string {
	methods := make([]string, 0, 8)
	for more := true; more && !s.other; more = s.begins(`,`) {
		s.skip(`"`)
		methods = append(methods, s.text())
		s.other = s.other || len(methods) > maxMethods
	}
	s.skip(`]`)
	return methods
}

func (s *spelling) seconds() time.Time {
	end := 0
	for end < len(s.rest) && '0' <= s.rest[end] && s.rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(s.rest[:end], 10, 53)
	s.rest, s.other = s.rest[end:], s.other || err != nil || n > maxTime
	return time.Unix(int64(n), 0).UTC()
}

// fields returns the members of an object, in canonical order and within the bounds
// of readFields.
func (s *spelling) fields() []Field {
	before := len(s.rest)
	if s.begins(`}`) {
		return []Field{}
	}
	fields := make([]Field, 0, 8)
	for more := true; more && !s.other; more = s.begins(`,`) {
		s.skip(`"`)
		f := Field{Path: s.text()}
		s.skip(`:"`)
		f.Value = s.text()
		if n := len(fields); n == maxInlineNumber || n > 0 && compareFields(fields[n-1], f) >= 0 {
			s.other = true
		}
		fields = append(fields, f)
	}
	s.skip(`}`)
	s.other = s.other || before-len(s.rest)+len(`{`) > maxInlineFields
	return fields
}
