// Package signkey makes, keeps and loads signing keys: the private keys that
// only an issuer has.
//
//	key, err := signkey.Generate(handoff.EdDSA)
//	err = key.Save("shop.key")
//
//	key, err := signkey.Load("shop.key")
//	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key})
//
// A key that never leaves its hardware or service is a crypto.Signer:
//
//	key, err := signkey.New(handoff.ES256, signer)
//
// server1/pkcs11, a module of its own, makes one of a key in a PKCS#11 token.
//
// # The file
//
// One key a file, as a private JWK (RFC 7517, RFC 7518 section 6, RFC 8037): that
// form carries the algorithm, which PEM does not for RSA. `alg` is required and
// `kid`, where present, is the key's RFC 7638 thumbprint; other members than
// those of the key, `use`, `key_ops` and `kid` are refused. Nobody but its owner
// may be able to read the file: Load refuses one that others can.
//
// # Invariants
//
// A Key has signed once, and its own public key has verified that, before anyone
// gets it. It prints as its algorithm and id, with every verb. Errors contain no
// part of a key.
//
// # What it does not do
//
// The file is not encrypted: keep it where only the issuer's process can read, or
// keep the key in a key service. The package is never linked into a verifier.
package signkey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Key is a signing key, a handoff.Signer and, as it never changes, a
// handoff.SignerSource. It is immutable; it is safe for concurrent use if its
// crypto.Signer is, as those of the standard library are.
type Key struct {
	public handoff.Key
	signer jose.OpaqueSigner
	secret *secret
}

// secret stands behind a pointer, which fmt does not follow in a field.
type secret struct{ signer crypto.Signer }

// rsaBits is the size of the RSA keys that Generate makes: the strength of the
// other algorithms (NIST SP 800-57 part 1, section 5.6.1.1).
const rsaBits = 3072

// Generate makes a new key.
func Generate(algorithm handoff.Algorithm) (*Key, error) {
	var signer crypto.Signer
	var err error
	switch algorithm {
	case handoff.EdDSA:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	case handoff.ES256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case handoff.ES384:
		signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case handoff.PS256, handoff.RS256:
		signer, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		return nil, fmt.Errorf("the algorithm is none of %s", handoff.Algorithms())
	}
	if err != nil {
		return nil, err
	}
	return New(algorithm, signer)
}

// New returns the key that signs with signer. It refuses a public key that
// handoff.NewKey refuses for the algorithm, and a signer whose signature that
// public key does not verify.
//
// For PS256 the signer is asked for a salt as long as the hash, by
// *rsa.PSSOptions, also if it has another default.
func New(algorithm handoff.Algorithm, signer crypto.Signer) (*Key, error) {
	if signer == nil {
		return nil, errors.New("a crypto.Signer is required")
	}
	public, err := handoff.NewKey(algorithm, signer.Public())
	if err != nil {
		return nil, err
	}
	k := &Key{public: public, signer: cryptosigner.Opaque(signer), secret: &secret{signer}}
	if algorithm == handoff.PS256 {
		k.signer = cryptosigner.Opaque(hashLongSalt{signer})
	}
	if err := k.prove(); err != nil {
		return nil, fmt.Errorf("the %s key does not make signatures that it verifies: %w", algorithm, err)
	}
	return k, nil
}

// hashLongSalt makes PSS signatures with a salt of the hash's length, which
// RFC 7518 section 3.5 demands; go-jose asks for the longest that fits.
type hashLongSalt struct{ crypto.Signer }

func (s hashLongSalt) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(random, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()})
}

// prove signs a token that nothing accepts, and verifies it.
func (k *Key) prove() error {
	profile := handoff.Profile{Typ: "handoff-proof+jwt", MaxLength: 4096}
	raw, err := profile.Seal(context.Background(), []byte("{}"), k)
	if err != nil {
		return err
	}
	_, _, err = profile.Open(context.Background(), raw, only{k.public})
	return err
}

type only struct{ key handoff.Key }

func (o only) Key(context.Context, string) (handoff.Key, error) { return o.key, nil }

// Key returns the public key.
func (k *Key) Key() handoff.Key { return k.public }

// Signer returns k.
func (k *Key) Signer(context.Context) (handoff.Signer, error) { return k, nil }

// Sign returns the JWS signature of input (RFC 7518 section 3, RFC 8037 section
// 3.1). An error is the crypto.Signer's.
func (k *Key) Sign(_ context.Context, input []byte) ([]byte, error) {
	return k.signer.SignPayload(input, jose.SignatureAlgorithm(k.public.Algorithm()))
}

// Format prints the algorithm and the id, for every verb.
func (k Key) Format(state fmt.State, _ rune) {
	fmt.Fprintf(state, "%s signing key %s", k.public.Algorithm(), k.public.ID())
}
