package forge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Hostile is a token with one defect. Its control is the good token that it was
// made from, which is accepted.
type Hostile struct {
	ID        string            // of the attack, in the project's table
	Name      string            // what is wrong, in words
	Algorithm handoff.Algorithm // of the keys that it can be made with; empty: any
	Check     handoff.Check     // which must refuse it
	Reason    handoff.Reason    // which the caller is told
	Forge     func(good Token) string
}

// Attacks returns the hostile tokens: the attacks of groups A to D, as far as
// they come in as a token.
func Attacks() []Hostile {
	var all []Hostile
	all = append(all, headerAttacks()...)
	all = append(all, encodingAttacks()...)
	all = append(all, signatureAttacks()...)
	return append(all, claimAttacks()...)
}

// before is a defect that is found before the signature has verified.
func before(id, name string, check handoff.Check, forge func(Token) string) Hostile {
	return Hostile{ID: id, Name: name, Check: check, Reason: handoff.ReasonTokenInvalid, Forge: forge}
}

// only restricts a defect to keys of one algorithm.
func (h Hostile) only(algorithm handoff.Algorithm) Hostile {
	h.Algorithm = algorithm
	return h
}

// header is a token with one header member set.
func header(name, value string) func(Token) string {
	return func(t Token) string { return t.WithHeader(name, value).Compact() }
}

// claim is a token with one claim set.
func claim(name, value string) func(Token) string {
	return func(t Token) string { return t.WithClaim(name, value).Compact() }
}

func headerAttacks() []Hostile {
	var all []Hostile
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		all = append(all, before("A01", fmt.Sprintf("alg %q, signed", alg), "header.alg", header("alg", Quote(alg))))
		all = append(all, before("A01", fmt.Sprintf("alg %q, no signature", alg), "token.parts", func(t Token) string {
			return Encode(t.WithHeader("alg", Quote(alg)).Header.String()) + "." + Encode(t.Payload.String()) + "."
		}))
	}
	all = append(all, before("A01", "no alg", "header.alg", func(t Token) string {
		t.Header = t.Header.Without("alg")
		return t.Compact()
	}))

	for _, format := range []string{"PEM", "DER", "raw"} {
		all = append(all, before("A02", "HS256 with the public key's "+format+" as secret", "header.alg", func(t Token) string {
			der, err := x509.MarshalPKIXPublicKey(t.Key.Public.Public())
			if err != nil {
				panic(err)
			}
			secret := der
			switch format {
			case "PEM":
				secret = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
			case "raw":
				secret = der[len(der)-32:]
			}
			input := Encode(t.WithHeader("alg", `"HS256"`).Header.String()) + "." + Encode(t.Payload.String())
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(input))
			return input + "." + Encode(string(mac.Sum(nil)))
		}))
	}
	for _, alg := range []string{"HS256", "HS384", "HS512", "RS384", "RS512", "PS384", "PS512", "ES512", "ES256K", "Ed25519", "Ed448", "eddsa", "EdDSA ", "MLDSA44"} {
		all = append(all, before("A03", "alg "+alg+" is not in the profile", "header.alg", header("alg", Quote(alg))))
	}
	for _, algorithm := range handoff.Algorithms() {
		for _, claimed := range handoff.Algorithms() {
			if claimed == algorithm {
				continue
			}
			all = append(all, before("A03", fmt.Sprintf("alg %s under a key of %s", claimed, algorithm), "key.alg", func(t Token) string {
				t = t.WithHeader("alg", Quote(string(claimed)))
				input := Encode(t.Header.String()) + "." + Encode(t.Payload.String())
				return input + "." + Encode(string(t.Key.SignAs(string(claimed), input)))
			}).only(algorithm))
		}
	}

	unknown := func(id, name, value string) {
		all = append(all, before(id, "header "+name, "header.members", header(name, value)))
	}
	unknown("A05", "jwk", `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`)
	unknown("A06", "jku", `"https://attacker.example/jwks.json"`)
	unknown("A06", "x5u", `"https://attacker.example/cert.pem"`)
	unknown("A07", "x5c", `["`+strings.Repeat("A", 1000)+`"]`)
	unknown("A07", "x5t", `"AAAA"`)
	unknown("A07", "x5t#S256", `"AAAA"`)
	unknown("A12", "crit", `["exp"]`)
	unknown("A13", "crit", `[]`)
	unknown("A13", "crit", `null`)
	unknown("A13", "crit", `["b64"]`)
	all = append(all, before("A13", "crit twice", "header.members", func(t Token) string {
		t.Header = t.Header.Add("crit", `["b64"]`).Add("crit", `[]`)
		return t.Compact()
	}))
	unknown("A14", "b64", `false`)
	unknown("A14", "b64", `true`)
	unknown("A14", "b64", `"false"`)
	all = append(all, before("A14", "b64 false, named in crit, over a plain payload", "token.parts", func(t Token) string {
		t.Header = t.Header.Add("b64", "false").Add("crit", `["b64"]`)
		return t.Signed(Encode(t.Header.String()) + "." + `a plain payload. With dots`)
	}))
	unknown("A15", "zip", `"DEF"`)
	unknown("A15", "cty", `"JWT"`)
	unknown("A15", "nonsense", `null`)
	all = append(all, before("A07", "5,000 certificates", "token.length", header("x5c", "["+strings.Repeat(`"MIIB",`, 5000)+`"MIIB"]`)))

	kid := func(name, value string) {
		all = append(all, before("A08", "kid "+name, "header.kid", header("kid", value)))
	}
	kid("traversal", `"../../../../dev/null"`)
	kid("SQL", `"' OR '1'='1' -- "`)
	kid("shell", `"$(id)"`)
	kid("NUL", `"\u0000"`)
	kid("of 1 kB", Quote(strings.Repeat("A", 1000)))
	kid("of 42 characters", Quote(strings.Repeat("A", 42)))
	kid("with trailing bits", Quote(strings.Repeat("A", 42)+"B"))
	all = append(all,
		before("A08", "kid of 2 kB", "token.length", header("kid", Quote(strings.Repeat("A", 2000)))),
		before("A08", "kid of 1 MB", "token.length", header("kid", Quote(strings.Repeat("A", 1<<20)))),
		before("A08", "kid a number", "header.members", header("kid", "1")),
		before("A08", "kid an array", "header.members", header("kid", `["a"]`)),
		before("A08", "kid null", "header.members", header("kid", "null")),
		before("A08", "kid of nobody", "key.unknown", header("kid", Quote(strings.Repeat("A", 43)))),
		before("A09", "kid empty", "header.kid", header("kid", `""`)),
		before("A09", "no kid", "header.kid", func(t Token) string {
			t.Header = t.Header.Without("kid")
			return t.Compact()
		}),
		before("A16", "no typ", "header.typ", func(t Token) string {
			t.Header = t.Header.Without("typ")
			return t.Compact()
		}),
		before("A16", "typ a number", "header.members", header("typ", "1")),
		before("A16", "typ null", "header.members", header("typ", "null")),
	)
	for _, typ := range []string{"", "JWT", "HANDOFF+JWT", "application/handoff+jwt", "handoff+jwt ", "handoff+jwt\u0000"} {
		all = append(all, before("A16", fmt.Sprintf("typ %q", typ), "header.typ", header("typ", Quote(typ))))
	}
	for _, typ := range []string{"at+jwt", "JWT", "client-authentication+jwt", "dpop+jwt", "secevent+jwt", "logout+jwt", "handoff-trust+jwt"} {
		all = append(all, before("A17", "a "+typ+" of the same signer", "header.typ", header("typ", Quote(typ))))
	}
	return all
}

func encodingAttacks() []Hostile {
	members := func(name string, header func(Token) string) Hostile {
		return before("B01", name, "header.json", func(t Token) string { return t.Text(header(t), t.Payload.String()) })
	}
	all := []Hostile{
		members("alg twice", func(t Token) string { return t.Header.Add("alg", Quote(string(t.Key.Algorithm))).String() }),
		members("kid twice, once escaped", func(t Token) string { return t.Header.Add(`\u006bid`, t.Header.Get("kid")).String() }),
		profile("B01", "sub twice", "payload.json", func(t Token) string {
			t.Payload = t.Payload.Add("sub", `"mallory"`)
			return t.Compact()
		}),
		profile("B01", "sub twice, once escaped", "payload.json", func(t Token) string {
			t.Payload = t.Payload.Add(`\u0073ub`, `"mallory"`)
			return t.Compact()
		}),
		profile("B02", "actions twice", "payload.json", func(t Token) string {
			return t.WithClaim("authorization_details", `[{"type":"grpc_call","actions":["/a.B/C"],"actions":["/a.B/C"],"fields":{}}]`).Compact()
		}),
		profile("B02", "a field twice", "payload.json", func(t Token) string {
			return t.WithClaim("authorization_details", `[{"type":"grpc_call","actions":["/a.B/C"],"fields":{"a":"1","a":"2"}}]`).Compact()
		}),
		profile("B02", "a member twice in an unknown claim", "payload.members", claim("x", `{"a":1,"a":2}`)),
		before("B03", "ALG beside alg", "header.members", header("ALG", `"none"`)),
		before("B03", "Typ beside typ", "header.members", header("Typ", `"JWT"`)),
		profile("B03", "Sub beside sub", "payload.members", claim("Sub", `"mallory"`)),
		profile("B03", "an unknown claim", "payload.members", claim("admin", `true`)),
		profile("B03", "an unknown member of authorization_details", "claim.authorization_details", func(t Token) string {
			details := strings.TrimSuffix(t.Payload.Get("authorization_details"), "}]")
			return t.WithClaim("authorization_details", details+`,"locations":["https://x.example"]}]`).Compact()
		}),
	}

	// Other spellings of the three parts. The defect is in the text, so the
	// signature is made over the text as it stands.
	respell := func(id, name string, check handoff.Check, spell func(header, payload, signature string) string) {
		all = append(all, before(id, name, check, func(t Token) string { return spell(t.Parts()) }))
	}
	signed := func(id, name string, check handoff.Check, spell func(header, payload string) string) {
		all = append(all, before(id, name, check, func(t Token) string {
			h, p, _ := t.Parts()
			return t.Signed(spell(h, p))
		}))
	}
	for _, algorithm := range handoff.Algorithms() {
		if algorithm == handoff.ES384 {
			continue // its 96 bytes leave no bits over
		}
		all = append(all, before("B04", "trailing bits of the signature", "token.base64url", func(t Token) string {
			h, p, s := t.Parts()
			return h + "." + p + "." + trailing(s)
		}).only(algorithm))
	}
	all = append(all,
		before("B04", "trailing bits of the header, signed", "token.base64url", func(t Token) string {
			return t.Signed(trailing(Encode(pad(t.Header.String()))) + "." + Encode(t.Payload.String()))
		}),
		before("B04", "trailing bits of the payload, signed", "token.base64url", func(t Token) string {
			return t.Signed(Encode(t.Header.String()) + "." + trailing(Encode(pad(t.Payload.String()))))
		}))
	for _, c := range []struct{ id, name, text string }{
		{"B05", "CR", "\r"},
		{"B05", "LF", "\n"},
		{"B05", "CRLF", "\r\n"},
		{"B06", "a space", " "},
		{"B06", "a tab", "\t"},
		{"B06", "padding", "="},
		{"B06", "the standard alphabet's +", "+"},
		{"B06", "the standard alphabet's /", "/"},
		{"B06", "NUL", "\x00"},
		{"B06", "a character beyond ASCII", "\u00e9"},
		{"B06", "a percent sign", "%2e"},
	} {
		respell(c.id, c.name+" after the token", "token.base64url", func(h, p, s string) string { return h + "." + p + "." + s + c.text })
		respell(c.id, c.name+" before the token", "token.base64url", func(h, p, s string) string { return c.text + h + "." + p + "." + s })
		signed(c.id, c.name+" in the payload, signed", "token.base64url", func(h, p string) string { return h + "." + p[:8] + c.text + p[8:] })
		respell(c.id, c.name+" in the signature", "token.base64url", func(h, p, s string) string { return h + "." + p + "." + s[:8] + c.text + s[8:] })
	}
	respell("B05", "2,000 line feeds", "token.base64url", func(h, p, s string) string { return h + "." + p + "." + s + strings.Repeat("\n", 2000) })

	for name, spell := range map[string]func(h, p, s string) string{
		"nothing":              func(_, _, _ string) string { return "" },
		"one part":             func(h, _, _ string) string { return h },
		"two parts":            func(h, p, _ string) string { return h + "." + p },
		"four parts":           func(h, p, s string) string { return h + "." + p + "." + s + "." + s },
		"five parts, as a JWE": func(h, p, s string) string { return h + "." + p + "." + s + "." + s + "." + s },
		"3,000 dots":           func(_, _, _ string) string { return strings.Repeat(".", 3000) },
		"an empty header":      func(_, p, s string) string { return "." + p + "." + s },
		"an empty payload":     func(h, _, s string) string { return h + ".." + s },
		"an empty signature":   func(h, p, _ string) string { return h + "." + p + "." },
		"a trailing dot":       func(h, p, s string) string { return h + "." + p + "." + s + "." },
		"a leading dot":        func(h, p, s string) string { return "." + h + "." + p + "." + s },
		"the JSON serialisation": func(h, p, s string) string {
			return `{"protected":"` + h + `","payload":"` + p + `","signature":"` + s + `"}`
		},
		"the general serialisation": func(h, p, s string) string {
			return `{"payload":"` + p + `","signatures":[{"protected":"` + h + `","signature":"` + s + `"}]}`
		},
	} {
		id := "B07"
		if strings.Contains(name, "serialisation") {
			id = "B08"
		}
		respell(id, name, "token.parts", spell)
	}
	all = append(all,
		before("B09", "4,097 bytes", "token.length", func(t Token) string {
			text := t.WithHeader("x", Quote(strings.Repeat("A", 4096))).Compact()
			return text[:4097]
		}),
		before("B09", "32 MiB", "token.length", func(t Token) string { return strings.Repeat("A", 32<<20) }),
		before("B10", "a header nested 400 deep", "header.members", header("x", strings.Repeat("[", 400)+strings.Repeat("]", 400))),
		before("B10", "typ nested 400 deep", "header.members", header("typ", strings.Repeat("[", 400)+strings.Repeat("]", 400))),
		profile("B10", "an unknown claim nested 400 deep", "payload.members", claim("x", strings.Repeat("[", 400)+strings.Repeat("]", 400))),
		profile("B10", "sub nested 400 deep", "claim.sub", claim("sub", strings.Repeat("[", 400)+strings.Repeat("]", 400))),
		before("B11", "invalid UTF-8 in the header", "header.json", header("kid", "\"\xff\"")),
		before("B11", "a lone surrogate in the header", "header.json", header("kid", `"\ud800"`)),
		profile("B11", "invalid UTF-8 in sub", "payload.json", claim("sub", "\"alice\xff\"")),
		profile("B11", "an overlong encoding in sub", "payload.json", claim("sub", "\"alice\xc0\xaf\"")),
		profile("B11", "a lone surrogate in sub", "payload.json", claim("sub", `"alice\udead"`)),
	)
	for name, dress := range map[string]func(string) string{
		"a BOM":                func(s string) string { return "\ufeff" + s },
		"trailing bytes":       func(s string) string { return s + "x" },
		"a trailing NUL":       func(s string) string { return s + "\x00" },
		"two documents":        func(s string) string { return s + s },
		"a comment":            func(s string) string { return s + "/* */" },
		"UTF-16":               func(s string) string { return "\xff\xfe" + strings.Join(strings.Split(s, ""), "\x00") + "\x00" },
		"UTF-32":               func(s string) string { return strings.Join(strings.Split(s, ""), "\x00\x00\x00") + "\x00\x00\x00" },
		"single quotes":        func(s string) string { return strings.ReplaceAll(s, `"`, `'`) },
		"a trailing comma":     func(s string) string { return strings.TrimSuffix(s, "}") + ",}" },
		"nothing but spaces":   func(string) string { return "  " },
		"a truncated document": func(s string) string { return s[:len(s)-1] },
	} {
		all = append(all,
			before("B12", name+" in the header", "header.json", func(t Token) string { return t.Text(dress(t.Header.String()), t.Payload.String()) }),
			profile("B12", name+" in the payload", "payload.json", func(t Token) string { return t.Text(t.Header.String(), dress(t.Payload.String())) }))
	}
	for _, document := range []string{`null`, `true`, `1`, `"{}"`, `[]`, `[{}]`} {
		all = append(all,
			before("B12", "the header is "+document, "header.members", func(t Token) string { return t.Text(document, t.Payload.String()) }),
			profile("B12", "the payload is "+document, "payload.json", func(t Token) string { return t.Text(t.Header.String(), document) }))
	}
	return all
}

// pad makes a JSON text one whose base64url has trailing bits.
func pad(s string) string {
	for len(s)%3 != 1 {
		s += " "
	}
	return s
}

// trailing sets a bit of the last character that no byte uses.
func trailing(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(s)%4 == 0 {
		panic("no trailing bits: " + strconv.Itoa(len(s)))
	}
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last|1])
}

func signatureAttacks() []Hostile {
	// resign replaces the signature's bytes.
	resign := func(id, name string, replace func(t Token, input string, signature []byte) []byte) Hostile {
		return before(id, name, "signature", func(t Token) string {
			h, p, s := t.Parts()
			signature, err := base64.RawURLEncoding.DecodeString(s)
			if err != nil {
				panic(err)
			}
			return h + "." + p + "." + Encode(string(replace(t, h+"."+p, signature)))
		})
	}
	constant := func(b []byte) func(Token, string, []byte) []byte {
		return func(Token, string, []byte) []byte { return b }
	}
	all := []Hostile{
		resign("C04", "a bit flipped", func(_ Token, _ string, s []byte) []byte { s[len(s)/2] ^= 1; return s }),
		resign("C04", "short by one byte", func(_ Token, _ string, s []byte) []byte { return s[:len(s)-1] }),
		resign("C04", "longer by one byte", func(_ Token, _ string, s []byte) []byte { return append(s, 0) }),
		resign("C04", "a leading zero byte", func(_ Token, _ string, s []byte) []byte { return append([]byte{0}, s...) }),
		resign("C04", "one byte", constant([]byte{1})),
		before("C06", "another payload under the signature", "signature", func(t Token) string {
			h, _, s := t.Parts()
			return h + "." + Encode(t.WithClaim("sub", `"mallory"`).Payload.String()) + "." + s
		}),
		before("C06", "a payload that is not JSON under the signature", "signature", func(t Token) string {
			h, _, s := t.Parts()
			return h + "." + Encode("not JSON at all") + "." + s
		}),
		before("C06", "an expired payload under the signature", "signature", func(t Token) string {
			h, _, s := t.Parts()
			return h + "." + Encode(t.WithClaim("exp", "1").Payload.String()) + "." + s
		}),
		before("C06", "another key's signature", "signature", func(t Token) string {
			h, p, _ := t.Parts()
			return h + "." + p + "." + Encode(string(NewKey(t.Key.Algorithm).Sign(h+"."+p)))
		}),
		resign("C03", "Ed25519 with s + L", func(_ Token, _ string, s []byte) []byte {
			l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
			little := func(b []byte) []byte {
				r := make([]byte, len(b))
				for i := range b {
					r[len(b)-1-i] = b[i]
				}
				return r
			}
			sum := new(big.Int).Add(new(big.Int).SetBytes(little(s[32:])), l)
			return append(s[:32:32], little(sum.FillBytes(make([]byte, 32)))...)
		}).only(handoff.EdDSA),
		resign("C03", "Ed25519 of zeros", constant(make([]byte, 64))).only(handoff.EdDSA),
		resign("C05", "PS256 with the RS256 signature", func(t Token, input string, _ []byte) []byte {
			return t.Key.SignAs(string(handoff.RS256), input)
		}).only(handoff.PS256),
		resign("C05", "RS256 with the PS256 signature", func(t Token, input string, _ []byte) []byte {
			return t.Key.SignPSS(input, 32)
		}).only(handoff.RS256),
	}
	for _, salt := range []int{0, 20, 31, 33, 64} {
		all = append(all, resign("C05", fmt.Sprintf("PS256 with a salt of %d bytes", salt), func(t Token, input string, _ []byte) []byte {
			return t.Key.SignPSS(input, salt)
		}).only(handoff.PS256))
	}
	for _, curve := range []struct {
		algorithm handoff.Algorithm
		size      int
		params    *elliptic.CurveParams
	}{
		{handoff.ES256, 32, elliptic.P256().Params()},
		{handoff.ES384, 48, elliptic.P384().Params()},
	} {
		scalar := func(n *big.Int) []byte { return n.FillBytes(make([]byte, curve.size)) }
		zero, one, n := scalar(big.NewInt(0)), scalar(big.NewInt(1)), scalar(curve.params.N)
		p := scalar(new(big.Int).Mod(curve.params.P, new(big.Int).Lsh(big.NewInt(1), uint(8*curve.size))))
		ones := scalar(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*curve.size)), big.NewInt(1)))
		for name, pair := range map[string][2][]byte{
			"r = s = 0": {zero, zero}, "r = 0": {zero, one}, "s = 0": {one, zero}, "r = s = n": {n, n}, "r = n": {n, one},
			"s = n": {one, n}, "r = s = 1": {one, one}, "r = s = p": {p, p}, "all bits set": {ones, ones},
		} {
			all = append(all, resign("C01", string(curve.algorithm)+" with "+name, constant(append(pair[0][:curve.size:curve.size], pair[1]...))).only(curve.algorithm))
		}
		all = append(all, resign("C04", string(curve.algorithm)+" in DER", func(t Token, input string, s []byte) []byte {
			der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s[:curve.size]), new(big.Int).SetBytes(s[curve.size:])})
			if err != nil {
				panic(err)
			}
			return der
		}).only(curve.algorithm))
	}
	return all
}

// Twin returns the token with its ECDSA signature's other form, (r, n-s). It is
// as authentic as the original, and the same token: both have one id.
func Twin(t Token, raw string) string {
	private := t.Key.Private.(*ecdsa.PrivateKey)
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		panic(err)
	}
	size := len(signature) / 2
	s := new(big.Int).Sub(private.Curve.Params().N, new(big.Int).SetBytes(signature[size:]))
	return raw[:dot+1] + Encode(string(append(signature[:size:size], s.FillBytes(make([]byte, size))...)))
}

// profile is a defect in the claims of an authentic token.
func profile(id, name string, check handoff.Check, forge func(Token) string) Hostile {
	return Hostile{ID: id, Name: name, Check: check, Reason: handoff.ReasonClaimsInvalid, Forge: forge}
}
