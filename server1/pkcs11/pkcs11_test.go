//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

const pin, wrongPIN = "4711-good", "4711-bad"

// softHSM is tokens in a folder of this test's own: a module reads where they are once
// in a process.
type softHSM struct{ module, folder string }

var made = sync.OnceValues(func() (softHSM, error) {
	h := softHSM{}
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			h.module = path
		}
	}
	for _, program := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, err := exec.LookPath(program); err != nil || h.module == "" {
			return h, fmt.Errorf("%w: install softhsm2 and opensc", exec.ErrNotFound)
		}
	}
	folder, err := os.MkdirTemp("", "handoff-pkcs11-")
	if err != nil {
		return h, err
	}
	h.folder, leavings = folder, append(leavings, folder)
	config := filepath.Join(folder, "softhsm2.conf")
	err = errors.Join(os.Mkdir(filepath.Join(folder, "tokens"), 0o700), os.Setenv("SOFTHSM2_CONF", config), configure(config))
	if err != nil {
		return h, err
	}
	for name, text := range map[string]string{"pin": pin + "\n", "wrong": wrongPIN, "exposed": pin, "empty": "\n", "shared.so": ""} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return h, err
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(folder, "exposed"), 0o644), os.Chmod(filepath.Join(folder, "shared.so"), 0o666)); err != nil {
		return h, err
	}
	for _, token := range []string{"first", "other", "spare", "shop"} {
		if err := command("softhsm2-util", "--init-token", "--free", "--label", token, "--pin", pin, "--so-pin", pin); err != nil {
			return h, err
		}
	}
	for _, key := range []struct{ token, kind, label, id string }{
		{"first", "EC:prime256v1", "signing", "01"},
		{"first", "EC:edwards25519", "edwards", "02"},
		{"first", "EC:secp384r1", "long", "03"},
		{"first", "rsa:2048", "rsa", "04"},
		{"first", "EC:secp521r1", "longer", "05"},
		{"first", "EC:prime256v1", "twice", "06"},
		{"first", "EC:prime256v1", "twice", "07"},
		{"other", "EC:prime256v1", "signing", "01"},
		{"spare", "EC:prime256v1", "signing", "01"},
	} {
		err := command("pkcs11-tool", "--module", h.module, "--token-label", key.token, "--login", "--pin", pin,
			"--keypairgen", "--key-type", key.kind, "--label", key.label, "--id", key.id)
		if err != nil {
			return h, err
		}
	}
	return h, nil
})

// configure writes SoftHSM's configuration, with tokens beside it.
func configure(file string) error {
	return os.WriteFile(file, []byte("directories.tokendir = "+filepath.Join(filepath.Dir(file), "tokens")+"\nlog.level = ERROR\n"), 0o600)
}

func command(name string, args ...string) error {
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, output)
	}
	return nil
}

// leavings are folders that the tests that ran have made.
var leavings []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, folder := range leavings {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

func tokens(t *testing.T) softHSM {
	t.Helper()
	h, err := made()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("HANDOFF_CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := operate(t, h, "")
	slots, err := o.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, o.slot = range slots {
		o.loseSessions() // which logs out
	}
	clear(logins.of) // as in a process that begins
	return h
}

// uri names a key. The query is the right one, unless another is given.
func (h softHSM) uri(path string, pinFile string) string {
	return "pkcs11:" + path + "?module-path=" + h.module + "&pin-source=file:" + filepath.Join(h.folder, pinFile)
}

func TestLoad(t *testing.T) {
	h := tokens(t)
	for path, want := range map[string]handoff.Algorithm{
		"token=first;object=signing":                                     handoff.ES256,
		"token=first;id=%01":                                             handoff.ES256,
		"token=first;object=signing;id=%01":                              handoff.ES256,
		"token=first;object=edwards;type=private":                        handoff.EdDSA,
		"token=first;model=SoftHSM%20v2;object=long":                     handoff.ES384,
		"token=first;manufacturer=SoftHSM%20project;object=twice;id=%07": handoff.ES256,
	} {
		key, err := Load(h.uri(path, "pin")) // which signs to prove itself
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if got := key.Key().Algorithm(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	h := tokens(t)
	noModule := "pkcs11:object=signing?module-path=" + filepath.Join(h.folder, "missing.so") + "&pin-source=" + filepath.Join(h.folder, "pin")
	noLibrary := "pkcs11:object=signing?module-path=" + filepath.Join(h.folder, "pin") + "&pin-source=" + filepath.Join(h.folder, "pin")
	shared := "pkcs11:object=signing?module-path=" + filepath.Join(h.folder, "shared.so") + "&pin-source=" + filepath.Join(h.folder, "pin")
	for name, c := range map[string]struct{ uri, want string }{
		"a module others can write": {shared, "others can write it"},
		"no module":                 {noModule, "missing.so cannot be loaded"},
		"no library":                {noLibrary, "cannot be loaded"},
		"no token":                  {h.uri("token=absent;object=signing", "pin"), "fits 0 of the"},
		"several tokens":            {h.uri("object=signing", "pin"), "fits 4 of the"},
		"no key":                    {h.uri("token=first;object=absent", "pin"), "no private key of that name"},
		"no key with this id":       {h.uri("token=first;object=signing;id=%02", "pin"), "no private key of that name"},
		"several keys":              {h.uri("token=first;object=twice", "pin"), "several private keys"},
		"an RSA key":                {h.uri("token=first;object=rsa", "pin"), "another kind"},
		"another curve":             {h.uri("token=first;object=longer", "pin"), "another kind"},
		"a wrong PIN":               {h.uri("token=other;object=signing", "wrong"), "does not take the PIN"},
		"no PIN":                    {h.uri("token=other;object=signing", "absent"), "pin-source: "},
		"an empty PIN":              {h.uri("token=other;object=signing", "empty"), "PIN is empty"},
		"a PIN others can read":     {h.uri("token=other;object=signing", "exposed"), "pin-source: "},
	} {
		key, err := Load(c.uri)
		if err == nil || key != nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// operator does to a token what this program does not.
type operator struct {
	*pkcs11.Ctx
	*testing.T
	slot uint
}

func operate(t *testing.T, h softHSM, token string) operator {
	t.Helper()
	o := operator{pkcs11.New(h.module), t, 0}
	if err := o.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatal(err)
	}
	slots, err := o.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := o.GetTokenInfo(slot); err == nil && info.Label == token {
			o.slot = slot
		}
	}
	return o
}

// loggedIn returns a session of the operator's, and what ends all sessions.
func (o operator) loggedIn() (session pkcs11.SessionHandle, end func()) {
	o.Helper()
	session, err := o.OpenSession(o.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		o.Fatal(err)
	}
	if err := o.Login(session, pkcs11.CKU_USER, pin); err != nil && !is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		o.Fatal(err)
	}
	return session, o.loseSessions
}

func (o operator) loseSessions() {
	o.Helper()
	if err := o.CloseAllSessions(o.slot); err != nil {
		o.Fatal(err)
	}
}

// A session that is lost is found again, and a user who is logged out logs in.
func TestSessionLost(t *testing.T) {
	h := tokens(t)
	for _, path := range []string{"token=first;object=signing", "token=first;object=edwards"} {
		key, err := load(h.uri(path, "pin"))
		if err != nil {
			t.Fatal(err)
		}
		o := operate(t, h, "first")
		for name, lose := range map[string]func(){
			"sessions closed": o.loseSessions,
			"logged out": func() {
				if err := o.Logout(*key.session); err != nil {
					t.Fatal(err)
				}
			},
			"nothing": func() {},
		} {
			lose()
			if _, err := signkey.New(key.algorithm, key); err != nil {
				t.Errorf("%s, %s: %v", path, name, err)
			}
		}
	}
}

// Several goroutines sign with two keys of one token, whose sessions are lost between
// signatures: SoftHSM crashes where one is closed that signs.
func TestSessionLostWhileSigning(t *testing.T) {
	h := tokens(t)
	o := operate(t, h, "first")
	var group sync.WaitGroup
	var keys []*privateKey
	for _, path := range []string{"token=first;object=signing", "token=first;object=edwards"} {
		key, err := load(h.uri(path, "pin"))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		for range 4 {
			group.Go(func() {
				digest := sha256.Sum256([]byte(path))
				for range 50 {
					signature, err := key.Sign(nil, digest[:], hashOf(key))
					if err != nil || !verifies(key, digest[:], signature) {
						t.Errorf("%s: %v, and a signature of %d bytes", path, err, len(signature))
					}
				}
			})
		}
	}
	for range 20 {
		for _, key := range keys {
			key.turn <- struct{}{}
		}
		o.loseSessions()
		for _, key := range keys {
			<-key.turn
		}
	}
	group.Wait()
}

func hashOf(key *privateKey) crypto.Hash {
	if key.algorithm == handoff.EdDSA {
		return 0
	}
	return crypto.SHA256
}

func verifies(key *privateKey, digest, signature []byte) bool {
	if public, ok := key.public.(ed25519.PublicKey); ok {
		return ed25519.Verify(public, digest, signature)
	}
	return ecdsa.VerifyASN1(key.public.(*ecdsa.PublicKey), digest, signature)
}

// Another key by the name of the one that was loaded signs nothing.
func TestKeyIsAnother(t *testing.T) {
	h := tokens(t)
	key, err := load(h.uri("token=spare;object=signing", "pin"))
	if err != nil {
		t.Fatal(err)
	}
	o := operate(t, h, "spare")
	session, end := o.loggedIn()
	if err := o.FindObjectsInit(session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "signing")}); err != nil {
		t.Fatal(err)
	}
	objects, _, err := o.FindObjects(session, 10)
	if err := errors.Join(err, o.FindObjectsFinal(session)); err != nil || len(objects) != 2 {
		t.Fatal(len(objects), err)
	}
	for _, object := range objects {
		if err := o.DestroyObject(session, object); err != nil {
			t.Fatal(err)
		}
	}
	digest := make([]byte, 32)
	if _, err := key.Sign(nil, digest, crypto.SHA256); err == nil || !strings.Contains(err.Error(), "no private key") {
		t.Errorf("a key that was deleted: %v", err)
	}
	session, _ = o.loggedIn()
	named := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "signing"), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte{1}), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
	}
	_, _, err = o.GenerateKeyPair(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256)}, named...),
		append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true)}, named...))
	if err != nil {
		t.Fatal(err)
	}
	end()
	key.failed = nil // and some time has passed
	if _, err := key.Sign(nil, digest, crypto.SHA256); err == nil || !strings.Contains(err.Error(), "not the key's") {
		t.Errorf("another key by the same name: %v", err)
	}
}

// A PIN that the token has refused is not tried again.
func TestPINIsTriedOnce(t *testing.T) {
	h := tokens(t)
	key, err := load(h.uri("token=other;object=signing", "pin"))
	if err != nil {
		t.Fatal(err)
	}
	o := operate(t, h, "other")
	session, end := o.loggedIn()
	if err := o.SetPIN(session, pin, "another-pin"); err != nil {
		t.Fatal(err)
	}
	end()
	for range 2 {
		if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil || !strings.Contains(err.Error(), "not tried again") {
			t.Errorf("with a PIN that was changed: %v", err)
		}
		session, err = o.OpenSession(o.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.SetPIN(session, "another-pin", pin); err != nil && !is(err, pkcs11.CKR_PIN_INCORRECT) {
			t.Fatal(err)
		}
		o.loseSessions()
	}
}

// What the key does not sign is refused, as a token may sign anything.
func TestSignRefuses(t *testing.T) {
	h := tokens(t)
	for path, c := range map[string]struct {
		length int
		hash   crypto.Hash
	}{
		"token=first;object=signing": {31, crypto.SHA256},
		"token=first;object=long":    {48, 0},
		"token=first;object=edwards": {32, crypto.SHA256},
	} {
		key, err := load(h.uri(path, "pin"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.Sign(nil, make([]byte, c.length), c.hash); err == nil {
			t.Errorf("%s signs %d bytes as of %s", path, c.length, c.hash)
		}
	}
}
