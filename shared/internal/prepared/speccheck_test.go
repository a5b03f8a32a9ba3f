package prepared

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"filippo.io/edwards25519"
)

// signed is a key, a message and a signature.
type signed struct {
	public, message, signature []byte
}

// recipe makes a case of the set ed25519-speccheck, which Chalkias, Garillot and
// Nikolaenko published with "Taming the many EdDSAs" (2020, table 5). Its key is
// [a]B + [ta]T, and R is [r]B + [tr]T, where T has order 8. S is r + k*a. So the
// equation without the cofactor holds if the torsion of R + [k]A vanishes: for one
// message in eight.
type recipe struct {
	what       string
	a, r       byte // zero: of low order
	ta, tr     int
	holds      bool                  // without the cofactor
	publicAs   []byte                // another encoding of the key
	rAs        []byte                // another encoding of R
	hashedAs   bool                  // the hash is over that encoding, and not over the canonical one
	change     func(s []byte) []byte // of S
	acceptable bool                  // to crypto/ed25519
}

func recipes() []recipe {
	// y = 1 + p: the identity, not reduced; and y = -1 with the sign of x = 0 set.
	identity, minusOne := append([]byte{0xee}, slices.Concat(repeat(0xff)[:30], []byte{0x7f})...), append([]byte{0xec}, repeat(0xff)[:31]...)
	return []recipe{
		{what: "0: A and R of low order, S = 0", ta: 1, tr: 3, holds: true, acceptable: true},
		{what: "1: A of low order", ta: 1, r: 5, tr: 1, holds: true, acceptable: true},
		{what: "2: R of low order", a: 7, ta: 1, tr: 1, holds: true, acceptable: true},
		{what: "3: A and R of mixed order", a: 7, r: 5, ta: 1, tr: 1, holds: true, acceptable: true},
		{what: "4: valid only with the cofactor", a: 7, r: 5, ta: 1, tr: 1},
		{what: "5: valid only with the cofactor, and 8k not reduced", a: 7, r: 5, ta: 3, tr: 0},
		{what: "6: S + L", a: 7, r: 5, holds: true, change: plusL(1)},
		{what: "7: S much above L", a: 7, r: 5, holds: true, change: plusL(14)},
		{what: "8: R not canonical, hashed as canonical", a: 7, tr: 0, rAs: identity, holds: true},
		{what: "9: R not canonical, hashed as it is", a: 7, tr: 0, rAs: identity, hashedAs: true, holds: true},
		{what: "10: A not canonical, hashed as canonical", ta: 4, r: 5, tr: 0, publicAs: minusOne, holds: true},
		{what: "11: A not canonical, hashed as it is", ta: 4, r: 5, tr: 0, publicAs: minusOne, hashedAs: true, holds: true, acceptable: true},
	}
}

// plusL returns what adds L to S n times.
func plusL(n int) func([]byte) []byte {
	return func(s []byte) []byte {
		l, _ := hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
		s = bytes.Clone(s)
		for range n {
			carry := 0
			for i := range s {
				carry += int(s[i]) + int(l[i])
				s[i] = byte(carry)
				carry >>= 8
			}
		}
		return s
	}
}

func scalar(b byte) *edwards25519.Scalar {
	s, err := new(edwards25519.Scalar).SetCanonicalBytes(append([]byte{b}, make([]byte, 31)...))
	if err != nil {
		panic(err)
	}
	return s
}

// point returns [n]B + [torsion]T.
func point(t testing.TB, n byte, torsion int) *edwards25519.Point {
	encoding, _ := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	order8, err := new(edwards25519.Point).SetBytes(encoding)
	if err != nil {
		t.Fatal(err)
	}
	p := new(edwards25519.Point).ScalarBaseMult(scalar(n))
	for range torsion {
		p.Add(p, order8)
	}
	return p
}

// cook makes the case, with the first message for which the equation holds, or
// does not, as the recipe says.
func (c recipe) cook(t testing.TB) signed {
	t.Helper()
	a, r := point(t, c.a, c.ta), point(t, c.r, c.tr)
	public, encodedR := a.Bytes(), r.Bytes()
	hashedPublic, hashedR := public, encodedR
	if c.publicAs != nil {
		public = c.publicAs
	}
	if c.rAs != nil {
		encodedR = c.rAs
	}
	if c.hashedAs {
		hashedPublic, hashedR = public, encodedR
	}
	for i := range 1000 {
		message := fmt.Appendf(nil, "message %d", i)
		hash := sha512.Sum512(slices.Concat(hashedR, hashedPublic, message))
		k, err := new(edwards25519.Scalar).SetUniformBytes(hash[:])
		if err != nil {
			t.Fatal(err)
		}
		s := new(edwards25519.Scalar).MultiplyAdd(k, scalar(c.a), scalar(c.r))
		minusA := new(edwards25519.Point).Negate(a)
		left := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(k, minusA, s)
		if holds := left.Equal(r) == 1; holds != c.holds {
			continue
		}
		bytes := s.Bytes()
		if c.change != nil {
			bytes = c.change(bytes)
		}
		return signed{public, message, append(append([]byte{}, encodedR...), bytes...)}
	}
	t.Fatalf("%s: no message does", c.what)
	return signed{}
}

// speccheck makes the twelve cases.
func speccheck(t testing.TB) (cases []signed) {
	for _, c := range recipes() {
		cases = append(cases, c.cook(t))
	}
	return cases
}

// C03: libraries differ over these; we do not differ from the standard library.
func TestSpeccheck(t *testing.T) {
	cases, p := speccheck(t), newPreparer()
	for i, c := range recipes() {
		if got := p.sameEd25519(t, cases[i].public, cases[i].message, cases[i].signature); got != c.acceptable {
			t.Errorf("%s: %t, want %t", c.what, got, c.acceptable)
		}
	}
	if len(cases) != 12 || len(cases[0].public) != ed25519.PublicKeySize {
		t.Errorf("%d cases", len(cases))
	}
}
