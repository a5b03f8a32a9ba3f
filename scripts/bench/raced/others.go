package raced

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// What people write with the other libraries. None of it compares the operation
// or spends the token.

// details is the claim that names the operation, as they would declare it.
type details []struct {
	Type    string            `json:"type"`
	Actions []string          `json:"actions"`
	Fields  map[string]string `json:"fields"`
}

// Alone is a signature check by crypto/* and nothing else: the bound.
type Alone struct {
	input, signature []byte
	r, s             *big.Int
}

// Apart splits a token beforehand.
func Apart(raw string) (Alone, error) {
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		return Alone{}, err
	}
	half := len(signature) / 2
	return Alone{
		[]byte(raw[:dot]), signature, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]),
	}, nil
}

var ErrSignature = errors.New("the signature does not verify")

func (a Alone) Verify(algorithm handoff.Algorithm, public crypto.PublicKey) error {
	valid := false
	switch public := public.(type) {
	case ed25519.PublicKey:
		valid = ed25519.Verify(public, a.input, a.signature)
	case *ecdsa.PublicKey:
		digest := hashed(algorithm, a.input)
		valid = ecdsa.Verify(public, digest, a.r, a.s)
	case *rsa.PublicKey:
		digest := hashed(algorithm, a.input)
		if algorithm == handoff.PS256 {
			valid = rsa.VerifyPSS(public, crypto.SHA256, digest, a.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		} else {
			valid = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, a.signature) == nil
		}
	}
	if !valid {
		return ErrSignature
	}
	return nil
}

// Sign signs by crypto/* and nothing else.
func (a Alone) Sign(algorithm handoff.Algorithm, private crypto.Signer) error {
	var err error
	switch private := private.(type) {
	case ed25519.PrivateKey:
		_ = ed25519.Sign(private, a.input)
	case *ecdsa.PrivateKey:
		_, _, err = ecdsa.Sign(rand.Reader, private, hashed(algorithm, a.input))
	case *rsa.PrivateKey:
		_, err = rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, hashed(algorithm, a.input))
	}
	return err
}

func hashed(algorithm handoff.Algorithm, input []byte) []byte {
	if algorithm == handoff.ES384 {
		digest := sha512.Sum384(input)
		return digest[:]
	}
	digest := sha256.Sum256(input)
	return digest[:]
}

// goJose is go-jose: ParseSigned, Claims, Validate.
func goJose(raw string, algorithm handoff.Algorithm, public crypto.PublicKey) error {
	token, err := josejwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
	if err != nil {
		return err
	}
	var standard josejwt.Claims
	var private struct {
		Session string  `json:"sid"`
		Details details `json:"authorization_details"`
	}
	if err := token.Claims(public, &standard, &private); err != nil {
		return err
	}
	return standard.Validate(josejwt.Expected{Issuer: ShopName, AnyAudience: josejwt.Audience{billingName}, Time: time.Now()})
}

// GolangJWT is golang-jwt with the checks that its manual shows.
type GolangJWT struct {
	parser *jwt.Parser
	key    jwt.Keyfunc
}

type GolangClaims struct {
	jwt.RegisteredClaims
	Session string  `json:"sid"`
	Details details `json:"authorization_details"`
}

func NewGolangJWT(algorithm handoff.Algorithm, public crypto.PublicKey) GolangJWT {
	return GolangJWT{
		jwt.NewParser(jwt.WithValidMethods([]string{string(algorithm)}), jwt.WithIssuer(ShopName),
			jwt.WithAudience(billingName), jwt.WithExpirationRequired()),
		func(*jwt.Token) (any, error) { return public, nil },
	}
}

func (g GolangJWT) Verify(raw string) (*GolangClaims, error) {
	var claims GolangClaims
	_, err := g.parser.ParseWithClaims(raw, &claims, g.key)
	return &claims, err
}

// bare has golang-jwt read only the registered claims, and check nothing but the
// times.
func (g GolangJWT) bare(raw string) error {
	_, err := jwt.ParseWithClaims(raw, &jwt.RegisteredClaims{}, g.key)
	return err
}

// jwx is lestrrat-go/jwx v3.
func jwx(raw string, algorithm handoff.Algorithm, public crypto.PublicKey) error {
	name, ok := jwa.LookupSignatureAlgorithm(string(algorithm))
	if !ok {
		return fmt.Errorf("jwx has no %s", algorithm)
	}
	_, err := jwxjwt.Parse([]byte(raw), jwxjwt.WithKey(name, public), jwxjwt.WithValidate(true),
		jwxjwt.WithIssuer(ShopName), jwxjwt.WithAudience(billingName))
	return err
}
