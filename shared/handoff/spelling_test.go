package handoff_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// spelled returns claims as issuers spell them.
func spelled() map[string]handoff.Claims {
	full := handoff.Claims{
		Issuer: shop, Audience: billing, Subject: "user-7", ID: strings.Repeat("A", 22), Session: strings.Repeat("Q", 22),
		IssuedAt: now.UTC(), NotBefore: now.UTC(), Expires: now.Add(time.Minute).UTC(), Method: "/billing.v1.Billing/Pay",
		Fields: []handoff.Field{{Path: "amount.currency_code", Value: "EUR"}, {Path: "amount.minor_units", Value: "1200"}, {Path: "ä", Value: "<&>é\u2028\U0001f600"}},
	}
	all := map[string]handoff.Claims{"full": full}
	with := func(name string, change func(*handoff.Claims)) {
		c := full
		change(&c)
		all[name] = c
	}
	with("no nbf", func(c *handoff.Claims) { c.NotBefore = time.Time{} })
	with("no session", func(c *handoff.Claims) { c.Session = "" })
	with("no fields", func(c *handoff.Claims) { c.Fields = []handoff.Field{} })
	with("a digest", func(c *handoff.Claims) { c.Fields, c.FieldsSHA256 = nil, strings.Repeat("A", 43) })
	with("64 fields", func(c *handoff.Claims) {
		c.Fields = nil
		for i := range 64 {
			c.Fields = append(c.Fields, handoff.Field{Path: fmt.Sprintf("f%02d", i), Value: "x"})
		}
	})
	with("1024 bytes", func(c *handoff.Claims) {
		c.Fields = []handoff.Field{{Path: "note", Value: strings.Repeat("x", 1024-len(`{"note":""}`))}}
	})
	visits := func(n int) func(*handoff.Claims) {
		return func(c *handoff.Claims) {
			c.Method, c.Fields = "", nil
			for i := range n {
				c.Methods = append(c.Methods, fmt.Sprintf("/billing.v1.Billing/M%d", i))
			}
		}
	}
	with("a visit", visits(1))
	with("a visit of 2 methods", visits(2))
	with("a visit of 32 methods", visits(32))
	return all
}

// What issuers spell is read without a parser, to the same claims.
func TestOwnSpelling(t *testing.T) {
	for name, claims := range spelled() {
		payload := claims.Encode()
		cut := handoff.CutClaims(claims.Kind(), payload)
		if cut == nil {
			t.Errorf("%s: it takes a parser: %s", name, payload)
			continue
		}
		parsed, err := handoff.ParseClaims(claims.Kind(), payload)
		if err != nil || !cmp.Equal(cut, parsed) || !cmp.Equal(*cut, claims) {
			t.Errorf("%s: cut out %+v, parsed %+v, %v", name, cut, parsed, err)
		}
	}
}

// cutAsParsed checks that what is read without a parser means what a parser reads.
func cutAsParsed(t *testing.T, payload string) {
	t.Helper()
	for _, kind := range []handoff.Kind{handoff.KindHandoff, handoff.KindVisit} {
		cut := handoff.CutClaims(kind, payload)
		if cut == nil {
			continue
		}
		if parsed, err := handoff.ParseClaims(kind, payload); err != nil || !cmp.Equal(cut, parsed) || cut.Kind() != kind {
			t.Errorf("%s: cut out %+v, parsed %+v, %v: %q", kind, cut, parsed, err, payload)
		}
	}
}

// near returns what comes near a payload of an issuer's own spelling.
func near(payload string) (all []string) {
	for at := range len(payload) + 1 {
		for _, more := range []string{`"`, `\`, `\u0041`, ` `, `,`, `:`, `{`, `}`, `0`, `-`, "\x00", "\xff", "\u2028", `","a":"`, `,"sid":"`, `,"nbf":1`, `"a":"b",`} {
			all = append(all, payload[:at]+more+payload[at:])
		}
		if at < len(payload) {
			all = append(all, payload[:at]+payload[at+1:], payload[:at]+payload[at:at+1]+payload[at:])
		}
	}
	return all
}

func TestNearOwnSpelling(t *testing.T) {
	for _, claims := range spelled() {
		if len(claims.Encode()) > 700 {
			continue // more of the same
		}
		for _, payload := range near(claims.Encode()) {
			cutAsParsed(t, payload)
		}
	}
	full := spelled()["full"]
	for name, change := range map[string]func(*handoff.Claims){
		"65 fields": func(c *handoff.Claims) {
			c.Fields = append(spelled()["64 fields"].Fields, handoff.Field{Path: "g", Value: "x"})
		},
		"1025 bytes":     func(c *handoff.Claims) { c.Fields = spelled()["1024 bytes"].Fields; c.Fields[0].Value += "x" },
		"twice":          func(c *handoff.Claims) { c.Fields = []handoff.Field{{Path: "a", Value: "1"}, {Path: "a", Value: "1"}} },
		"out of order":   func(c *handoff.Claims) { c.Fields = []handoff.Field{{Path: "b", Value: "1"}, {Path: "a", Value: "1"}} },
		"never began":    func(c *handoff.Claims) { c.Expires = c.IssuedAt },
		"no subject":     func(c *handoff.Claims) { c.Subject = "" },
		"a short id":     func(c *handoff.Claims) { c.ID = "AAAA" },
		"a short sid":    func(c *handoff.Claims) { c.Session = "AAAA" },
		"no method":      func(c *handoff.Claims) { c.Method = "Pay" },
		"a short digest": func(c *handoff.Claims) { c.FieldsSHA256 = "AAAA" },
		"in year 10000":  func(c *handoff.Claims) { c.Expires = time.Unix(253402300800, 0) },
		"33 methods": func(c *handoff.Claims) {
			*c = spelled()["a visit of 32 methods"]
			c.Methods = append(c.Methods, "/billing.v1.Billing/More")
		},
		"no methods":            func(c *handoff.Claims) { *c = spelled()["a visit"]; c.Methods = []string{} },
		"a method twice":        func(c *handoff.Claims) { *c = spelled()["a visit"]; c.Methods = append(c.Methods, c.Methods[0]) },
		"a short method":        func(c *handoff.Claims) { *c = spelled()["a visit"]; c.Methods = []string{"Pay"} },
		"a visit of no session": func(c *handoff.Claims) { *c = spelled()["a visit"]; c.Session = "" },
	} {
		c := full
		change(&c)
		for _, kind := range []handoff.Kind{handoff.KindHandoff, handoff.KindVisit} {
			if cut := handoff.CutClaims(kind, c.Encode()); cut != nil {
				t.Errorf("%s: cut out %+v", name, cut)
			}
		}
	}
	// Each kind's payload is no other's.
	for name, claims := range spelled() {
		other := handoff.KindVisit
		if claims.Kind() == other {
			other = handoff.KindHandoff
		}
		if cut := handoff.CutClaims(other, claims.Encode()); cut != nil {
			t.Errorf("%s: cut out as %s: %+v", name, other, cut)
		}
	}
}

// FuzzOwnSpelling holds what is read without a parser to what a parser reads.
func FuzzOwnSpelling(f *testing.F) {
	for _, claims := range spelled() {
		f.Add(claims.Encode())
	}
	f.Fuzz(cutAsParsed)
}
