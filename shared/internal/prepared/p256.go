package prepared

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"

	"filippo.io/nistec"
)

// p256Key is a prepared public key on P-256. It takes 132 KB. It is immutable and
// safe for concurrent use.
type p256Key struct {
	rows [mostDigits][1 << (width - 1)]nistec.P256Point // [j * 2^(width*i)]Q in row i, for j from 1 on
}

// newP256 prepares a key, or returns nil for one that is not on the curve.
func newP256(public *ecdsa.PublicKey) *p256Key {
	encoding, err := public.Bytes()
	if err != nil || public.Curve != elliptic.P256() {
		return nil
	}
	unit, err := nistec.NewP256Point().SetBytes(encoding)
	if err != nil {
		return nil
	}
	key := new(p256Key)
	for i := range key.rows {
		row := &key.rows[i]
		row[0].Set(unit)
		for j := 1; j < len(row); j++ {
			row[j].Add(&row[j-1], unit)
		}
		unit.Double(&row[len(row)-1])
	}
	return key
}

// Verify reports whether signature, r || s, is the key's over the SHA-256 of
// message (FIPS 186-5 section 6.4.2).
func (key *p256Key) Verify(message, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	n := elliptic.P256().Params().N
	r := new(big.Int).SetBytes(signature[:32])
	s := new(big.Int).SetBytes(signature[32:])
	if r.Sign() == 0 || s.Sign() == 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return false
	}
	digest := sha256.Sum256(message)
	inverse := new(big.Int).ModInverse(s, n)
	u1 := new(big.Int).SetBytes(digest[:])
	u1.Mul(u1, inverse).Mod(u1, n)
	u2 := inverse.Mul(r, inverse)
	u2.Mod(u2, n)

	var room [32]byte
	sum, err := nistec.NewP256Point().ScalarBaseMult(u1.FillBytes(room[:]))
	if err != nil {
		return false
	}
	key.addMultiple(sum, u2.FillBytes(room[:]))
	x, err := sum.BytesX() // an error: the point at infinity
	if err != nil {
		return false
	}
	v := new(big.Int).SetBytes(x)
	return v.Mod(v, n).Cmp(r) == 0
}

// addMultiple adds [k]Q to sum; k is big-endian.
func (key *p256Key) addMultiple(sum *nistec.P256Point, k []byte) {
	var littleEndian [32]byte
	for i, b := range k {
		littleEndian[len(k)-1-i] = b
	}
	var negative nistec.P256Point
	for i, digit := range signedDigits(&littleEndian, width) {
		switch {
		case digit > 0:
			sum.Add(sum, &key.rows[i][digit-1])
		case digit < 0:
			sum.Add(sum, negative.Negate(&key.rows[i][-digit-1]))
		}
	}
}
