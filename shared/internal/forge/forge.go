// Package forge makes tokens for tests: good ones, and every hostile one that
// the project has heard of. It shares no code with the issuer, so that a defect
// in one cannot hide in the other, and it lets each byte be chosen.
package forge

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Key is a signing key in the open.
type Key struct {
	Algorithm handoff.Algorithm
	Private   crypto.Signer
	Public    handoff.Key
}

// NewKey makes a key. RSA keys have 2048 bits.
func NewKey(algorithm handoff.Algorithm) *Key {
	var private crypto.Signer
	var err error
	switch algorithm {
	case handoff.EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case handoff.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case handoff.ES384:
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		panic(err)
	}
	public, err := handoff.NewKey(algorithm, private.Public())
	if err != nil {
		panic(err)
	}
	return &Key{Algorithm: algorithm, Private: private, Public: public}
}

// Sign returns the key's JWS signature of input.
func (k *Key) Sign(input string) []byte { return k.SignAs(string(k.Algorithm), input) }

// SignAs signs as the algorithm says, which need not be the key's own.
func (k *Key) SignAs(algorithm, input string) []byte {
	digest := sha256.Sum256([]byte(input))
	switch private := k.Private.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(private, []byte(input))
	case *ecdsa.PrivateKey:
		hashed, size := digest[:], 32
		if private.Curve == elliptic.P384() {
			sum := sha512.Sum384([]byte(input))
			hashed, size = sum[:], 48
		}
		r, s, err := ecdsa.Sign(rand.Reader, private, hashed)
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		if algorithm == string(handoff.PS256) {
			return k.SignPSS(input, 32)
		}
		signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])
		if err != nil {
			panic(err)
		}
		return signature
	}
	panic(fmt.Sprintf("no way to sign with a %T", k.Private))
}

// SignPSS signs with RSASSA-PSS and a salt of any length.
func (k *Key) SignPSS(input string, salt int) []byte {
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPSS(rand.Reader, k.Private.(*rsa.PrivateKey), crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		panic(err)
	}
	return signature
}

// Object is a JSON object whose every byte can be chosen: names and values are
// JSON texts, in order, and may repeat.
type Object []Member

// Member is one member of an Object.
type Member struct{ Name, Value string }

// Set returns the object with the member's value replaced, or appended.
func (o Object) Set(name, value string) Object {
	o = slices.Clone(o)
	for i := range o {
		if o[i].Name == name {
			o[i].Value = value
			return o
		}
	}
	return append(o, Member{name, value})
}

// Add returns the object with a member appended, even if it has one of the name.
func (o Object) Add(name, value string) Object { return append(slices.Clone(o), Member{name, value}) }

// Without returns the object without the member.
func (o Object) Without(name string) Object {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool { return m.Name == name })
}

// Get returns a member's JSON text.
func (o Object) Get(name string) string {
	for _, m := range o {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}

// String returns the JSON text. Names are written as they are, between quotes.
func (o Object) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + m.Name + `":` + m.Value)
	}
	return b.String() + "}"
}

// Quote returns s as a JSON string.
func Quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Encode is base64url without padding.
func Encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// Token is a token in its parts.
type Token struct {
	Header, Payload Object
	Key             *Key
}

// Compact signs the token as it stands.
func (t Token) Compact() string { return t.Text(t.Header.String(), t.Payload.String()) }

// Text signs any header and payload.
func (t Token) Text(header, payload string) string {
	return t.Signed(Encode(header) + "." + Encode(payload))
}

// Signed appends the signature to any signing input.
func (t Token) Signed(input string) string { return input + "." + Encode(string(t.Key.Sign(input))) }

// Parts returns the three parts of the signed token.
func (t Token) Parts() (header, payload, signature string) {
	parts := strings.Split(t.Compact(), ".")
	return parts[0], parts[1], parts[2]
}

// WithHeader returns the token with a header member set.
func (t Token) WithHeader(name, value string) Token {
	t.Header = t.Header.Set(name, value)
	return t
}

// WithClaim returns the token with a claim set.
func (t Token) WithClaim(name, value string) Token {
	t.Payload = t.Payload.Set(name, value)
	return t
}

// WithoutClaim returns the token without a claim.
func (t Token) WithoutClaim(name string) Token {
	t.Payload = t.Payload.Without(name)
	return t
}

// WithDetails returns the token with another only element of its
// authorization_details.
func (t Token) WithDetails(details Object) Token {
	return t.WithClaim("authorization_details", "["+details.String()+"]")
}

// Details returns the only element of authorization_details for an operation.
func Details(op handoff.Operation) Object {
	fields := Object{}
	for _, f := range op.Bound {
		quoted := Quote(f.Path)
		fields = append(fields, Member{quoted[1 : len(quoted)-1], Quote(f.Value)})
	}
	return Object{
		{"type", `"grpc_call"`},
		{"actions", "[" + Quote(op.Method) + "]"},
		{"fields", fields.String()},
	}
}

// Params says what a good token is for.
type Params struct {
	Key                       *Key
	Issuer, Audience, Subject string
	Session                   string // empty: none
	Operation                 handoff.Operation
	IssuedAt                  time.Time
	Lifetime                  time.Duration // zero: 60 s
}

// Good returns a token that is to be accepted, with an id of its own.
func Good(p Params) Token {
	p.Lifetime = cmp.Or(p.Lifetime, time.Minute)
	t := Token{
		Key:    p.Key,
		Header: Object{{"alg", Quote(string(p.Key.Algorithm))}, {"kid", Quote(p.Key.Public.ID())}, {"typ", `"handoff+jwt"`}},
		Payload: Object{
			{"iss", Quote(p.Issuer)},
			{"aud", Quote(p.Audience)},
			{"sub", Quote(p.Subject)},
			{"iat", strconv.FormatInt(p.IssuedAt.Unix(), 10)},
			{"exp", strconv.FormatInt(p.IssuedAt.Add(p.Lifetime).Unix(), 10)},
			{"jti", Quote(handoff.NewID())},
		},
	}
	if p.Session != "" {
		t = t.WithClaim("sid", Quote(p.Session))
	}
	return t.WithDetails(Details(p.Operation))
}

// Fresh returns the token with a new id.
func (t Token) Fresh() Token { return t.WithClaim("jti", Quote(handoff.NewID())) }
