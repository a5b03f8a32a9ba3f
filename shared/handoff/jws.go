package handoff

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/internal/ident"
	"github.com/handoff-auth/handoff/shared/internal/prepared"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// Algorithm is a JWS signature algorithm by its registered name (RFC 7518
// section 3.1, RFC 8037 section 3.1). A key carries its algorithm, and the key
// decides: the `alg` of a header must equal it.
type Algorithm string

// The algorithms. All are asymmetric; there is no `none` and no HMAC.
const (
	EdDSA Algorithm = "EdDSA" // Ed25519 (RFC 8037): the default
	ES256 Algorithm = "ES256" // ECDSA, P-256, SHA-256
	ES384 Algorithm = "ES384" // ECDSA, P-384, SHA-384
	PS256 Algorithm = "PS256" // RSASSA-PSS, SHA-256, a salt of exactly 32 bytes
	RS256 Algorithm = "RS256" // RSASSA-PKCS1-v1_5, SHA-256
)

// Algorithms returns every algorithm, the preferred one first.
func Algorithms() []Algorithm { return []Algorithm{EdDSA, ES256, ES384, PS256, RS256} }

// verify reports whether signature is the key's over input. It is the one table
// of algorithms: what is not in it does not verify. What is prepared of a key gives
// the same verdict as its row.
func (k Key) verify(input, signature []byte) bool {
	if k.prepared != nil {
		return k.prepared.Verify(input, signature)
	}
	switch k.algorithm {
	case EdDSA:
		return ed25519.Verify(k.public.(ed25519.PublicKey), input, signature)
	case ES256:
		digest := sha256.Sum256(input)
		return verifyECDSA(k.public.(*ecdsa.PublicKey), digest[:], signature, 32)
	case ES384:
		digest := sha512.Sum384(input)
		return verifyECDSA(k.public.(*ecdsa.PublicKey), digest[:], signature, 48)
	case PS256:
		digest := sha256.Sum256(input)
		options := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash} // RFC 7518 section 3.5
		return rsa.VerifyPSS(k.public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature, &options) == nil
	case RS256:
		digest := sha256.Sum256(input)
		return rsa.VerifyPKCS1v15(k.public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// verifyECDSA takes R || S, each of exactly size bytes (RFC 7518 section 3.4).
func verifyECDSA(public *ecdsa.PublicKey, digest, signature []byte, size int) bool {
	if len(signature) != 2*size {
		return false
	}
	r := new(big.Int).SetBytes(signature[:size])
	s := new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(public, digest, r, s)
}

// Profile is one kind of JWT in this project: each has its own `typ`, so that
// none can be taken for another (RFC 8725 section 3.11).
type Profile struct {
	// Typ is the header's `typ`, compared byte for byte: 1 to 255 visible ASCII
	// characters without quote and backslash. With another, nothing opens or seals.
	Typ string
	// MaxLength is the longest compact form that is looked at, in bytes.
	MaxLength int
}

// Open returns the payload of a compact JWS (RFC 7515 section 7.1) of this
// profile, after checking its form, its header and its signature; the payload's
// meaning is the caller's to check. The header must be exactly `alg`, `typ` and
// `kid`. keys is asked once, for a kid of the right form. The error is a
// *Refusal; until the signature has verified its Reason is TOKEN_INVALID, or
// TRUST_STALE when keys cannot tell.
func (p Profile) Open(ctx context.Context, raw string, keys KeySource) (payload string, key Key, err error) {
	opened, err := open(ctx, raw, p.MaxLength, typs{p.Typ}, func(ctx context.Context, h header, _ string) (Key, error) { return keys.Key(ctx, h.kid) })
	return opened.payload, opened.key, err
}

// Opener returns Open for who opens many tokens: what is prepared of the keys that sign
// often makes their signatures cheaper to check. Its memory is bounded, and it reads the
// time from now. It is safe for concurrent use.
func (p Profile) Opener(now func() time.Time) func(ctx context.Context, raw string, keys KeySource) (payload string, key Key, err error) {
	cache := prepared.NewCache(now)
	return func(ctx context.Context, raw string, keys KeySource) (payload string, key Key, err error) {
		return p.openPrepared(ctx, raw, keys, cache)
	}
}

func (p Profile) openPrepared(ctx context.Context, raw string, keys KeySource, cache *prepared.Cache) (payload string, key Key, err error) {
	find := func(ctx context.Context, h header, _ string) (Key, error) {
		key, err := keys.Key(ctx, h.kid)
		if err == nil {
			key.prepared = cache.Get(key.id)
		}
		return key, err
	}
	opened, err := open(ctx, raw, p.MaxLength, typs{p.Typ}, find)
	if err != nil {
		return "", Key{}, err
	}
	key = opened.key
	key.prepared = nil // as it came
	cache.Used(key.id, key.public)
	return opened.payload, key, nil
}

// opened is a compact JWS whose signature has verified.
type opened struct {
	payload string
	key     Key
	typ     string
}

// open is Profile.Open of one of some kinds, with a key that is found by the header,
// and with a hint from the encoded payload, which nothing has verified yet.
func open(ctx context.Context, raw string, most int, of typs, find func(ctx context.Context, h header, payload string) (Key, error)) (opened, error) {
	if len(raw) > most {
		return opened{}, invalid("token.length")
	}
	jws, err := split(raw)
	if err != nil {
		return opened{}, err
	}
	h, err := of.readHeader(jws)
	if err != nil {
		return opened{}, err
	}
	key, err := find(ctx, h, jws.payload)
	switch {
	case errors.Is(err, ErrKeyUnknown):
		return opened{}, invalid("key.unknown")
	case err != nil:
		return opened{}, &Refusal{Reason: ReasonTrustStale, Check: "verify.trust", Err: err}
	case key.id != h.kid:
		return opened{}, invalid("key.unknown")
	case key.algorithm != h.alg:
		return opened{}, invalid("key.alg")
	}
	payload, err := jws.verify(key)
	if err != nil {
		return opened{}, err
	}
	return opened{payload, key, h.typ}, nil
}

// maxHeader is the longest encoded header that is read, in bytes: what a stranger
// can have decoded. A header of this project's has some 150.
const maxHeader = 2048

// compact is a compact JWS (RFC 7515 section 7.1) in its three parts. None is
// empty, and each is canonical base64url.
type compact struct {
	input                      string // header.payload, what is signed
	header, payload, signature string
}

func split(raw string) (compact, error) {
	header, rest, ok := strings.Cut(raw, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || header == "" || payload == "" || signature == "" || strings.IndexByte(signature, '.') >= 0 {
		return compact{}, invalid("token.parts")
	}
	if len(header) > maxHeader {
		return compact{}, invalid("token.length")
	}
	if !isBase64URL(header) || !isBase64URL(payload) || !isBase64URL(signature) {
		return compact{}, invalid("token.base64url")
	}
	return compact{raw[:len(header)+1+len(payload)], header, payload, signature}, nil
}

// verify returns the decoded payload if the signature is the key's.
func (c compact) verify(key Key) (payload string, err error) {
	var room [2048]byte // on the stack; what is longer gets room of its own
	input := append(room[:0], c.input...)
	signature, err := base64url.AppendDecode(input[len(input):], []byte(c.signature))
	if err != nil {
		return "", invalid("token.base64url")
	}
	if !key.verify(input, signature) {
		return "", invalid("signature")
	}
	decoded, err := base64url.AppendDecode(room[:0], []byte(c.payload))
	if err != nil {
		return "", invalid("token.base64url")
	}
	return string(decoded), nil
}

// Seal returns payload signed by signer as a compact JWS of this profile.
func (p Profile) Seal(ctx context.Context, payload []byte, signer Signer) (string, error) {
	key := signer.Key()
	if key.id == "" {
		return "", errors.New("the signer has no public key")
	}
	if err := checkName("Profile.Typ", p.Typ); err != nil {
		return "", err
	}
	var room [256]byte
	header := append(append(room[:0], `{"alg":"`...), key.algorithm...)
	header = append(append(header, `","kid":"`...), key.id...)
	header = append(append(append(header, `","typ":"`...), p.Typ...), `"}`...)
	size := base64url.EncodedLen(len(header)) + 1 + base64url.EncodedLen(len(payload))
	compact := make([]byte, 0, size+1+base64url.EncodedLen(96)) // of ES384; what is longer, RSA's, gets room of its own
	compact = base64url.AppendEncode(compact, header)
	compact = append(compact, '.')
	compact = base64url.AppendEncode(compact, payload)
	signature, err := signer.Sign(ctx, compact)
	if err != nil {
		return "", err
	}
	compact = append(compact, '.')
	compact = base64url.AppendEncode(compact, signature)
	if len(compact) > p.MaxLength {
		return "", errors.New("the signed token would be longer than its profile allows")
	}
	return string(compact), nil
}

// base64url refuses padding and non-zero trailing bits (RFC 4648 section 3.5),
// so that one value has one spelling.
var base64url = base64.RawURLEncoding.Strict()

// isBase64URL checks what can be checked without decoding. The alphabet must be
// checked here: encoding/base64 skips CR and LF even when strict.
func isBase64URL(s string) bool {
	if len(s)%4 == 1 {
		return false
	}
	for i := range len(s) {
		if !isBase64URLChar[s[i]] {
			return false
		}
	}
	// The bits that the last character has beyond whole bytes must be zero.
	switch last := strings.IndexByte(base64URLAlphabet, s[len(s)-1]); len(s) % 4 {
	case 2:
		return last&0x0f == 0
	case 3:
		return last&0x03 == 0
	}
	return true
}

const base64URLAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

var isBase64URLChar = func() (set [256]bool) {
	for i := range len(base64URLAlphabet) {
		set[base64URLAlphabet[i]] = true
	}
	return set
}()

type header struct {
	alg      Algorithm
	typ, kid string
}

// typs are the values of `typ` that are taken in one place.
type typs []string

// readHeader reads and checks a protected header. Most are spelled as Seal spells
// them; with values that pass the check, none of which has a quote or a
// backslash, such a text can mean nothing else, and needs no parser.
func (t typs) readHeader(c compact) (header, error) {
	text, err := c.decodeHeader()
	if err != nil {
		return header{}, err
	}
	if h, ok := cutHeader(text); ok && t.checkHeader(h) == nil {
		return h, nil
	}
	h, err := parseHeader(text)
	if err == nil {
		err = t.checkHeader(h)
	}
	return h, err
}

func (c compact) decodeHeader() (string, error) {
	var room [256]byte
	decoded, err := base64url.AppendDecode(room[:0], []byte(c.header))
	if err != nil {
		return "", invalid("token.base64url")
	}
	return string(decoded), nil
}

// cutHeader returns the values of a text that begins, goes on and ends as Seal's
// do. They may be anything.
func cutHeader(text string) (h header, ok bool) {
	rest, begins := strings.CutPrefix(text, `{"alg":"`)
	alg, rest, _ := strings.Cut(rest, `","kid":"`)
	kid, rest, _ := strings.Cut(rest, `","typ":"`)
	typ, ends := strings.CutSuffix(rest, `"}`)
	return header{Algorithm(alg), typ, kid}, begins && ends
}

// parseHeader reads a header in any spelling: no member but alg, typ and kid.
// That one rule refuses jwk, jku, x5u, x5c, crit, b64, zip and cty.
func parseHeader(text string) (header, error) {
	var alg, typ, kid string
	err := strictjson.Read(text, func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "alg":
				alg, err = r.String()
			case "typ":
				typ, err = r.String()
			case "kid":
				kid, err = r.String()
			default:
				err = errMember
			}
			return err
		})
	})
	switch {
	case errors.Is(err, strictjson.ErrSyntax):
		return header{}, invalid("header.json")
	case err != nil:
		return header{}, invalid("header.members")
	}
	return header{Algorithm(alg), typ, kid}, nil
}

// checkHeader checks the members' values. None can be missing: an empty one is
// refused.
func (t typs) checkHeader(h header) error {
	switch {
	case !slices.Contains(t, h.typ) || !ident.Name(h.typ):
		return invalid("header.typ")
	case !isThumbprint(h.kid):
		return invalid("header.kid")
	case !slices.Contains(Algorithms(), h.alg):
		return invalid("header.alg")
	}
	return nil
}

var errMember = errors.New("a member is not in the schema")

// isThumbprint reports whether kid has the form of an RFC 7638 thumbprint with
// SHA-256: 32 bytes in base64url.
func isThumbprint(kid string) bool { return len(kid) == 43 && isBase64URL(kid) }

func invalid(check Check) *Refusal {
	return &Refusal{Reason: ReasonTokenInvalid, Check: check, Detail: checkDetails[check]}
}

// checkDetails says what each check before the signature demands. The texts are
// fixed: what an unauthenticated caller sent is never repeated.
var checkDetails = map[Check]string{
	"token.length":    "longer than the limit",
	"token.parts":     "not three non-empty parts",
	"token.base64url": "a part is not canonical base64url",
	"header.json":     "the header is not strict JSON",
	"header.members":  "the header is not exactly alg, typ and kid, each a string",
	"header.alg":      "alg is not one of the asymmetric algorithms of the profile",
	"header.typ":      "typ is not this kind of token's",
	"header.kid":      "kid is not an RFC 7638 thumbprint",
	"key.unknown":     "no trusted issuer lists the key",
	"key.alg":         "alg is not the key's algorithm",
	"signature":       "the signature does not verify",
}
