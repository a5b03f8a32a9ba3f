package main

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/measure"
)

func TestInspect(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	jwt := func(header, payload string) string { return b.good.Text(header, payload) }
	const notVerified = "NOT VERIFIED: anybody can have written this."
	for name, c := range map[string]struct {
		raw    string
		args   []string
		want   []string // lines
		status int
	}{
		"good":            {raw: b.good.Compact(), want: []string{"As a handoff token nothing is wrong with it, as far as one can tell without the key. It expires in 1m0s."}},
		"of another key":  {raw: b.good.WithHeader("kid", forge.Quote(strings.Repeat("A", 43))).Compact(), want: []string{"As a handoff token nothing is wrong with it, as far as one can tell without the key. It expires in 1m0s."}},
		"of an actor":     {raw: b.good.WithClaim("act", `{"sub":"robot"}`).Compact(), want: []string{"As a handoff token nothing is wrong with it, as far as one can tell without the key. It expires in 1m0s."}},
		"expired":         {raw: b.good.Compact(), args: []string{"--at", "2026-01-01T00:06:00Z"}, want: []string{"  verify.exp: expired 5m0s ago"}},
		"not yet valid":   {raw: b.good.Compact(), args: []string{"--at", "2025-12-31T23:00:00Z"}, want: []string{"  verify.iat: the token is issued 1h0m0s from now"}},
		"a claim missing": {raw: b.good.WithoutClaim("jti").WithoutClaim("aud").Compact(), want: []string{"  claim.aud: aud is missing", "  claim.jti: jti is missing"}},
		"claims too much": {raw: b.good.WithClaim("scope", `"x"`).WithClaim("azp", "1").Compact(), want: []string{`  payload.members: "azp" is too much`, `  payload.members: "scope" is too much`}},
		"header too much": {
			raw:  b.good.WithHeader("jku", `"https://evil.example"`).WithHeader("crit", "[]").Compact(),
			want: []string{`  header.members: "crit" is too much`, `  header.members: "jku" is too much`},
		},
		"lifetime": {raw: b.good.WithClaim("exp", "1767229200").Compact(), want: []string{"  verify.lifetime: the token lives 1h0m0s; this audience accepts 5m0s"}},
		"all at once": {
			raw:  jwt(`{"alg":"RS256","kid":"1"}`, `{"iss":"https://idp.example","sub":"x","aud":["a","b"],"exp":1767225000,"iat":1767224400}`),
			want: []string{"  header.members: typ is missing", "  header.typ: typ is not this kind of token's", "  claim.jti: jti is missing", "  claim.authorization_details: authorization_details is missing", "  verify.exp: expired 10m0s ago"},
		},
		"duplicates":         {raw: jwt(b.good.Header.Add("alg", `"none"`).String(), b.good.Payload.String()), want: []string{"  header.json: the header is not strict JSON"}},
		"payload no JSON":    {raw: jwt(b.good.Header.String(), "hello"), want: []string{"payload: not a JSON object in base64url"}},
		"no JSON":            {raw: "a.b.c", want: []string{"It does not look like a JWT: its first part is not a JSON object in base64url."}, status: exitRefused},
		"two parts":          {raw: "a.b", want: []string{"It does not look like a JWT: it does not have three parts with dots between them."}, status: exitRefused},
		"encrypted":          {raw: "a.b.c.d.e", want: []string{"It has five parts: an encrypted JWT (JWE, RFC 7516), which only its audience can read."}, status: exitRefused},
		"without signature":  {raw: strings.Join(strings.Split(b.good.Compact(), ".")[:2], ".") + ".", want: []string{"  token.parts: not three non-empty parts"}},
		"control characters": {raw: jwt(`{"alg":"\u001b[2J"}`, "{\"sub\":\"\u009b31m\u202e\"}"), want: []string{`  "alg": "\u001b[2J"`, `  "sub": "\u009b31m\u202e"`}},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errOut := invoke(t, c.raw+"\n", append([]string{"inspect"}, c.args...)...)
			if status != c.status || errOut != "" {
				t.Errorf("status %d, %s", status, errOut)
			}
			lines := strings.Split(out, "\n")
			if lines[0] != notVerified {
				t.Errorf("the first line is %q", lines[0])
			}
			for _, want := range c.want {
				if !slices.Contains(lines, want) {
					t.Errorf("no line %q in\n%s", want, out)
				}
			}
		})
	}
}

// With any input, inspect warns first, prints nothing that a terminal would
// obey, and names the check that refuses it.
func TestInspectAttacks(t *testing.T) {
	b := newBench(t, handoff.ES256)
	for _, hostile := range forge.Attacks() {
		if hostile.Algorithm != "" && hostile.Algorithm != handoff.ES256 {
			continue
		}
		raw := hostile.Forge(b.good)
		if len(raw) > measure.Of(64<<10, 1<<20, 1<<20) {
			continue // it is shown in full, which takes long
		}
		status, out, errOut := invoke(t, raw+"\n", "inspect")
		if status == exitUsage {
			if raw != "" || errOut == "" {
				t.Errorf("%s %s: %s", hostile.ID, hostile.Name, errOut)
			}
			continue
		}
		if !strings.HasPrefix(out, "NOT VERIFIED") {
			t.Errorf("%s %s: no warning", hostile.ID, hostile.Name)
		}
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s %s: prints %q", hostile.ID, hostile.Name, out[i:i+1])
		}
		switch hostile.Check {
		case "key.unknown", "key.alg", "signature", "verify.iss", "verify.aud":
			continue // needs the key, or the verifier's own name
		case "verify.cnf": // needs the connection
			if !strings.Contains(out, "bound to a client certificate") {
				t.Errorf("%s %s: does not say that it is bound:\n%s", hostile.ID, hostile.Name, out)
			}
			continue
		}
		if status == exitDone && !strings.Contains(out, string(hostile.Check)+": ") {
			t.Errorf("%s %s: does not name %s:\n%s", hostile.ID, hostile.Name, hostile.Check, out)
		}
	}
}

// FuzzInspect gives inspect anything: it never panics, always warns first, and
// prints nothing that a terminal would obey.
func FuzzInspect(f *testing.F) {
	b := newBench(f, handoff.EdDSA)
	f.Add(b.good.Compact())
	for i, hostile := range forge.Attacks() {
		if hostile.Algorithm != "" || i%measure.Of(8, 1, 1) != 0 {
			continue
		}
		if raw := hostile.Forge(b.good); len(raw) < 2000 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw string) {
		status, out, _ := invoke(t, raw, "inspect")
		if status != exitUsage && !strings.HasPrefix(out, "NOT VERIFIED") {
			t.Errorf("status %d without a warning", status)
		}
		if strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) >= 0 {
			t.Errorf("prints %q", out)
		}
	})
}
