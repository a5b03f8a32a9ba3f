package handoff

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Operation is one call on an audience: a method and the values of its request.
// package rule makes it from a real request; SPEC.md defines paths and values.
type Operation struct {
	// Method is the full method name with its leading slash, as grpc-go spells
	// it: "/billing.v1.Billing/Pay".
	Method string
	// Bound holds every populated field that the method's rule does not free. A
	// token must name each with the same value.
	Bound []Field
	// Free holds the populated fields that the rule frees. A token need not name
	// them; one that it does name must have the same value.
	Free []Field
	// MaxLifetime is the longest lifetime that the method's rule accepts; zero
	// where the rule sets none. The issuer keeps to it.
	MaxLifetime time.Duration
	// Actors says that the method's rule lets an API client act for a user. The issuer
	// keeps to it.
	Actors bool
	// Sealed says that the method's rule demands a sealed token. The issuer keeps to
	// it.
	Sealed bool
	// CertificateBound says that the method's rule demands a token that is bound to a
	// client certificate. The issuer keeps to it.
	CertificateBound bool
}

// isZero reports whether nothing is said of the operation.
func (op Operation) isZero() bool {
	return op.Method == "" && op.Bound == nil && op.Free == nil && op.MaxLifetime == 0 && !op.Actors && !op.Sealed && !op.CertificateBound
}

// Field is the value of one populated field of a request, as text.
type Field struct {
	// Path is where the field stands: "amount.minor_units", "lines[0].sku",
	// `labels["eu"]`.
	Path string
	// Value is the field's value: decimal digits, "true", a string as it is.
	Value string
}

// Rule is what a method demands of a token beyond the operation's equality.
type Rule struct {
	// Reusable allows a token more than one redemption before it expires.
	Reusable bool
	// MaxLifetime is the longest lifetime that is accepted, exp - iat. Zero: the
	// verifier's.
	MaxLifetime time.Duration
	// Sealed demands a token that only this audience could read on its way. It keeps its
	// issuer to its duty, and proves nothing of its holder: see package sealed.
	Sealed bool
	// CertificateBound demands a token that is bound to the client certificate of its
	// connection.
	CertificateBound bool
	// Actors allows a token of an API client that acts for a user.
	Actors bool
	// Visit allows a visit in place of a handoff. It counts only with Reusable.
	Visit bool
}

// What a token carries as it is: at most so many bytes of canonical form, and so
// many fields, which is what bounds the work of reading it. The SHA-256 of what is
// more replaces it.
const (
	maxInlineFields = 1024
	maxInlineNumber = 64
)

// normal returns op with its fields in canonical order, or says why op cannot be
// an operation. It copies only what is out of order.
func (op Operation) normal() (Operation, error) {
	if !isMethod(op.Method) {
		return op, errors.New("the method is not a full method name such as /billing.v1.Billing/Pay")
	}
	if op.MaxLifetime < 0 {
		return op, errors.New("the longest lifetime is negative")
	}
	for _, fields := range []*[]Field{&op.Bound, &op.Free} {
		if !slices.IsSortedFunc(*fields, compareFields) {
			*fields = slices.SortedFunc(slices.Values(*fields), compareFields)
		}
		for i, f := range *fields {
			if i > 0 && (*fields)[i-1].Path == f.Path {
				return op, fmt.Errorf("the field %q occurs twice", f.Path)
			}
			if f.Path == "" || !utf8.ValidString(f.Path) || !utf8.ValidString(f.Value) {
				return op, fmt.Errorf("the field %q is not text", f.Path)
			}
		}
	}
	return op, nil
}

// allows checks that the token names this operation: every value that it names
// is the request's, and every populated field that the rule does not free is
// named. op is in normal form.
func (c *Claims) allows(op Operation) error {
	if c.Method != op.Method {
		return &Refusal{Reason: ReasonMethodMismatch, Check: "operation.method", Detail: fmt.Sprintf("the token is for %s", c.Method)}
	}
	if c.FieldsSHA256 != "" {
		if c.FieldsSHA256 != digest(appendCanonical(nil, op.Bound)) {
			return &Refusal{Reason: ReasonFieldMismatch, Check: "operation.digest", Detail: "the request's fields have another digest than the token names"}
		}
		return nil
	}
	named := 0
	for _, f := range c.Fields {
		if i, ok := slices.BinarySearchFunc(op.Bound, f, compareFields); ok {
			if op.Bound[i].Value != f.Value {
				return mismatch("operation.value", f.Path, "has another value")
			}
			named++
		} else if i, ok := slices.BinarySearchFunc(op.Free, f, compareFields); !ok {
			return mismatch("operation.value", f.Path, "is not in the request")
		} else if op.Free[i].Value != f.Value {
			return mismatch("operation.value", f.Path, "has another value")
		}
	}
	if named == len(op.Bound) {
		return nil
	}
	for _, f := range op.Bound {
		if _, ok := slices.BinarySearchFunc(c.Fields, f, compareFields); !ok {
			return mismatch("operation.unnamed", f.Path, "is not named by the token")
		}
	}
	return mismatch("operation.unnamed", "", "is not named by the token")
}

// mismatch names the field in the log, though not all of a key of a map: that is
// the caller's, and as long as a request may be.
func mismatch(check Check, path, what string) error {
	if most := 128; len(path) > most {
		path = path[:most] + "…"
	}
	return &Refusal{Reason: ReasonFieldMismatch, Check: check, Detail: "the field " + strconv.Quote(path) + " " + what}
}

// digest returns the SHA-256 of a canonical form in base64url.
func digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return base64url.EncodeToString(sum[:])
}

// appendCanonical appends the RFC 8785 JSON of fields, which are in order.
func appendCanonical(b []byte, fields []Field) []byte {
	b = append(b, '{')
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, f.Path) // cannot fail: valid UTF-8
		b = append(b, ':')
		b, _ = jsontext.AppendQuote(b, f.Value)
	}
	return append(b, '}')
}

// canonicalSize is the length of what appendCanonical makes of a path or a value
// (RFC 8785 section 3.2.2.2).
func canonicalSize(s string) int {
	size := len(s) + len(`""`)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\' || c >= '\b' && c <= '\r' && c != '\v':
			size += len(`\`)
		case c < ' ':
			size += len(`u0000`)
		}
	}
	return size
}

// compareFields orders by path as RFC 8785 section 3.2.3 does: by UTF-16 code
// units. That is the order of the bytes, except that the surrogates of a
// character from U+10000 on sort before U+E000 to U+FFFF.
func compareFields(a, b Field) int {
	x, y := a.Path, b.Path
	n := min(len(x), len(y))
	for i := range n {
		if x[i] == y[i] {
			continue
		}
		if x[i] >= 0xee && y[i] >= 0xee && (x[i] >= 0xf0) != (y[i] >= 0xf0) {
			return strings.Compare(y[i:], x[i:])
		}
		return strings.Compare(x[i:], y[i:])
	}
	return len(x) - len(y)
}
