package keyset_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// sample has a key of each kind, made once: RSA keys take long.
type sample struct {
	ed25519   ed25519.PublicKey
	p256      *ecdsa.PublicKey
	p384      *ecdsa.PublicKey
	p521      *ecdsa.PublicKey
	rsa       *rsa.PublicKey
	signer256 *ecdsa.PrivateKey
}

var samples = sync.OnceValue(func() sample {
	var s sample
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	s.ed25519, _, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	curve := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		must(err)
		return k
	}
	s.signer256 = curve(elliptic.P256())
	s.p256, s.p384, s.p521 = &s.signer256.PublicKey, &curve(elliptic.P384()).PublicKey, &curve(elliptic.P521()).PublicKey
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	s.rsa = &k.PublicKey
	return s
})

// object is a JSON object under construction.
type object map[string]any

// with returns a copy of o with members set; nil removes one.
func (o object) with(members ...any) object {
	c := object{}
	for k, v := range o {
		c[k] = v
	}
	for i := 0; i < len(members); i += 2 {
		c[members[i].(string)] = members[i+1]
		if members[i+1] == nil {
			delete(c, members[i].(string))
		}
	}
	return c
}

func (o object) String() string {
	b, err := json.Marshal(map[string]any(o))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// jwk writes a public key by hand, by RFC 7518 section 6 and RFC 8037 section 2.
func jwk(public crypto.PublicKey) object {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case ed25519.PublicKey:
		return object{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		return object{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": b64(k.N.Bytes()), "e": "AQAB"}
	}
	panic(fmt.Sprintf("%T", public))
}

// thumbprint is RFC 7638 by hand: the required members in order, without space.
func thumbprint(o object) string {
	b, err := json.Marshal(map[string]any(o)) // map keys come sorted
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func set(keys ...object) string { return object{"keys": keys}.String() }

func pemOf(t testing.TB, kind string, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

type accepted struct {
	object
	algorithm handoff.Algorithm
}

func TestParseAccepts(t *testing.T) {
	s := samples()
	ed, p256, p384, rs := jwk(s.ed25519), jwk(s.p256), jwk(s.p384), jwk(s.rsa)
	mldsa := object{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "next"}
	for name, c := range map[string]struct {
		text string
		want []accepted
	}{
		"all five": {
			set(ed, p256, p384, rs.with("alg", "RS256")),
			[]accepted{{ed, handoff.EdDSA}, {p256, handoff.ES256}, {p384, handoff.ES384}, {rs, handoff.RS256}},
		},
		"alg Ed25519 is EdDSA": {set(ed.with("alg", "Ed25519")), []accepted{{ed, handoff.EdDSA}}}, // RFC 9864
		"alg stated": {
			set(ed.with("alg", "EdDSA"), p256.with("alg", "ES256"), p384.with("alg", "ES384"), rs.with("alg", "PS256")),
			[]accepted{{ed, handoff.EdDSA}, {p256, handoff.ES256}, {p384, handoff.ES384}, {rs, handoff.PS256}},
		},
		"one JWK":               {ed.String(), []accepted{{ed, handoff.EdDSA}}},
		"space around":          {" \r\n\t" + set(ed) + "\n", []accepted{{ed, handoff.EdDSA}}},
		"use and key_ops":       {set(ed.with("use", "sig", "key_ops", []string{"verify"})), []accepted{{ed, handoff.EdDSA}}},
		"kid is the thumbprint": {set(ed.with("kid", thumbprint(ed))), []accepted{{ed, handoff.EdDSA}}},
		"kid is a name":         {set(ed.with("kid", "2026-1")), []accepted{{ed, handoff.EdDSA}}},
		"kid is empty":          {set(ed.with("kid", ""), p256.with("kid", "")), []accepted{{ed, handoff.EdDSA}, {p256, handoff.ES256}}},
		"unknown members":       {set(ed.with("x5c", []string{"?"}, "ext", true, "y", "ignored")), []accepted{{ed, handoff.EdDSA}}},
		"unknown set members":   {object{"keys": []object{ed}, "version": 2}.String(), []accepted{{ed, handoff.EdDSA}}},
		"A21 unknown kty":       {set(mldsa, ed), []accepted{{ed, handoff.EdDSA}}},
		"A21 unknown curves": {
			set(jwk(s.p521), object{"kty": "OKP", "crv": "X25519", "x": "AA"}, object{"kty": "EC", "crv": "secp256k1"}, ed),
			[]accepted{{ed, handoff.EdDSA}},
		},
		"PEM":          {pemOf(t, "PUBLIC KEY", s.ed25519), []accepted{{ed, handoff.EdDSA}}},
		"PEM, several": {pemOf(t, "PUBLIC KEY", s.p384) + "\n" + pemOf(t, "PUBLIC KEY", s.p256), []accepted{{p384, handoff.ES384}, {p256, handoff.ES256}}},
		"PEM, CRLF":    {strings.ReplaceAll(pemOf(t, "PUBLIC KEY", s.ed25519), "\n", "\r\n"), []accepted{{ed, handoff.EdDSA}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := keyset.Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			ks := got.Keys()
			if len(ks) != len(c.want) {
				t.Fatalf("%d keys, want %d", len(ks), len(c.want))
			}
			for i, want := range c.want {
				if id := thumbprint(want.object); ks[i].ID() != id || ks[i].Algorithm() != want.algorithm {
					t.Errorf("key %d: %s %s, want %s %s", i, ks[i].Algorithm(), ks[i].ID(), want.algorithm, id)
				}
				if found, err := got.Key(context.Background(), ks[i].ID()); err != nil || found.ID() != ks[i].ID() {
					t.Errorf("key %d is not found by its id: %v", i, err)
				}
			}
			for _, kid := range []string{"", "2026-1", "next", strings.Repeat("A", 43)} {
				if _, err := got.Key(context.Background(), kid); !errors.Is(err, handoff.ErrKeyUnknown) {
					t.Errorf("Key(%q) = %v", kid, err)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	s := samples()
	ed, p256, rs := jwk(s.ed25519), jwk(s.p256), jwk(s.rsa)
	edPEM := pemOf(t, "PUBLIC KEY", s.ed25519)
	damaged := strings.Replace(edPEM, "MCow", "M?ow", 1)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(s.signer256)
	if err != nil {
		t.Fatal(err)
	}
	identity := base64.RawURLEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))
	for name, text := range map[string]string{
		"empty":           "",
		"space":           " \n",
		"text":            "keys",
		"BOM":             "\ufeff" + set(ed),
		"null":            "null",
		"array":           "[" + ed.String() + "]",
		"no keys":         "{}",
		"no keys in set":  set(),
		"keys null":       `{"keys":null}`,
		"keys object":     `{"keys":{}}`,
		"key is a string": `{"keys":["x"]}`,
		"set and key":     ed.with("keys", []object{p256}).String(),
		"keys twice":      `{"keys":[` + ed.String() + `],"keys":[` + ed.String() + `]}`,
		"keys, escaped":   `{"keys":[` + ed.String() + `],"\u006beys":[]}`,
		"x twice":         strings.Replace(set(ed), `{"crv"`, `{"x":"","crv"`, 1),
		"two documents":   set(ed) + set(p256),
		"trailing comma":  strings.Replace(set(ed), "]", ",]", 1),
		"too long":        set(ed) + strings.Repeat(" ", 1<<20),

		"A20 private Ed25519":       set(ed.with("d", "AAAA")),
		"A20 private EC":            set(p256.with("d", "AAAA")),
		"A20 private RSA":           set(rs.with("alg", "PS256", "dp", "AAAA")),
		"A20 private of another":    set(ed, object{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "priv": "AAAA"}),
		"A20 private, null":         set(ed.with("d", json.RawMessage("null"))),
		"A20 symmetric":             set(ed, object{"kty": "oct", "k": "AAAA"}),
		"A20 symmetric without k":   set(ed, object{"kty": "oct"}),
		"A20 private PEM":           string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		"A20 private PEM as public": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkcs8})),

		"A04 use enc":            set(ed.with("use", "enc")),
		"A04 use empty":          set(ed.with("use", "")),
		"A04 use, number":        set(ed.with("use", 1)),
		"A04 key_ops encrypt":    set(ed.with("key_ops", []string{"encrypt"})),
		"A04 key_ops empty":      set(ed.with("key_ops", []string{})),
		"A04 key_ops twice":      set(ed.with("key_ops", []string{"verify", "verify"})),
		"A04 key_ops a string":   set(ed.with("key_ops", "verify")),
		"A03 alg of another key": set(ed.with("alg", "ES256")),
		"A03 alg of P-384":       set(p256.with("alg", "ES384")),
		"A03 alg of RSA":         set(p256.with("alg", "RS256")),
		"A03 alg of Ed25519":     set(rs.with("alg", "EdDSA")),
		"A03 alg unknown":        set(ed.with("alg", "ES521")),
		"A03 alg in lower case":  set(p256.with("alg", "es256")),
		"A01 alg none":           set(ed.with("alg", "none")),
		"A02 alg HS256":          set(rs.with("alg", "HS256")),
		"RSA without alg":        set(rs),
		"RSA-OAEP":               set(rs.with("alg", "RSA-OAEP")),
		"alg, number":            set(ed.with("alg", 1)),

		"A11 kid twice":             set(ed.with("kid", "a"), p256.with("kid", "a")),
		"A11 kid of a skipped key":  set(jwk(s.p521).with("kid", "a"), p256.with("kid", "a")),
		"A11 kid of two skipped":    set(jwk(s.p521).with("kid", "a"), object{"kty": "new", "kid": "a"}, ed),
		"A11 kid of another's name": set(ed, p256.with("kid", thumbprint(ed))),
		"A11 the same, other order": set(p256.with("kid", thumbprint(ed)), ed),
		"the same key twice":        set(ed, ed.with("kid", "again")),
		"the same RSA key twice":    set(rs.with("alg", "PS256"), rs.with("alg", "RS256")),
		"kid, number":               set(ed.with("kid", 7)),

		"kty missing":               set(ed.with("kty", nil)),
		"kty in lower case":         set(ed.with("kty", "okp")),
		"crv missing":               set(ed.with("crv", nil)),
		"only unknown keys":         set(jwk(s.p521)),
		"x missing":                 set(ed.with("x", nil)),
		"x empty":                   set(ed.with("x", "")),
		"x, number":                 set(ed.with("x", 1)),
		"x short":                   set(ed.with("x", "AAAA")),
		"x padded":                  set(ed.with("x", ed["x"].(string)+"=")),
		"x with a line break":       set(ed.with("x", ed["x"].(string)[:40]+"\n"+ed["x"].(string)[40:])),
		"x standard base64":         set(ed.with("x", "+/"+ed["x"].(string)[2:])),
		"B04 x with tail bits":      set(p256.with("x", loosen(p256["x"].(string)))),
		"y missing":                 set(p256.with("y", nil)),
		"off the curve":             set(p256.with("y", p256["x"])),
		"kty of another":            set(p256.with("kty", "RSA", "alg", "RS256")),
		"crv of another":            set(p256.with("crv", "P-384")),
		"A19 low order":             set(ed.with("x", identity)),
		"A19 low order, PEM":        pemOf(t, "PUBLIC KEY", ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))),
		"A03 alg Ed25519 of EC":     set(p256.with("alg", "Ed25519")),
		"A03 alg Ed448":             set(ed.with("alg", "Ed448")),
		"B04 n begins with a zero":  set(rs.with("alg", "PS256", "n", zeroBefore(rs["n"]))),
		"B04 n begins with zeros":   set(rs.with("alg", "PS256", "n", zeroBefore(zeroBefore(rs["n"])))),
		"B04 e begins with a zero":  set(rs.with("alg", "PS256", "e", zeroBefore(rs["e"]))),
		"B04 e begins with a zero,": set(rs.with("alg", "RS256", "e", "AAAAAQAB")),

		"A18 e is 1": set(rs.with("alg", "PS256", "e", "AQ")),
		"A18 e is 3": set(rs.with("alg", "PS256", "e", "Aw")),

		"PEM, RSA":              pemOf(t, "PUBLIC KEY", s.rsa),
		"PEM, P-521":            pemOf(t, "PUBLIC KEY", s.p521),
		"PEM, certificate":      pemOf(t, "CERTIFICATE", s.ed25519),
		"PEM, PKCS1":            pemOf(t, "RSA PUBLIC KEY", s.rsa),
		"PEM, damaged":          damaged,
		"PEM, one damaged":      damaged + pemOf(t, "PUBLIC KEY", s.p256),
		"PEM, text between":     edPEM + "# the next\n" + pemOf(t, "PUBLIC KEY", s.p256),
		"PEM, text after":       edPEM + "x",
		"PEM, headers":          strings.Replace(edPEM, "-----\n", "-----\nKey: value\n\n", 1),
		"PEM, no end":           strings.SplitAfter(edPEM, "\n")[0],
		"PEM, begins twice":     strings.SplitAfter(edPEM, "\n")[0] + edPEM,
		"PEM, the same twice":   edPEM + edPEM,
		"PEM, then JSON":        edPEM + set(p256),
		"PEM, trailing in DER":  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append(der(t, s.ed25519), 0)})),
		"PEM, nothing in block": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := keyset.Parse([]byte(text))
			if err == nil {
				t.Fatalf("accepted as %d keys", len(got.Keys()))
			}
			if got != nil {
				t.Error("a set beside an error")
			}
		})
	}
}

// zeroBefore is a number with one octet more, which is zero.
func zeroBefore(number any) string {
	b, err := base64.RawURLEncoding.DecodeString(number.(string))
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(append([]byte{0}, b...))
}

// TestParseSaysWhatItIs: what people have in place of a key set is called by its name.
func TestParseSaysWhatItIs(t *testing.T) {
	s := samples()
	edPEM := pemOf(t, "PUBLIC KEY", s.ed25519)
	spki := func(oid asn1.ObjectIdentifier, parameters, key []byte) string {
		der, err := asn1.Marshal(struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}{
			pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: parameters}},
			asn1.BitString{Bytes: key, BitLength: 8 * len(key)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	curve, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	point, err := s.p256.Bytes() // 4, X, Y: SEC 1 section 2.3.3
	if err != nil {
		t.Fatal(err)
	}
	compressed := append([]byte{2 + point[64]&1}, point[1:33]...)
	for name, c := range map[string]struct{ text, want string }{
		"compressed point":   {spki(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, curve, compressed), "compressed"},
		"RSA-PSS":            {spki(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, nil, x509.MarshalPKCS1PublicKey(s.rsa)), "bound to PSS"},
		"BOM before JSON":    {"\ufeff" + set(jwk(s.ed25519)), "byte order mark"},
		"BOM before PEM":     {"\ufeff" + edPEM, "byte order mark"},
		"UTF-16":             {"\xff\xfe-\x00-\x00", "UTF-16"},
		"text before PEM":    {"the key:\n" + edPEM, "text before its PEM"},
		"ssh":                {"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@host", "ssh"},
		"ssh, EC":            {"ecdsa-sha2-nistp256 AAAA", "ssh"},
		"ssh, RFC 4716":      {"---- BEGIN SSH2 PUBLIC KEY ----", "ssh"},
		"DER":                {string(der(t, s.ed25519)), "DER"},
		"DER, RSA":           {string(der(t, s.rsa)), "DER"},
		"empty":              {" \n", "empty"},
		"PKCS #1":            {pemOf(t, "RSA PUBLIC KEY", s.rsa), "is RSA PUBLIC KEY"},
		"certificate":        {pemOf(t, "CERTIFICATE", s.rsa), "is CERTIFICATE"},
		"n begins with zero": {set(jwk(s.rsa).with("alg", "PS256", "n", zeroBefore(jwk(s.rsa)["n"]))), "n begins with a zero octet"},
	} {
		_, err := keyset.Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A18: the modulus is refused only for its length.
func TestParseModulusLength(t *testing.T) {
	rs := jwk(samples().rsa).with("alg", "PS256")
	for bits, ok := range map[int]bool{512: false, 1024: false, 2047: false, 2048: true, 3000: true, 4096: true, 4097: false, 8192: false} {
		n := bytes.Repeat([]byte{0xff}, (bits+7)/8)
		n[0] >>= (8 - bits%8) % 8
		_, err := keyset.Parse([]byte(set(rs.with("n", base64.RawURLEncoding.EncodeToString(n)))))
		if (err == nil) != ok {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestParseRefusesNestedDuplicates(t *testing.T) { // B02
	ed := jwk(samples().ed25519).String()
	for nested, ok := range map[string]bool{
		`{"a":1,"b":{"c":1,"d":2}}`:      true,
		`{"a":1,"b":{"c":1,"c":2}}`:      false,
		`{"a":1,"b":{"c":1,"\u0063":2}}`: false,
		`[{"c":1},{"c":1}]`:              true,
		`"\ud800"`:                       false,
		`"` + "\xff" + `"`:               false,
	} {
		for _, text := range []string{
			`{"keys":[` + strings.Replace(ed, "{", `{"ext":`+nested+`,`, 1) + `]}`,
			`{"ext":` + nested + `,"keys":[` + ed + `]}`,
		} {
			if _, err := keyset.Parse([]byte(text)); (err == nil) != ok {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

// A refusal repeats nothing of the set.
func TestParseErrorsRepeatNothing(t *testing.T) {
	ed := jwk(samples().ed25519)
	const mark = "MARK"
	for _, member := range []string{"kty", "crv", "x", "use", "alg", "d", mark} {
		_, err := keyset.Parse([]byte(set(ed.with("use", "enc", member, mark+"!"))))
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("%s: %v", member, err)
		}
	}
}

func TestMarshalJSONIsRead(t *testing.T) {
	s := samples()
	want, err := keyset.Parse([]byte(set(jwk(s.ed25519).with("kid", "x"), jwk(s.p256), jwk(s.p384), jwk(s.rsa).with("alg", "PS256"))))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var published struct {
		Keys []map[string]string
	}
	if err := json.Unmarshal(text, &published); err != nil {
		t.Fatal(err)
	}
	got, err := keyset.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range want.Keys() {
		if g := got.Keys()[i]; g.ID() != k.ID() || g.Algorithm() != k.Algorithm() {
			t.Errorf("key %d is read as %s %s", i, g.Algorithm(), g.ID())
		}
		p := published.Keys[i]
		if p["kid"] != k.ID() || p["alg"] != string(k.Algorithm()) || p["use"] != "sig" {
			t.Errorf("key %d is published as %v", i, p)
		}
		if _, ok := p["d"]; ok {
			t.Errorf("key %d is published with d", i)
		}
	}
}

func TestNew(t *testing.T) {
	ed, err := handoff.NewKey(handoff.EdDSA, samples().ed25519)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keyset.New(ed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key(context.Background(), ed.ID()); err != nil {
		t.Error(err)
	}
	for name, keys := range map[string][]handoff.Key{"none": nil, "twice": {ed, ed}, "zero": {ed, {}}} {
		if _, err := keyset.New(keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestKeyDoesNotAllocate(t *testing.T) {
	s, err := keyset.Parse([]byte(set(jwk(samples().ed25519))))
	if err != nil {
		t.Fatal(err)
	}
	id := s.Keys()[0].ID()
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Key(context.Background(), id) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func der(t testing.TB, public any) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loosen returns another spelling of the same bytes: 32 bytes leave two bits of
// the last character unused.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last|1])
}
