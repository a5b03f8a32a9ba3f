package prepared

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/vectors"
)

// preparer prepares the same key only once.
type preparer struct {
	base  *multiples
	known map[string]*Key
}

func newPreparer() *preparer { return &preparer{base25519(), map[string]*Key{}} }

func (p *preparer) ed25519(public ed25519.PublicKey) *Key {
	if p.known[string(public)] == nil {
		key := newEd25519(public, p.base)
		if key == nil {
			return nil
		}
		p.known[string(public)] = &Key{ed25519: key}
	}
	return p.known[string(public)]
}

// sameEd25519 checks a signature in both ways and returns the verdict. Bytes that
// are no key are refused by both.
func (p *preparer) sameEd25519(t testing.TB, public, message, signature []byte) bool {
	t.Helper()
	want := len(public) == ed25519.PublicKeySize && ed25519.Verify(public, message, signature)
	got := false
	if key := p.ed25519(public); key != nil {
		got = key.Verify(message, signature)
	}
	if got != want {
		t.Errorf("prepared %t, crypto/ed25519 %t: key %x, message %x, signature %x", got, want, public, message, signature)
	}
	return want
}

// sameP256 is its like for r || s under an uncompressed point.
func (p *preparer) sameP256(t testing.TB, public, message, signature []byte) bool {
	t.Helper()
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public)
	if err != nil {
		return false
	}
	digest := sha256.Sum256(message)
	want := false
	if len(signature) == 64 {
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		want = ecdsa.Verify(key, digest[:], r, s)
	}
	if p.known[string(public)] == nil {
		p.known[string(public)] = &Key{p256: newP256(key)}
	}
	if got := p.known[string(public)].Verify(message, signature); got != want {
		t.Errorf("prepared %t, crypto/ecdsa %t: key %x, message %x, signature %x", got, want, public, message, signature)
	}
	return want
}

// wycheproof calls check with each case of a file of C2SP/wycheproof, and returns
// how many signatures are said to be valid.
func wycheproof(t testing.TB, name string, check func(publicDER, message, signature []byte) bool) (valid, all int) {
	t.Helper()
	var file struct {
		TestGroups []struct {
			PublicKeyDer string
			Tests        []struct {
				TcID             int
				Msg, Sig, Result string
			}
		}
	}
	if err := json.Unmarshal(vectors.Read(t, "wycheproof/"+name), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.TestGroups {
		for _, test := range group.Tests {
			var parts [3][]byte
			for i, text := range []string{group.PublicKeyDer, test.Msg, test.Sig} {
				b, err := hex.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				parts[i] = b
			}
			if got := check(parts[0], parts[1], parts[2]); got != (test.Result == "valid") {
				t.Errorf("%s, case %d: %t, want %s", name, test.TcID, got, test.Result)
			}
			if all++; test.Result == "valid" {
				valid++
			}
		}
	}
	return valid, all
}

// C01, C03, C04: Wycheproof's verdicts are the standard library's and ours.
func TestWycheproof(t *testing.T) {
	p := newPreparer()
	valid, all := wycheproof(t, "ed25519_test.json", func(der, message, signature []byte) bool {
		public, err := x509.ParsePKIXPublicKey(der)
		return err == nil && p.sameEd25519(t, public.(ed25519.PublicKey), message, signature)
	})
	if valid < 80 || all < 150 {
		t.Errorf("Ed25519: %d of %d are valid", valid, all)
	}
	valid, all = wycheproof(t, "ecdsa_secp256r1_sha256_p1363_test.json", func(der, message, signature []byte) bool {
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			t.Fatal(err)
		}
		point, err := public.(*ecdsa.PublicKey).Bytes()
		return err == nil && p.sameP256(t, point, message, signature)
	})
	if valid < 100 || all < 200 {
		t.Errorf("P-256: %d of %d are valid", valid, all)
	}
}

// Each bit of a good signature, of its message and of its key counts, and every
// length.
func TestFlippedBits(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := newPreparer()
	message := []byte("a message")
	signature := ed25519.Sign(private, message)
	key := p.ed25519(public)
	for bit := range len(signature) * 8 {
		bad := append([]byte{}, signature...)
		bad[bit/8] ^= 1 << (bit % 8)
		if key.Verify(message, bad) != ed25519.Verify(public, message, bad) {
			t.Errorf("bit %d of the signature", bit)
		}
	}
	for n := range 70 {
		long := append(append([]byte{}, signature...), 0, 0, 0, 0, 0, 0, 0)
		if got := key.Verify(message, long[:n]); got != (n == 64) {
			t.Errorf("%d bytes of a signature: %t", n, got)
		}
	}
	for bit := 0; bit < 256; bit += 5 {
		other := append([]byte{}, public...)
		other[bit/8] ^= 1 << (bit % 8)
		p.sameEd25519(t, other, message, signature)
	}
	if !p.sameEd25519(t, public, message, signature) {
		t.Error("the signature itself is refused")
	}
}

// Random scalars do not reach the digits at the ends: these do.
func TestSignedDigits(t *testing.T) {
	for _, width := range []int{width, baseWidth} {
		half := 1 << (width - 1)
		for name, k := range map[string][32]byte{
			"zero": {}, "one": {1}, "half": {byte(half)}, "half and one": {byte(half + 1)}, "all ones": [32]byte(repeat(0xff)),
			"alternating": [32]byte(repeat(0xaa)), "all half": [32]byte(repeat(0x80)), "just over half": [32]byte(repeat(0x81)),
		} {
			sum := new(big.Int)
			for i, digit := range signedDigits(&k, width) {
				if int(digit) > half || int(digit) <= -half || i >= digitsOf(width) && digit != 0 {
					t.Errorf("%s: digit %d of width %d is %d", name, i, width, digit)
				}
				sum.Add(sum, new(big.Int).Lsh(big.NewInt(int64(digit)), uint(width*i)))
			}
			var bigEndian [32]byte
			for i := range k {
				bigEndian[31-i] = k[i]
			}
			if want := new(big.Int).SetBytes(bigEndian[:]); sum.Cmp(want) != 0 {
				t.Errorf("%s: %x, want %x by digits of width %d", name, sum, want, width)
			}
		}
	}
}

func repeat(b byte) []byte {
	out := make([]byte, 32)
	for i := range out {
		out[i] = b
	}
	return out
}

func FuzzEd25519(f *testing.F) {
	for _, c := range speccheck(f) {
		f.Add(c.public, c.message, c.signature)
	}
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	f.Add([]byte(public), []byte("a"), ed25519.Sign(private, []byte("a")))
	p := newPreparer()
	f.Fuzz(func(t *testing.T, public, message, signature []byte) { p.sameEd25519(t, public, message, signature) })
}

func FuzzP256(f *testing.F) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	public, err := private.PublicKey.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256([]byte("a"))
	r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(public, []byte("a"), append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	p := newPreparer()
	f.Fuzz(func(t *testing.T, public, message, signature []byte) { p.sameP256(t, public, message, signature) })
}
