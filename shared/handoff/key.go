package handoff

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/internal/prepared"
)

// Key is a vetted public key that verifies one algorithm. Its id is the RFC 7638
// SHA-256 thumbprint, so that one id is one key, in every list. The zero Key
// verifies nothing. A Key is immutable and safe for concurrent use.
type Key struct {
	_           [0]func() // two keys are the same by ID; == does not compile
	id          string
	algorithm   Algorithm
	public      crypto.PublicKey
	prepared    *prepared.Key // nil: the standard library checks
	revocations Revocations   // nil: nothing that it has signed can be taken back
}

// KeySource is where a verifier finds the keys of one issuer. Implementations
// are safe for concurrent use, answer from memory, and never fetch on behalf of
// a token. A source that knows what its issuer has taken back returns keys that
// carry it: see Key.WithRevocations. A source that also has a method Keys() []Key,
// which returns the keys that may sign handoffs now, and none while it cannot tell, is
// not asked in vain: a verifier with many issuers then refuses a key that nobody lists
// in one look.
type KeySource interface {
	// Key returns the key with this id if it may sign handoffs now, and
	// ErrKeyUnknown if it may not. Any other error means that the source cannot
	// tell, which refuses the token with TRUST_STALE.
	Key(ctx context.Context, kid string) (Key, error)
}

// Revocations knows what an issuer has taken back. Implementations are safe for
// concurrent use and answer from memory.
type Revocations interface {
	// Revoked returns nil if the token with these claims stands; ErrRevoked if it
	// has been taken back. Any other error means that it cannot tell, which
	// refuses with TRUST_STALE.
	Revoked(ctx context.Context, claims *Claims) error
}

// ErrRevoked is what Revocations answers for a token that has been taken back.
var ErrRevoked = errors.New("revoked")

// ErrKeyUnknown is a KeySource's answer for a key that it does not list.
var ErrKeyUnknown = errors.New("no such key")

// NewKey vets a public key for an algorithm. It refuses a key of another type
// than the algorithm's, an elliptic point that is not on the curve, an Ed25519
// key of low order or of which this is not the canonical encoding, and an RSA modulus outside 2048 to 4096 bits, with a public
// exponent other than 65537, or with the structure of CVE-2017-15361 (ROCA).
func NewKey(algorithm Algorithm, public crypto.PublicKey) (Key, error) {
	if err := vet(algorithm, public); err != nil {
		return Key{}, fmt.Errorf("unusable %s key: %w", algorithm, err)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return Key{}, fmt.Errorf("unusable %s key: %w", algorithm, err)
	}
	return Key{
		id:        base64.RawURLEncoding.EncodeToString(thumbprint),
		algorithm: algorithm,
		public:    public,
	}, nil
}

// ID returns the key's RFC 7638 thumbprint in base64url: its `kid`.
func (k Key) ID() string { return k.id }

// WithRevocations returns the key as one whose tokens can be taken back: a
// verifier asks r about each token that the key has signed. r travels with the
// key, so that no decorator of a KeySource can lose it.
func (k Key) WithRevocations(r Revocations) Key {
	k.revocations = r
	return k
}

// Algorithm returns the one algorithm that the key verifies.
func (k Key) Algorithm() Algorithm { return k.algorithm }

// Public returns the public key: an ed25519.PublicKey, *ecdsa.PublicKey or
// *rsa.PublicKey. Do not modify it.
func (k Key) Public() crypto.PublicKey { return k.public }

func vet(algorithm Algorithm, public crypto.PublicKey) error {
	switch public := public.(type) {
	case ed25519.PublicKey:
		if algorithm != EdDSA {
			return errors.New("an Ed25519 key verifies only EdDSA")
		}
		if !isCanonicalPoint(public) {
			return errors.New("not the one encoding of a point")
		}
		return vetPoint(public)
	case *ecdsa.PublicKey:
		want := map[Algorithm]elliptic.Curve{ES256: elliptic.P256(), ES384: elliptic.P384()}[algorithm]
		if want == nil || public == nil || public.Curve != want {
			return errors.New("the key's curve is not the algorithm's")
		}
		if err := vetPoint(public); err != nil {
			return err
		}
		_, err := public.ECDH() // a JWK cannot show that a coordinate is negative
		return err
	case *rsa.PublicKey:
		if algorithm != RS256 && algorithm != PS256 {
			return errors.New("an RSA key verifies only RS256 or PS256")
		}
		return vetModulus(public)
	}
	return fmt.Errorf("a key of type %T has no algorithm here", public)
}

// isCanonicalPoint reports whether y, the low 255 bits, is below 2^255-19 (RFC
// 8032 section 5.1.3). crypto/ed25519 takes a larger one modulo that, and the key
// would have a second spelling with an id of its own.
func isCanonicalPoint(public ed25519.PublicKey) bool {
	if len(public) != ed25519.PublicKeySize {
		return false
	}
	for _, b := range public[1:31] {
		if b != 0xff {
			return true
		}
	}
	return public[0] < 0xed || public[31]&0x7f != 0x7f
}

// vetPoint has go-jose parse the key as if it had come in a JWK: this is where
// it refuses points off the curve and Ed25519 keys of low order, with which
// anybody's signature verifies anything.
func vetPoint(public crypto.PublicKey) error {
	jwk := jose.JSONWebKey{Key: public}
	if !jwk.Valid() {
		return errors.New("not a point on the curve")
	}
	text, err := jwk.MarshalJSON()
	if err != nil {
		return err
	}
	return new(jose.JSONWebKey).UnmarshalJSON(text)
}

func vetModulus(public *rsa.PublicKey) error {
	if public == nil || public.N == nil || public.N.Sign() <= 0 {
		return errors.New("the modulus is missing")
	}
	if bits := public.N.BitLen(); bits < 2048 || bits > 4096 {
		return fmt.Errorf("the modulus has %d bits: 2048 to 4096 are accepted", bits)
	}
	if public.E != 65537 {
		return errors.New("the public exponent is not 65537")
	}
	if public.N.Bit(0) == 0 {
		return errors.New("the modulus is even")
	}
	if isROCA(public.N) {
		return errors.New("the modulus has the weak structure of CVE-2017-15361 (ROCA)")
	}
	return nil
}

// isROCA reports whether n has the fingerprint of the broken Infineon generator:
// modulo each small prime, n lies in the subgroup that 65537 generates. Of
// honest moduli, fewer than one in 2^27 do. (Nemec et al., "The Return of
// Coppersmith's Attack", CCS 2017, section 3.)
func isROCA(n *big.Int) bool {
	primes := []int64{
		3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
		113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
	}
	for _, p := range primes {
		residue := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		member := false
		for power, i := int64(1), int64(0); i < p; i++ {
			if power == residue {
				member = true
				break
			}
			power = power * 65537 % p
		}
		if !member {
			return false
		}
	}
	return true
}
