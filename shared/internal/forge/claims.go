package forge

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
)

func claimAttacks() []Hostile {
	var all []Hostile
	add := func(id, name string, check handoff.Check, reason handoff.Reason, forge func(Token) string) {
		all = append(all, Hostile{ID: id, Name: name, Check: check, Reason: reason, Forge: forge})
	}
	bad := func(id, claimName, value string, check handoff.Check) {
		name := claimName + " " + value
		if len(name) > 40 {
			name = fmt.Sprintf("%.40s… of %d bytes", name, len(value))
		}
		add(id, name, check, handoff.ReasonClaimsInvalid, claim(claimName, value))
	}

	// Missing, null, empty and of another type, each claim.
	for _, c := range []struct {
		id, name string
		check    handoff.Check
	}{
		{"D05", "iss", "claim.iss"},
		{"D05", "aud", "claim.aud"},
		{"D05", "sub", "claim.sub"},
		{"D05", "iat", "claim.iat"},
		{"D01", "exp", "claim.exp"},
		{"D05", "jti", "claim.jti"},
		{"D14", "authorization_details", "claim.authorization_details"},
	} {
		add(c.id, "no "+c.name, c.check, handoff.ReasonClaimsInvalid, func(t Token) string { return t.WithoutClaim(c.name).Compact() })
		for _, value := range []string{"null", "true", "{}", `""`, "[]", "[null]"} {
			bad(c.id, c.name, value, c.check)
		}
	}
	bad("D05", "nbf", "null", "claim.nbf")
	bad("D05", "sid", "null", "claim.sid")
	bad("D05", "sid", `""`, "claim.sid")

	for _, number := range []struct {
		name  string
		check handoff.Check
	}{
		{"exp", "claim.exp"}, {"iat", "claim.iat"}, {"nbf", "claim.nbf"},
	} {
		for _, value := range []string{`"1767225600"`, `"NaN"`, "-1", "-0", "1e10", "1e400", "[1767225600]"} {
			bad("D08", number.name, value, number.check)
		}
		for _, value := range []string{"NaN", "Infinity", "0x10", "01"} {
			bad("D08", number.name, value, "payload.json")
		}
		add("D09", number.name+" with a fraction", number.check, handoff.ReasonClaimsInvalid, func(t Token) string {
			return t.WithClaim(number.name, t.Payload.Get("iat")+".5").Compact()
		})
		add("D09", number.name+" with a zero fraction", number.check, handoff.ReasonClaimsInvalid, func(t Token) string {
			return t.WithClaim(number.name, t.Payload.Get("iat")+".0").Compact()
		})
		for _, value := range []string{"253402300800", "2305843009213693952", "9223372036854775807", "18446744073709551616", strings.Repeat("9", 300)} {
			bad("D03", number.name, value, number.check)
		}
	}
	// at sets the times relative to the good token's iat; an empty one is left.
	at := func(issued, expires, notBefore string) func(Token) string {
		return func(t Token) string {
			base := seconds(t)
			for name, offset := range map[string]string{"iat": issued, "exp": expires, "nbf": notBefore} {
				if offset == "" {
					continue
				}
				seconds, err := strconv.ParseInt(offset, 10, 64)
				if err != nil {
					panic(err)
				}
				t = t.WithClaim(name, strconv.FormatInt(base+seconds, 10))
			}
			return t.Compact()
		}
	}
	add("D02", "expired long ago", "verify.exp", handoff.ReasonTokenExpired, at("-100", "-40", ""))
	add("D02", "exp is now", "verify.exp", handoff.ReasonTokenExpired, at("-60", "0", ""))
	add("D03", "a lifetime of 301 s", "verify.lifetime", handoff.ReasonLifetimeTooLong, at("0", "301", ""))
	add("D03", "exp in the year 9999", "verify.lifetime", handoff.ReasonLifetimeTooLong, claim("exp", "253402300799"))
	add("D04", "exp equals iat", "claim.exp", handoff.ReasonClaimsInvalid, at("0", "0", ""))
	add("D04", "exp before iat", "claim.exp", handoff.ReasonClaimsInvalid, at("30", "20", ""))
	add("D04", "nbf equals exp", "claim.nbf", handoff.ReasonClaimsInvalid, at("0", "60", "60"))
	add("D04", "nbf after exp", "claim.nbf", handoff.ReasonClaimsInvalid, at("0", "60", "61"))
	add("D06", "iat an hour ahead", "verify.iat", handoff.ReasonTokenNotYetValid, at("3600", "3660", ""))
	add("D06", "nbf 30 s ahead", "verify.nbf", handoff.ReasonTokenNotYetValid, at("0", "60", "30"))
	add("D07", "iat 0", "verify.lifetime", handoff.ReasonLifetimeTooLong, claim("iat", "0"))

	for _, value := range []string{`["AUD"]`, `["AUD","https://other.example"]`, `{"AUD":1}`} {
		add("D10", "aud "+value, "claim.aud", handoff.ReasonClaimsInvalid, func(t Token) string {
			return t.WithClaim("aud", strings.Replace(value, `"AUD"`, t.Payload.Get("aud"), 1)).Compact()
		})
	}
	for name, change := range map[string]func(string) string{
		"a trailing slash": func(s string) string { return s + "/" },
		"a path":           func(s string) string { return s + "/pay" },
		"a prefix":         func(s string) string { return s[:len(s)-1] },
		"another case":     strings.ToUpper,
		"another service":  func(string) string { return "https://other.example" },
	} {
		add("D11", "aud with "+name, "verify.aud", handoff.ReasonAudienceMismatch, func(t Token) string {
			return t.WithClaim("aud", `"`+change(strings.Trim(t.Payload.Get("aud"), `"`))+`"`).Compact()
		})
		add("A10", "iss with "+name, "verify.iss", handoff.ReasonIssuerMismatch, func(t Token) string {
			return t.WithClaim("iss", `"`+change(strings.Trim(t.Payload.Get("iss"), `"`))+`"`).Compact()
		})
	}
	for _, name := range []string{"sub", "jti", "sid", "iss", "aud"} {
		check := handoff.Check("claim." + name)
		for _, value := range []string{`"al\u0000ice"`, `"al\nice"`, `"al\u000dice"`, `" alice"`, `"al\u0456ce"`, `"alice\u200b"`, `"al\u202eice"`, `"al\"ice"`, `"al\\ice"`, `"\u007f"`} {
			bad("D13", name, value, check)
		}
		bad("D13", name, Quote(strings.Repeat("a", 256)), check)
	}
	for _, name := range []string{"jti", "sid"} {
		check := handoff.Check("claim." + name)
		for _, value := range []string{`"AAAAAAAAAAAAAAAAAAAAA"`, `"AAAAAAAAAAAAAAAAAAAAAAA"`, `"AAAAAAAAAAAAAAAAAAAAAB"`, `"AAAAAAAAAAAAAAAAAAAA=="`} {
			bad("E11", name, value, check)
		}
	}

	// G17: bound to a certificate that no client has, or to something else.
	thumbprint := `"` + strings.Repeat("A", 43) + `"`
	add("G17", "cnf of another's certificate", "verify.cnf", handoff.ReasonCertificateMismatch, claim("cnf", `{"x5t#S256":`+thumbprint+`}`))
	for _, value := range []string{
		`null`, `true`, `""`, thumbprint, `[]`, `{}`, `[{"x5t#S256":` + thumbprint + `}]`, `{"x5t#S256":null}`, `{"x5t#S256":""}`, `{"x5t#S256":[` + thumbprint + `]}`,
		`{"x5t#S256":"` + strings.Repeat("A", 42) + `"}`, `{"x5t#S256":"` + strings.Repeat("A", 42) + `B"}`, `{"x5t#S256":"` + strings.Repeat("A", 43) + `="}`,
		`{"x5t#s256":` + thumbprint + `}`, `{"x5t":` + thumbprint + `}`, `{"jkt":` + thumbprint + `}`, `{"jwk":{"kty":"OKP"}}`, `{"kid":"a"}`,
		`{"x5t#S256":` + thumbprint + `,"jkt":` + thumbprint + `}`,
	} {
		bad("G17", "cnf", value, "claim.cnf")
	}
	bad("G17", "cnf", `{"x5t#S256":`+thumbprint+`,"x5t#S256":`+thumbprint+`}`, "payload.json")
	for _, value := range []string{
		"null", "true", `""`, `"c-1"`, "[]", "{}", `{"sub":""}`, `{"sub":null}`, `{"sub":1}`, `{"sub":["c-1"]}`, `{"sub":" c-1"}`,
		`{"sub":"c-1","act":{"sub":"c-2"}}`, `{"sub":"c-1","iss":"https://other.example"}`, `{"client_id":"c-1"}`, `{"Sub":"c-1"}`, `[{"sub":"c-1"}]`,
	} {
		bad("K05", "act", value, "claim.act")
	}
	bad("K05", "act", `{"sub":"c-1","sub":"c-1"}`, "payload.json")

	// D14 as far as it is a matter of form; another method or value is an attack
	// of a good token on another call.
	const method = `"/a.v1.B/C"`
	for _, details := range []string{
		`[{"type":"grpc_call","actions":[` + method + `],"fields":{}},{"type":"grpc_call","actions":[` + method + `],"fields":{}}]`,
		`[{"type":"grpc_call","actions":[` + method + `,` + method + `],"fields":{}}]`,
		`[{"type":"grpc_call","actions":[],"fields":{}}]`,
		`[{"type":"grpc_call","actions":` + method + `,"fields":{}}]`,
		`[{"type":"grpc_call","fields":{}}]`,
		`[{"type":"payment","actions":[` + method + `],"fields":{}}]`,
		`[{"type":1,"actions":[` + method + `],"fields":{}}]`,
		`[{"actions":[` + method + `],"fields":{}}]`,
		`[{"type":"grpc_call","actions":[` + method + `]}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":null}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":[]}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":{"a":1}}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":{"a":null}}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":{"a":{"b":"c"}}}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields":{},"fields_sha256":"` + strings.Repeat("A", 43) + `"}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields_sha256":""}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields_sha256":"` + strings.Repeat("A", 42) + `"}]`,
		`[{"type":"grpc_call","actions":[` + method + `],"fields_sha256":"` + strings.Repeat("A", 42) + `B"}]`,
		`[{"type":"grpc_call","actions":["a.v1.B/C"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B/C/D"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B/"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["//C"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a..B/C"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/*/*"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.1v.B/C"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B/1C"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B/C.D"],"fields":{}}]`,
		`[{"type":"grpc_call","actions":["/a.v1.B/C\u0000"],"fields":{}}]`,
	} {
		bad("D14", "authorization_details", details, "claim.authorization_details")
	}
	return all
}
