//lint:file-ignore SA1019 what is tested here is keys that only their raw fields can make

package handoff_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// refusedForAll asserts that no algorithm takes the key.
func refusedForAll(t *testing.T, name string, public crypto.PublicKey) {
	t.Helper()
	for _, algorithm := range append(handoff.Algorithms(), "", "none", "HS256", "ES512", "RS512") {
		if key, err := handoff.NewKey(algorithm, public); err == nil {
			t.Errorf("%s: accepted as the %s key %s", name, algorithm, key.ID())
		} else if key.ID() != "" {
			t.Errorf("%s: a refused %s key was returned", name, algorithm)
		}
	}
}

// publicKeys are good keys, one for each algorithm.
func publicKeys(t *testing.T) map[handoff.Algorithm]crypto.PublicKey {
	t.Helper()
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := func(curve elliptic.Curve) crypto.PublicKey {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return private.Public()
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[handoff.Algorithm]crypto.PublicKey{
		handoff.EdDSA: ed, handoff.ES256: ec(elliptic.P256()), handoff.ES384: ec(elliptic.P384()),
		handoff.PS256: rsaKey.Public(), handoff.RS256: rsaKey.Public(),
	}
}

// A key serves the algorithm of its type and no other.
func TestA03KeyHasOneAlgorithm(t *testing.T) {
	public := publicKeys(t)
	isRSA := func(a handoff.Algorithm) bool { return a == handoff.PS256 || a == handoff.RS256 }
	for _, of := range handoff.Algorithms() {
		for _, as := range handoff.Algorithms() {
			key, err := handoff.NewKey(as, public[of])
			if want := of == as || isRSA(of) && isRSA(as); want != (err == nil) {
				t.Errorf("a key of %s as %s: %v", of, as, err)
			}
			if err == nil && (key.Algorithm() != as || key.Public() == nil) {
				t.Errorf("the key is one of %s, want %s", key.Algorithm(), as)
			}
		}
	}
}

// The zero Key, which a KeySource might return by mistake, has no id.
func TestZeroKey(t *testing.T) {
	if key := (handoff.Key{}); key.ID() != "" || key.Algorithm() != "" || key.Public() != nil {
		t.Errorf("the zero Key is %v", key)
	}
	if raw, err := handoff.KindHandoff.Profile().Seal(t.Context(), []byte("{}"), signer{&forge.Key{}}); err == nil || raw != "" {
		t.Errorf("a signer without a public key seals %q", raw)
	}
}

// RFC 7638 section 3.1 and RFC 8037 appendix A.3.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	number := func(s string) *big.Int { return new(big.Int).SetBytes(decode(t, s)) }
	for _, test := range []struct {
		algorithm handoff.Algorithm
		public    crypto.PublicKey
		want      string
	}{
		{handoff.EdDSA, ed25519.PublicKey(decode(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		{handoff.RS256, &rsa.PublicKey{E: 65537, N: number(
			"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6" +
				"4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9" +
				"1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")}, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
	} {
		key, err := handoff.NewKey(test.algorithm, test.public)
		if err != nil {
			t.Fatal(err)
		}
		if key.ID() != test.want {
			t.Errorf("the id of the %s key is %s, want %s", test.algorithm, key.ID(), test.want)
		}
	}
}

func decode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// odd returns an odd number of exactly this many bits.
func odd(t *testing.T, bits int) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		t.Fatal(err)
	}
	return n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
}

func TestA18WeakRSA(t *testing.T) {
	good := func() *rsa.PublicKey { return publicKeys(t)[handoff.RS256].(*rsa.PublicKey) }()
	for name, spoil := range map[string]func(*rsa.PublicKey){
		"1024 bits":          func(k *rsa.PublicKey) { k.N = odd(t, 1024) },
		"2047 bits":          func(k *rsa.PublicKey) { k.N = odd(t, 2047) },
		"4097 bits":          func(k *rsa.PublicKey) { k.N = odd(t, 4097) },
		"16384 bits":         func(k *rsa.PublicKey) { k.N = odd(t, 16384) },
		"e = 0":              func(k *rsa.PublicKey) { k.E = 0 },
		"e = 1":              func(k *rsa.PublicKey) { k.E = 1 },
		"e = 3":              func(k *rsa.PublicKey) { k.E = 3 },
		"e = 65536":          func(k *rsa.PublicKey) { k.E = 65536 },
		"e = -65537":         func(k *rsa.PublicKey) { k.E = -65537 },
		"an even modulus":    func(k *rsa.PublicKey) { k.N = new(big.Int).SetBit(k.N, 0, 0) },
		"a modulus of 0":     func(k *rsa.PublicKey) { k.N = new(big.Int) },
		"a negative modulus": func(k *rsa.PublicKey) { k.N = new(big.Int).Neg(k.N) },
		"no modulus":         func(k *rsa.PublicKey) { k.N = nil },
		"ROCA":               func(k *rsa.PublicKey) { k.N = rocaModulus() },
	} {
		t.Run(name, func(t *testing.T) {
			key := *good
			spoil(&key)
			refusedForAll(t, name, &key)
		})
	}
	refusedForAll(t, "a nil key", (*rsa.PublicKey)(nil))
	refusedForAll(t, "a key by value", *good)
	for _, bits := range []int{2048, 2049, 3072, 4096} {
		if _, err := handoff.NewKey(handoff.PS256, &rsa.PublicKey{N: odd(t, bits), E: 65537}); err != nil {
			t.Errorf("a modulus of %d bits: %v", bits, err)
		}
	}
}

// rocaModulus makes a modulus as the broken generator did: two numbers of the
// form k*M + 65537^a mod M, where M is the product of the first 126 primes for a
// key of 2048 bits (Nemec et al., section 2.1). They need not be prime: what is
// tested for is the form.
func rocaModulus() *big.Int {
	m := big.NewInt(1)
	for p, found := int64(2), 0; found < 126; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
			found++
		}
	}
	number := func(a int64) *big.Int {
		n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(a), m)
		k := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(3), 1022), m) // to bring it to 1024 bits
		return n.Add(n, k.Mul(k, m))
	}
	return number(123456789).Mul(number(123456789), number(987654321))
}

// The key with that structure which Wycheproof has.
func TestA18WycheproofROCA(t *testing.T) {
	for _, group := range wycheproof(t, "json_web_key_test.json").TestGroups {
		if group.Comment != "jws_rsa_roca_key" {
			continue
		}
		var set struct{ Keys []struct{ N string } }
		if err := json.Unmarshal(group.Public, &set); err != nil || len(set.Keys) != 1 {
			t.Fatal(err)
		}
		refusedForAll(t, "ROCA", &rsa.PublicKey{N: new(big.Int).SetBytes(decode(t, set.Keys[0].N)), E: 65537})
		return
	}
	t.Error("the file has no such key")
}

func TestA19WeakEd25519(t *testing.T) {
	// Every encoding of a point of order 1, 2, 4 or 8 that Go's verifier takes,
	// without the sign bit: y = 1, -1, 0, the two of order 8, then y = p and p+1.
	for _, text := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		key, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		refusedForAll(t, text, ed25519.PublicKey(key))
		key[31] |= 0x80
		refusedForAll(t, text+" with the sign bit", ed25519.PublicKey(key))
	}
	// Each y from p to 2^255-1: a second spelling of 0 to 18.
	for low := 0xed; low <= 0xff; low++ {
		key := ed25519.PublicKey(slices.Repeat([]byte{0xff}, 32))
		key[0] = byte(low)
		refusedForAll(t, "a non-canonical y", slices.Clone(key))
		key[31] = 0x7f
		refusedForAll(t, "a non-canonical y", key)
	}
	good := publicKeys(t)[handoff.EdDSA].(ed25519.PublicKey)
	for name, key := range map[string]ed25519.PublicKey{
		"nil": nil, "empty": {}, "31 bytes": good[:31], "33 bytes": append(slices.Clone(good), 0), "64 bytes": append(slices.Clone(good), good...),
	} {
		refusedForAll(t, name, key)
	}
	refusedForAll(t, "a pointer to a key", &good)
}

func TestKeyOffItsCurve(t *testing.T) {
	good := publicKeys(t)
	for _, algorithm := range []handoff.Algorithm{handoff.ES256, handoff.ES384} {
		point := func(x, y *big.Int) *ecdsa.PublicKey {
			return &ecdsa.PublicKey{Curve: good[algorithm].(*ecdsa.PublicKey).Curve, X: x, Y: y}
		}
		key := good[algorithm].(*ecdsa.PublicKey)
		p := key.Curve.Params().P
		for name, spoiled := range map[string]*ecdsa.PublicKey{
			"a point off the curve":  point(key.X, new(big.Int).Add(key.Y, big.NewInt(1))),
			"the point at infinity":  point(new(big.Int), new(big.Int)),
			"x beyond the field":     point(new(big.Int).Add(key.X, p), key.Y),
			"y beyond the field":     point(key.X, new(big.Int).Add(key.Y, p)),
			"a negative x":           point(new(big.Int).Neg(key.X), key.Y),
			"a negative y":           point(key.X, new(big.Int).Sub(key.Y, p)),
			"no x":                   point(nil, key.Y),
			"no y":                   point(key.X, nil),
			"no curve":               {X: key.X, Y: key.Y},
			"the other curve's name": {Curve: elliptic.P521(), X: key.X, Y: key.Y},
			"nothing":                {},
			"nil":                    nil,
		} {
			refusedForAll(t, string(algorithm)+": "+name, spoiled)
		}
	}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		refusedForAll(t, curve.Params().Name, private.Public())
	}
}

// A private or symmetric key, or anything else, is not a public key.
func TestKeyOfAnotherType(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, public := range map[string]crypto.PublicKey{
		"nil": nil, "a private key": private, "bytes": []byte(private[32:]), "a text": "key", "a number": 1, "a pointer to nothing": (*ed25519.PrivateKey)(nil),
	} {
		refusedForAll(t, name, public)
	}
}
