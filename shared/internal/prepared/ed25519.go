package prepared

import (
	"crypto/ed25519"
	"crypto/sha512"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// ed25519Key is a prepared Ed25519 public key. It takes 172 KB, and 508 KB for the base
// point are shared by all keys of a Cache. It is immutable and safe for concurrent use.
type ed25519Key struct {
	public [ed25519.PublicKeySize]byte
	minusA *multiples
	base   *multiples
}

// baseWidth is that of the digits in which a scalar is multiplied with the base point.
// Every key uses that table, so that it may be larger: it saves 10 of 43 additions.
const baseWidth = 8

// base25519 returns the multiples of the base point B (RFC 8032 section 5.1).
func base25519() *multiples { return multiplesOf(edwards25519.NewGeneratorPoint(), baseWidth) }

// newEd25519 prepares a key, or returns nil for bytes that are not a point.
func newEd25519(public ed25519.PublicKey, base *multiples) *ed25519Key {
	a, err := new(edwards25519.Point).SetBytes(public)
	if err != nil {
		return nil
	}
	return &ed25519Key{[ed25519.PublicKeySize]byte(public), multiplesOf(a.Negate(a), width), base}
}

// Verify reports whether signature, R || S, is the key's over message (RFC 8032
// section 5.1.7, without the cofactor): S is below the group's order, and the
// encoding of [S]B - [k]A is R, byte for byte.
func (key *ed25519Key) Verify(message, signature []byte) bool {
	if len(signature) != ed25519.SignatureSize {
		return false
	}
	hash := sha512.New()
	hash.Write(signature[:32])
	hash.Write(key.public[:])
	hash.Write(message)
	var room [sha512.Size]byte
	var k, s edwards25519.Scalar
	if _, err := k.SetUniformBytes(hash.Sum(room[:0])); err != nil {
		return false
	}
	if _, err := s.SetCanonicalBytes(signature[32:]); err != nil {
		return false
	}
	var sum extended
	sum.setIdentity()
	sum.addMultiple(key.base, &s)
	sum.addMultiple(key.minusA, &k)
	return sum.isEncodedAs(signature[:32])
}

// multiples are [j * 2^(width*i)]P in row i, for j from 1 to half of 2^width, row by row.
type multiples struct {
	width int
	all   []affine
}

// affine is a point (x, y) as y+x, y-x and 2dxy: what an addition needs of it.
type affine struct{ plus, minus, xy2d field.Element }

func multiplesOf(p *edwards25519.Point, width int) *multiples {
	half := 1 << (width - 1)
	m := &multiples{width: width, all: make([]affine, digitsOf(width)*half)}
	row := make([]edwards25519.Point, half)
	unit := new(edwards25519.Point).Set(p)
	d2 := doubleD()
	for i := range digitsOf(width) {
		row[0].Set(unit)
		for j := 1; j < half; j++ {
			row[j].Add(&row[j-1], unit)
		}
		toAffine(m.all[i*half:], row, d2)
		unit.Double(&row[half-1])
	}
	return m
}

// toAffine divides each point's coordinates by its Z, and puts what becomes of it in out.
// It inverts the product of all Zs once, and multiplies by the others' to get the inverse
// of each. d2 is doubleD.
func toAffine(out []affine, row []edwards25519.Point, d2 *field.Element) {
	before := make([]field.Element, len(row)) // the product of the Zs before this one
	product := new(field.Element).One()
	for j := range row {
		_, _, z, _ := row[j].ExtendedCoordinates()
		before[j].Set(product)
		product.Multiply(product, z)
	}
	rest := product.Invert(product) // the inverse of the Zs up to this one
	for j := len(row) - 1; j >= 0; j-- {
		x, y, z, _ := row[j].ExtendedCoordinates()
		inverse := new(field.Element).Multiply(rest, &before[j])
		rest.Multiply(rest, z)
		x.Multiply(x, inverse)
		y.Multiply(y, inverse)
		out[j].plus.Add(y, x)
		out[j].minus.Subtract(y, x)
		out[j].xy2d.Multiply(x, y)
		out[j].xy2d.Multiply(&out[j].xy2d, d2)
	}
}

// doubleD returns 2d for the curve's d = -121665/121666 (RFC 8032 section 5.1).
func doubleD() *field.Element {
	d := new(field.Element).One()
	d.Mult32(d, 121666).Invert(d).Mult32(d, 121665).Negate(d)
	return d.Add(d, d)
}

// extended is a point in extended coordinates: x = X/Z, y = Y/Z, x*y = T/Z (RFC
// 8032 section 5.1.4).
type extended struct{ x, y, z, t field.Element }

func (p *extended) setIdentity() {
	p.x.Zero()
	p.y.One()
	p.z.One()
	p.t.Zero()
}

// addMultiple adds [k]P to p.
func (p *extended) addMultiple(m *multiples, k *edwards25519.Scalar) {
	for i, digit := range signedDigits((*[32]byte)(k.Bytes()), m.width) {
		row := i << (m.width - 1)
		switch {
		case digit > 0:
			q := &m.all[row+int(digit)-1]
			p.add(&q.plus, &q.minus, &q.xy2d, false)
		case digit < 0: // -(x, y) is (-x, y): y+x and y-x change places, and 2dxy its sign
			q := &m.all[row-int(digit)-1]
			p.add(&q.minus, &q.plus, &q.xy2d, true)
		}
	}
}

// add adds a point whose Z is 1 to p (RFC 8032 section 5.1.4). Where negative, its
// 2dxy has the other sign.
func (p *extended) add(plus, minus, xy2d *field.Element, negative bool) {
	var a, b, c, d, e, f, g, h field.Element
	a.Subtract(&p.y, &p.x)
	a.Multiply(&a, minus)
	b.Add(&p.y, &p.x)
	b.Multiply(&b, plus)
	c.Multiply(&p.t, xy2d)
	d.Add(&p.z, &p.z)
	e.Subtract(&b, &a)
	f.Subtract(&d, &c)
	g.Add(&d, &c)
	h.Add(&b, &a)
	if negative {
		f, g = g, f
	}
	p.x.Multiply(&e, &f)
	p.y.Multiply(&g, &h)
	p.t.Multiply(&e, &h)
	p.z.Multiply(&f, &g)
}

// isEncodedAs compares p's one encoding (RFC 8032 section 5.1.2): y, and the
// lowest bit of x.
func (p *extended) isEncodedAs(encoding []byte) bool {
	var x, y, inverse field.Element
	inverse.Invert(&p.z)
	x.Multiply(&p.x, &inverse)
	y.Multiply(&p.y, &inverse)
	own := [32]byte(y.Bytes())
	own[31] |= byte(x.IsNegative()) << 7
	return own == [32]byte(encoding)
}
