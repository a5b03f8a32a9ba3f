//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
)

// fakeToken has one key, and fails as it is told: SoftHSM does little of that.
type fakeToken struct {
	key    *ecdsa.PrivateKey
	points [][]byte // of the public keys beside it
	label  string
	flags  uint
	login  error         // what a login comes to
	lost   int           // so many of the sessions that were opened are
	absent error         // what opening one comes to
	hangs  chan struct{} // a signature waits for it, unless nil

	opens, tries int
	classes      []byte // of the objects that are looked for
}

var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func newFake(t *testing.T) *fakeToken {
	t.Helper()
	clear(logins.of)
	key := generate(t, elliptic.P256())
	return &fakeToken{key: key, points: [][]byte{point(t, key)}, label: "fake"}
}

func generate(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func point(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return point
}

func (f *fakeToken) load(pin string) (*privateKey, error) {
	return use(f, &uri{object: "signing", pin: "/pin"}, pin)
}

func (f *fakeToken) mustLoad(t *testing.T) *privateKey {
	t.Helper()
	key, err := f.load("right")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (f *fakeToken) Initialize(...pkcs11.InitializeOption) error { return nil }
func (f *fakeToken) GetSlotList(bool) ([]uint, error)            { return []uint{7}, nil }

func (f *fakeToken) GetTokenInfo(uint) (pkcs11.TokenInfo, error) {
	return pkcs11.TokenInfo{Label: f.label, Flags: f.flags | pkcs11.CKF_TOKEN_INITIALIZED}, nil
}

func (f *fakeToken) OpenSession(uint, uint) (pkcs11.SessionHandle, error) {
	f.opens++
	return pkcs11.SessionHandle(f.opens), f.absent
}

func (f *fakeToken) CloseSession(pkcs11.SessionHandle) error { return nil }

func (f *fakeToken) Login(pkcs11.SessionHandle, uint, string) error {
	f.tries++
	return f.login
}

func (f *fakeToken) FindObjectsInit(_ pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	f.classes = append(f.classes, template[0].Value[0])
	return nil
}

// FindObjects numbers the public keys from 1.
func (f *fakeToken) FindObjects(pkcs11.SessionHandle, int) (found []pkcs11.ObjectHandle, more bool, err error) {
	if f.classes[len(f.classes)-1] == pkcs11.CKO_PRIVATE_KEY {
		return []pkcs11.ObjectHandle{0}, false, nil
	}
	for i := range f.points {
		found = append(found, pkcs11.ObjectHandle(i+1))
	}
	return found, false, nil
}

func (f *fakeToken) FindObjectsFinal(pkcs11.SessionHandle) error { return nil }

func (f *fakeToken) GetAttributeValue(_ pkcs11.SessionHandle, object pkcs11.ObjectHandle, _ []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	if object == 0 {
		return []*pkcs11.Attribute{{Value: []byte{1}}, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC)}, nil
	}
	return []*pkcs11.Attribute{{Value: p256}, {Value: f.points[object-1]}}, nil
}

func (f *fakeToken) SignInit(session pkcs11.SessionHandle, _ []*pkcs11.Mechanism, _ pkcs11.ObjectHandle) error {
	if int(session) <= f.lost {
		return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
	}
	return nil
}

func (f *fakeToken) Sign(_ pkcs11.SessionHandle, digest []byte) ([]byte, error) {
	if f.hangs != nil {
		<-f.hangs
	}
	r, s, err := ecdsa.Sign(rand.Reader, f.key, digest)
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
}

// signs signs as after the pause.
func signs(key *privateKey) error {
	key.failed = nil
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	return err
}

// A login that failed is the last of the process, for every key in the token, unless the
// token was away.
func TestLoginFails(t *testing.T) {
	for code, wantTries := range map[uint]int{
		pkcs11.CKR_PIN_INCORRECT: 1, pkcs11.CKR_PIN_LOCKED: 1, pkcs11.CKR_PIN_EXPIRED: 1, pkcs11.CKR_GENERAL_ERROR: 1,
		pkcs11.CKR_FUNCTION_FAILED: 1, pkcs11.CKR_USER_PIN_NOT_INITIALIZED: 1, pkcs11.CKR_VENDOR_DEFINED + 1: 1,
		pkcs11.CKR_DEVICE_REMOVED: 3, pkcs11.CKR_DEVICE_ERROR: 3, pkcs11.CKR_TOKEN_NOT_PRESENT: 3,
		pkcs11.CKR_SESSION_HANDLE_INVALID: 3, pkcs11.CKR_SESSION_CLOSED: 3,
	} {
		f := newFake(t)
		key, beside := f.mustLoad(t), f.mustLoad(t)
		f.tries, f.lost, f.login = 0, f.opens, pkcs11.Error(code)
		for _, k := range []*privateKey{key, beside, key} {
			if err := signs(k); !errors.Is(err, f.login) {
				t.Errorf("%#x: %v", code, err)
			}
		}
		if f.tries != wantTries {
			t.Errorf("%#x: %d logins, want %d", code, f.tries, wantTries)
		}
		f.login = nil
		if err := signs(key); (err == nil) != (wantTries > 1) {
			t.Errorf("%#x, and the token is well again: %v", code, err)
		}
	}
}

func TestAnotherPIN(t *testing.T) {
	f := newFake(t)
	f.mustLoad(t)
	if _, err := f.load("left"); err == nil || !strings.Contains(err.Error(), "/pin is another") || f.tries != 1 {
		t.Errorf("another PIN for the same token: %v, after %d logins", err, f.tries)
	}
	f.label = "another"
	if _, err := f.load("left"); err != nil {
		t.Error(err)
	}
}

// Somebody who is logged in proves the PIN only if that was this package, with this PIN.
func TestAlreadyLoggedIn(t *testing.T) {
	f := newFake(t)
	f.login = pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	if _, err := f.load("right"); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("by somebody else: %v", err)
	}
	f.login = nil
	f.mustLoad(t)
	f.login = pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	if _, err := f.load("right"); err != nil {
		t.Error(err)
	}
}

// A token that is about to lock is left alone.
func TestTokenAboutToLock(t *testing.T) {
	f := newFake(t)
	f.flags = pkcs11.CKF_USER_PIN_FINAL_TRY
	if _, err := f.load("right"); err == nil || !strings.Contains(err.Error(), "FINAL_TRY") || f.tries != 0 {
		t.Errorf("at the last try: %v, after %d logins", err, f.tries)
	}
	f.flags = pkcs11.CKF_USER_PIN_COUNT_LOW
	key := f.mustLoad(t)
	f.lost = f.opens
	if err := signs(key); err == nil || !strings.Contains(err.Error(), "COUNT_LOW") || f.tries != 1 {
		t.Errorf("with few tries left: %v, after %d logins", err, f.tries)
	}
	f.flags = 0
	if err := signs(key); err != nil {
		t.Error(err)
	}
}

// A token that does not answer holds a caller for so long, and nobody after that.
func TestTokenHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.mustLoad(t)
		f.hangs = make(chan struct{})
		for _, want := range []time.Duration{patience, 0, 0} {
			began := time.Now()
			if err := tries(key); !errors.Is(err, errLate) || time.Since(began) != want {
				t.Errorf("after %s, want %s: %v", time.Since(began), want, err)
			}
		}
		close(f.hangs)
		synctest.Wait()
		if err := tries(key); err != nil {
			t.Errorf("a token that answers again: %v", err)
		}
		f = newFake(t)
		f.hangs = make(chan struct{})
		began := time.Now()
		if _, err := f.load("right"); !errors.Is(err, errLate) || time.Since(began) != toLoad {
			t.Errorf("while it is loaded, after %s: %v", time.Since(began), err)
		}
		close(f.hangs)
	})
}

func tries(key *privateKey) error {
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	return err
}

// Of many callers, one a second asks a token that fails.
func TestTokenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		key := f.mustLoad(t)
		f.lost, f.absent = f.opens, pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
		for want := range 3 {
			for range 10 {
				if err := tries(key); !errors.Is(err, f.absent) {
					t.Error(err)
				}
			}
			if asked := f.opens - f.lost; asked != want+1 {
				t.Errorf("asked %d times, want %d", asked, want+1)
			}
			time.Sleep(pause)
		}
		f.absent = nil
		if err := tries(key); err != nil {
			t.Errorf("a token that is back: %v", err)
		}
	})
}

// Of several public keys the one counts that verifies; and none is looked for again.
func TestSeveralPublicKeys(t *testing.T) {
	f := newFake(t)
	f.points = [][]byte{point(t, generate(t, elliptic.P256())), {4, 2}, f.points[0]}
	key := f.mustLoad(t)
	if !f.key.PublicKey.Equal(key.Public()) {
		t.Error("another public key was taken")
	}
	f.lost, f.points, f.classes = f.opens, nil, nil
	if err := signs(key); err != nil || !bytes.Equal(f.classes, []byte{pkcs11.CKO_PRIVATE_KEY}) {
		t.Errorf("%v, after looking for objects of the classes %v", err, f.classes)
	}
	f.points = [][]byte{point(t, generate(t, elliptic.P256()))}
	if _, err := f.load("right"); err == nil || !strings.Contains(err.Error(), "not the key's") {
		t.Errorf("a public key of another: %v", err)
	}
}

// A point is read with and without an OCTET STRING about it, also where its coordinates look
// like the head of one.
func TestDecode(t *testing.T) {
	p384 := []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	edwards := []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	alike := func(curve elliptic.Curve, second byte) []byte {
		for {
			if p := point(t, generate(t, curve)); p[1] == second {
				return p
			}
		}
	}
	for name, c := range map[string]struct{ params, point []byte }{
		"P-256": {p256, alike(elliptic.P256(), 63)}, "P-384": {p384, alike(elliptic.P384(), 95)},
		"Ed25519": {edwards, append([]byte{4, 30}, make([]byte, 30)...)},
	} {
		wrapped, err := asn1.Marshal(c.point)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range [][]byte{c.point, wrapped} {
			var got []byte
			found, err := decode(c.params, form)
			switch public := found.public.(type) {
			case *ecdsa.PublicKey:
				got, _ = public.Bytes()
			case ed25519.PublicKey:
				got = public
			}
			if err != nil || !bytes.Equal(got, c.point) {
				t.Errorf("%s, of %d bytes: %v", name, len(form), err)
			}
		}
		for _, wrong := range [][]byte{nil, c.point[1:], wrapped[1:], append(wrapped, 0)} {
			if _, err := decode(c.params, wrong); err == nil {
				t.Errorf("%s: %x is taken", name, wrong)
			}
		}
	}
}
