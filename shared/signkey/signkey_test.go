package signkey_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// private has a private key for each algorithm, made once: RSA keys take long.
var private = sync.OnceValue(func() map[handoff.Algorithm]crypto.Signer {
	_, ed, err1 := ed25519.GenerateKey(rand.Reader)
	p256, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err3 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r, err4 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		panic(err)
	}
	return map[handoff.Algorithm]crypto.Signer{
		handoff.EdDSA: ed, handoff.ES256: p256, handoff.ES384: p384, handoff.PS256: r, handoff.RS256: r,
	}
})

func newKey(t testing.TB, algorithm handoff.Algorithm) *signkey.Key {
	t.Helper()
	k, err := signkey.New(algorithm, private()[algorithm])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// verifies reports whether a verifier that has the public key takes what k signs.
func verifies(t testing.TB, k *signkey.Key) error {
	t.Helper()
	keys, err := keyset.New(k.Key())
	if err != nil {
		t.Fatal(err)
	}
	profile := handoff.Profile{Typ: "test+jwt", MaxLength: 4096}
	raw, err := profile.Seal(context.Background(), []byte(`{"a":1}`), k)
	if err != nil {
		return err
	}
	payload, _, err := profile.Open(context.Background(), raw, keys)
	if err == nil && payload != `{"a":1}` {
		err = errors.New("another payload")
	}
	return err
}

func TestGenerate(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		k, err := signkey.Generate(algorithm)
		if err != nil {
			t.Fatal(algorithm, err)
		}
		if k.Key().Algorithm() != algorithm {
			t.Errorf("%s: the key is for %s", algorithm, k.Key().Algorithm())
		}
		if err := verifies(t, k); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		if signer, err := k.Signer(context.Background()); err != nil || signer != handoff.Signer(k) {
			t.Errorf("%s: not its own source", algorithm)
		}
	}
	for _, algorithm := range []handoff.Algorithm{"", "none", "HS256", "ES512", "eddsa"} {
		if _, err := signkey.Generate(algorithm); err == nil {
			t.Errorf("%q: accepted", algorithm)
		}
	}
}

// faulty is a crypto.Signer that does something else than it should.
type faulty struct {
	crypto.Signer
	public crypto.PublicKey
	sign   func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (f faulty) Public() crypto.PublicKey {
	if f.public != nil {
		return f.public
	}
	return f.Signer.Public()
}

func (f faulty) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if f.sign != nil {
		return f.sign(digest, opts)
	}
	return f.Signer.Sign(random, digest, opts)
}

func TestNewRefuses(t *testing.T) {
	keys := private()
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := x509.ParsePKCS1PrivateKey(weakRSA(t))
	if err != nil {
		t.Fatal(err)
	}
	errOut := errors.New("the service is down")
	r := keys[handoff.PS256].(*rsa.PrivateKey)
	for name, c := range map[string]struct {
		algorithm handoff.Algorithm
		signer    crypto.Signer
	}{
		"nil":                  {handoff.EdDSA, nil},
		"no algorithm":         {"", keys[handoff.EdDSA]},
		"none":                 {"none", keys[handoff.EdDSA]},
		"another algorithm":    {handoff.ES256, keys[handoff.EdDSA]},
		"another curve":        {handoff.ES256, keys[handoff.ES384]},
		"A18 1024 bits":        {handoff.PS256, small},
		"another's public key": {handoff.EdDSA, faulty{Signer: keys[handoff.EdDSA], public: other.Public()}},
		"no public key":        {handoff.EdDSA, faulty{Signer: keys[handoff.EdDSA], public: struct{}{}}},
		"an error": {handoff.EdDSA, faulty{Signer: keys[handoff.EdDSA], sign: func([]byte, crypto.SignerOpts) ([]byte, error) {
			return nil, errOut
		}}},
		"an empty signature": {handoff.EdDSA, faulty{Signer: keys[handoff.EdDSA], sign: func([]byte, crypto.SignerOpts) ([]byte, error) {
			return nil, nil
		}}},
		"a raw ECDSA signature": {handoff.ES256, faulty{Signer: keys[handoff.ES256], sign: func([]byte, crypto.SignerOpts) ([]byte, error) {
			return make([]byte, 64), nil
		}}},
		"C05 its own salt": {handoff.PS256, faulty{Signer: r, sign: func(digest []byte, _ crypto.SignerOpts) ([]byte, error) {
			return rsa.SignPSS(rand.Reader, r, crypto.SHA256, digest, &rsa.PSSOptions{SaltLength: 20})
		}}},
		"PKCS1 for PSS": {handoff.PS256, faulty{Signer: r, sign: func(digest []byte, _ crypto.SignerOpts) ([]byte, error) {
			return rsa.SignPKCS1v15(rand.Reader, r, crypto.SHA256, digest)
		}}},
	} {
		if k, err := signkey.New(c.algorithm, c.signer); err == nil || k != nil {
			t.Errorf("%s: accepted", name)
		} else if name == "an error" && !errors.Is(err, errOut) {
			t.Errorf("%s: %v hides the cause", name, err)
		}
	}
	for algorithm, signer := range keys { // the control
		if _, err := signkey.New(algorithm, faulty{Signer: signer}); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

// C05: go-jose alone asks for the longest salt that fits.
func TestSaltIsAsLongAsTheHash(t *testing.T) {
	k := newKey(t, handoff.PS256)
	signature, err := k.Sign(context.Background(), []byte("input"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("input"))
	public := k.Key().Public().(*rsa.PublicKey)
	for salt, ok := range map[int]bool{32: true, 20: false, 0x7fff: false} {
		err := rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: salt})
		if (err == nil) != ok {
			t.Errorf("salt of %d bytes: %v", salt, err)
		}
	}
}

// For every verb, a key prints as its public name.
func TestKeyPrintsNothingPrivate(t *testing.T) {
	ed := private()[handoff.EdDSA].(ed25519.PrivateKey)
	k := newKey(t, handoff.EdDSA)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q", "%t"} {
		for _, v := range []any{k, *k} {
			if got := fmt.Sprintf(verb, v); got != "EdDSA signing key "+k.Key().ID() {
				t.Errorf("%s of %T prints otherwise", verb, v)
			}
		}
	}
	// %p asks no method: it prints the fields.
	leaks := func(printed string) bool { return strings.Contains(printed, fmt.Sprint([]byte(ed[:8]))[1:24]) }
	if verb := "%p"; leaks(fmt.Sprintf(verb, *k)) || !leaks(fmt.Sprintf("%v", struct{ s crypto.Signer }{ed})) {
		t.Error("the verb p prints the private key, or this test does not see it")
	}
}

// weakRSA is a PKCS #1 key of 1024 bits, which crypto/rsa no longer makes.
func weakRSA(t *testing.T) []byte {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PrivateKey(k)
}

func BenchmarkSign(b *testing.B) {
	for _, algorithm := range handoff.Algorithms() {
		k := newKey(b, algorithm)
		input := make([]byte, 500)
		b.Run(string(algorithm), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Sign(context.Background(), input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	ed := private()[handoff.EdDSA].(ed25519.PrivateKey)
	input := make([]byte, 500)
	b.Run("crypto-ed25519", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ed25519.Sign(ed, input)
		}
	})
}
