package prepared

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

func edKey(t testing.TB) ed25519.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// used says n times that a key was used.
func (c *Cache) usedTimes(n int, id string, public crypto.PublicKey) {
	for range n {
		c.Used(id, public)
	}
}

func TestPreparedWithUses(t *testing.T) {
	onP256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	onP384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		public crypto.PublicKey
		want   bool
	}{
		{edKey(t), true},
		{&onP256.PublicKey, true},
		{&onP384.PublicKey, false},
		{&rsa.PublicKey{}, false},
		{ed25519.PublicKey(append([]byte{2}, make([]byte, 31)...)), false}, // not a point
	} {
		c := NewCache(time.Now)
		c.usedTimes(Uses-1, "a", test.public)
		if c.Get("a") != nil {
			t.Errorf("%T: prepared before %d uses", test.public, Uses)
		}
		c.usedTimes(2, "a", test.public)
		if got := c.Get("a") != nil; got != test.want {
			t.Errorf("%T: prepared %t, want %t", test.public, got, test.want)
		}
		if c.Get("b") != nil {
			t.Errorf("%T: under another id", test.public)
		}
	}
}

// What is kept is bounded, however many keys are listed; a key that is no longer
// used gives its place away, and no other does.
func TestPlaces(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := NewCache(func() time.Time { return now })
	public := edKey(t)
	for i := range Places + 10 {
		c.Used(fmt.Sprint(i), public)
	}
	if n := len(*c.kept.Load()); n != Places {
		t.Errorf("%d places are taken, want %d", n, Places)
	}
	now = now.Add(Idle - time.Second)
	for i := 1; i < Places; i++ {
		c.Used(fmt.Sprint(i), public)
	}
	c.usedTimes(Uses, "early", public)
	if c.Get("early") != nil {
		t.Error("a key took a place that was in use")
	}
	now = now.Add(time.Second)
	c.usedTimes(Uses, "late", public)
	c.usedTimes(Uses, "later", public)
	if c.Get("late") == nil {
		t.Error("the idle key's place was not free")
	}
	if c.Get("later") != nil {
		t.Error("a second place was free")
	}
	if n := len(*c.kept.Load()); n != Places {
		t.Errorf("%d places are taken, want %d", n, Places)
	}
}

func TestConcurrentUse(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := NewCache(func() time.Time { return now })
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signature := ed25519.Sign(private, []byte("a"))
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 200 {
				id := fmt.Sprint(g * i % 20)
				c.Used(id, public)
				if key := c.Get(id); key != nil && !key.Verify([]byte("a"), signature) {
					t.Error("a good signature is refused")
				}
			}
		})
	}
	group.Wait()
	if c.Get("0") == nil {
		t.Error("a key that was used 200 times and more is not prepared")
	}
}

// In FIPS 140 mode the checks are left to the validated module.
func TestFIPS140(t *testing.T) {
	if !fips140.Enabled() {
		command := exec.Command(os.Args[0], "-test.run=^TestFIPS140$", "-test.v")
		command.Env = append(os.Environ(), "GODEBUG=fips140=on")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("in FIPS 140 mode: %v\n%s", err, out)
		}
		return
	}
	c := NewCache(time.Now)
	c.usedTimes(2*Uses, "a", edKey(t))
	if c.Get("a") != nil || len(*c.kept.Load()) != 0 {
		t.Error("a key is prepared")
	}
}

func BenchmarkVerify(b *testing.B) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	onP256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	message := make([]byte, 600)
	signature := ed25519.Sign(private, message)
	base := base25519()
	key, other := newEd25519(public, base), newP256(&onP256.PublicKey)
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, onP256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	pair := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	for _, way := range []struct {
		name string
		do   func() bool
	}{
		{"Ed25519", func() bool { return key.Verify(message, signature) }},
		{"Ed25519/standard", func() bool { return ed25519.Verify(public, message, signature) }},
		{"Ed25519/prepare", func() bool { return newEd25519(public, base) != nil }},
		{"ES256", func() bool { return other.Verify(message, pair) }},
		{"ES256/standard", func() bool { digest := sha256.Sum256(message); return ecdsa.Verify(&onP256.PublicKey, digest[:], r, s) }},
		{"ES256/prepare", func() bool { return newP256(&onP256.PublicKey) != nil }},
	} {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				if !way.do() {
					b.Fatal("a good signature is refused")
				}
			}
		})
	}
}
