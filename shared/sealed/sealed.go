// Package sealed makes tokens that only their audience can read: a JWE (RFC 7516)
// around an unchanged handoff token, as section 7 of the token's SPEC.md says.
//
//	private, err := sealed.Generate()           // the audience's operator, once
//	err = private.Save("billing-unseal.key")
//
//	key, err := sealed.LoadKeys("billing-seal.jwks") // the issuer
//	raw, claims, err := issuer.Issue(ctx, handoff.IssueParams{…, Seal: key[0].Seal})
//
//	private, err := sealed.Load("billing-unseal.key") // the audience
//	opener, err := sealed.NewOpener(private)
//	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{…, Unseal: opener.Unseal})
//
// One public key goes from each side to the other, and no secret is shared.
//
// # When it is worth it
//
// TLS keeps a token from those who listen on the way. Sealing keeps what it names
// from those who carry it: a browser, a proxy that ends TLS, a client that is handed
// it. Where the user may know what is signed, as she usually does, it buys little,
// and a stranger's token costs the audience a second operation on a curve.
//
// # Invariants
//
// That a token is sealed says nothing of who has sealed it: the key is public, and anyone
// who can read a token can seal it. Its signature tells who issued it. A rule's `sealed` keeps
// the issuer to handing out nothing that can be read on the way.
//
// A private key prints as its id. Every defect of a sealed token is TOKEN_INVALID,
// and what costs more than reading comes last. The package signs nothing.
package sealed

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/strictjson"
)

// A sealed token is a JWE (RFC 7516) around an unchanged handoff token, which only
// the audience can read: ECDH-ES over P-256 (RFC 7518 section 4.6), A256GCM.
const (
	typ = "handoff-sealed+jwt"
	alg = "ECDH-ES"
	enc = "A256GCM"

	// MaxLength is the longest token that is looked at, sealed or not, in bytes:
	// a token of 4096 bytes takes 5462 in base64url, and the rest of the JWE some 500.
	MaxLength = 6144

	maxHeader = 1024 // in base64url; one of ours has some 430
)

// Key is an audience's public key, to which tokens are sealed. Its id is its
// RFC 7638 thumbprint. The zero Key seals nothing. It is immutable and safe for
// concurrent use.
type Key struct {
	id     string
	public *ecdsa.PublicKey
}

// NewKey vets a public key on P-256.
func NewKey(public *ecdh.PublicKey) (Key, error) {
	if public == nil || public.Curve() != ecdh.P256() {
		return Key{}, errors.New("unusable seal key: it is not on P-256")
	}
	point, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public.Bytes())
	if err != nil {
		return Key{}, fmt.Errorf("unusable seal key: %w", err)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: point}).Thumbprint(crypto.SHA256)
	if err != nil {
		return Key{}, fmt.Errorf("unusable seal key: %w", err)
	}
	return Key{id: base64url.EncodeToString(thumbprint), public: point}, nil
}

// ID returns the key's RFC 7638 thumbprint in base64url: its `kid`.
func (k Key) ID() string { return k.id }

// Seal returns a token as a JWE that only the holder of the private key can open.
// It does not look into raw, beyond its length.
func (k Key) Seal(raw string) (string, error) {
	if k.id == "" {
		return "", errors.New("the zero seal key seals nothing")
	}
	if len(raw) > handoff.KindHandoff.Profile().MaxLength {
		return "", errors.New("what is to be sealed is longer than a token")
	}
	options := new(jose.EncrypterOptions).WithType(typ).WithContentType(jose.ContentType(handoff.KindHandoff.Profile().Typ))
	encrypter, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: k.public, KeyID: k.id}, options)
	if err != nil {
		return "", err
	}
	jwe, err := encrypter.Encrypt([]byte(raw))
	if err != nil {
		return "", err
	}
	return jwe.CompactSerialize()
}

// PrivateKey is an audience's private key, which opens what was sealed to its public
// half. It signs nothing. It prints as its id, with every verb. It is immutable and
// safe for concurrent use.
type PrivateKey struct {
	public Key
	secret *secret
}

// secret stands behind a pointer, which fmt does not follow in a field.
type secret struct{ private *ecdh.PrivateKey }

// NewPrivateKey vets a private key on P-256.
func NewPrivateKey(private *ecdh.PrivateKey) (PrivateKey, error) {
	if private == nil || private.Curve() != ecdh.P256() {
		return PrivateKey{}, errors.New("unusable unseal key: it is not on P-256")
	}
	public, err := NewKey(private.PublicKey())
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{public: public, secret: &secret{private}}, nil
}

// Public returns the public half.
func (k PrivateKey) Public() Key { return k.public }

// Format prints the id, for any verb.
func (k PrivateKey) Format(state fmt.State, _ rune) {
	_, _ = io.WriteString(state, "unseal key "+k.public.id)
}

// Is reports whether raw has the form of a sealed token: five parts. It says
// nothing else about it.
func Is(raw string) bool { return strings.Count(raw, ".") == 4 }

// Opener opens what is sealed to one of its keys. It is immutable and safe for
// concurrent use.
type Opener struct{ keys []PrivateKey }

// NewOpener returns an opener with one key, or with two while the audience's key
// changes.
func NewOpener(keys ...PrivateKey) (*Opener, error) {
	switch {
	case len(keys) < 1 || len(keys) > 2:
		return nil, fmt.Errorf("%d unseal keys: it takes one, or two while it changes", len(keys))
	case slices.ContainsFunc(keys, func(k PrivateKey) bool { return k.secret == nil }):
		return nil, errors.New("the zero unseal key opens nothing")
	case len(keys) == 2 && keys[0].public.id == keys[1].public.id:
		return nil, errors.New("the same unseal key twice")
	}
	return &Opener{slices.Clone(keys)}, nil
}

// Unseal returns the token in a sealed one, as it was signed: nothing of it has been
// checked yet. The error is a *handoff.Refusal, with TOKEN_INVALID for every defect.
// The header is exactly what Seal writes, in any order.
func (o *Opener) Unseal(raw string) (string, error) {
	if len(raw) > MaxLength {
		return "", invalid("token.length")
	}
	parts := strings.SplitN(raw, ".", 6)
	if len(parts) != 5 || parts[0] == "" || parts[1] != "" || parts[3] == "" {
		return "", invalid("sealed.parts")
	}
	header, iv, ciphertext, tag := parts[0], parts[2], parts[3], parts[4]
	if len(header) > maxHeader {
		return "", invalid("token.length")
	}
	if len(iv) != 16 || len(tag) != 22 || !isBase64URL(header) || !isBase64URL(iv) || !isBase64URL(ciphertext) || !isBase64URL(tag) {
		return "", invalid("sealed.base64url")
	}
	kid, ephemeral, err := readHeader(header)
	if err != nil {
		return "", err
	}
	for _, key := range o.keys {
		if key.public.id == kid {
			return key.open(ephemeral, header, iv, ciphertext, tag)
		}
	}
	return "", invalid("sealed.key")
}

// open decrypts (RFC 7518 sections 4.6.2 and 5.3) what has the form of a JWE. The
// key agreement is go-jose's; its parser, which would read the header once more,
// takes more memory than a stranger should be able to ask for.
func (k PrivateKey) open(ephemeral []byte, header, iv, ciphertext, tag string) (string, error) {
	aead, err := k.agree(ephemeral)
	if err != nil { // the point is not on the curve
		return "", invalid("sealed.open")
	}
	nonce, err := base64url.DecodeString(iv)
	if err != nil {
		return "", invalid("sealed.base64url")
	}
	buffer := buffers.Get().(*[MaxLength]byte)
	defer func() {
		clear(buffer[:])
		buffers.Put(buffer)
	}()
	text, err := base64url.AppendDecode(buffer[:0], []byte(ciphertext))
	if err != nil {
		return "", invalid("sealed.base64url")
	}
	text, err = base64url.AppendDecode(text, []byte(tag))
	if err != nil {
		return "", invalid("sealed.base64url")
	}
	plaintext, err := aead.Open(text[:0], nonce, text, []byte(header))
	if err != nil {
		return "", invalid("sealed.open")
	}
	inner := string(plaintext)
	if Is(inner) {
		return "", invalid("sealed.inner")
	}
	return inner, nil
}

// buffers hold a token while it is decrypted: who is refused leaves no garbage of its
// length.
var buffers = sync.Pool{New: func() any { return new([MaxLength]byte) }}

// agree returns the content key as a cipher: Diffie-Hellman with the ephemeral
// point, and the Concat KDF over it (RFC 7518 section 4.6.2).
func (k PrivateKey) agree(ephemeral []byte) (cipher.AEAD, error) {
	point, err := ecdh.P256().NewPublicKey(ephemeral)
	if err != nil {
		return nil, err
	}
	z, err := k.secret.private.ECDH(point)
	if err != nil {
		return nil, err
	}
	const bits = 256
	algorithm := append(binary.BigEndian.AppendUint32(nil, uint32(len(enc))), enc...)
	nobody := make([]byte, 4) // apu and apv: none
	kdf := josecipher.NewConcatKDF(crypto.SHA256, z, algorithm, nobody, nobody, binary.BigEndian.AppendUint32(nil, bits), nil)
	key := make([]byte, bits/8)
	if _, err := io.ReadFull(kdf, key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// readHeader returns the kid and the ephemeral point of a header that has
// exactly alg, enc, epk, kid, typ and cty. That one rule refuses zip, apu, apv, p2c,
// jwk, crit and all others.
func readHeader(encoded string) (kid string, ephemeral []byte, err error) {
	text, err := base64url.DecodeString(encoded)
	if err != nil {
		return "", nil, invalid("sealed.base64url")
	}
	var h struct{ alg, enc, typ, cty string }
	err = strictjson.Read(string(text), func(r *strictjson.Reader) error {
		return r.Object(func(name string) (err error) {
			switch name {
			case "alg":
				h.alg, err = r.String()
			case "enc":
				h.enc, err = r.String()
			case "typ":
				h.typ, err = r.String()
			case "cty":
				h.cty, err = r.String()
			case "kid":
				kid, err = r.String()
			case "epk":
				ephemeral, err = readEphemeral(r)
			default:
				err = errMember
			}
			return err
		})
	})
	switch {
	case err != nil, ephemeral == nil,
		h.alg != alg, h.enc != enc, h.typ != typ, h.cty != handoff.KindHandoff.Profile().Typ, !isThumbprint(kid):
		return "", nil, invalid("sealed.header")
	}
	return kid, ephemeral, nil
}

// readEphemeral reads an ephemeral public key, a JWK of exactly kty, crv, x and y, as
// an uncompressed point. Whether it is on the curve is checked when it is used.
func readEphemeral(r *strictjson.Reader) ([]byte, error) {
	var kty, crv, x, y string
	err := r.Object(func(name string) (err error) {
		switch name {
		case "kty":
			kty, err = r.String()
		case "crv":
			crv, err = r.String()
		case "x":
			x, err = r.String()
		case "y":
			y, err = r.String()
		default:
			err = errMember
		}
		return err
	})
	if err != nil || kty != "EC" || crv != "P-256" || len(x) != 43 || len(y) != 43 || !isBase64URL(x) || !isBase64URL(y) {
		return nil, errMember
	}
	point, err := base64url.AppendDecode([]byte{4}, []byte(x))
	if err != nil {
		return nil, err
	}
	return base64url.AppendDecode(point, []byte(y))
}

var errMember = errors.New("a member is not as it must be")

// base64url refuses padding and non-zero trailing bits (RFC 4648 section 3.5).
var base64url = base64.RawURLEncoding.Strict()

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// isBase64URL checks the alphabet; encoding/base64 skips CR and LF even when strict.
// The rest is checked by decoding.
func isBase64URL(s string) bool { return strings.Trim(s, alphabet) == "" }

// isThumbprint reports whether s has the form of 32 bytes in base64url.
func isThumbprint(s string) bool {
	b, err := base64url.DecodeString(s)
	return err == nil && len(s) == 43 && len(b) == 32 && isBase64URL(s)
}

func invalid(check handoff.Check) error {
	return &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: check, Detail: details[check]}
}

// details are fixed: what an unauthenticated caller sent is never repeated.
var details = map[handoff.Check]string{
	"token.length":     "longer than the limit",
	"sealed.parts":     "not the five parts of a sealed token, of which the second is empty",
	"sealed.base64url": "a part is not canonical base64url of its length",
	"sealed.header":    "the header is not exactly that of a sealed token",
	"sealed.key":       "it is sealed to another key than this audience's",
	"sealed.open":      "it does not open",
	"sealed.inner":     "what is in it is sealed itself",
}
