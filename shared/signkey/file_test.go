package signkey_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

func TestSaveAndLoad(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		k := newKey(t, algorithm)
		dir := t.TempDir()
		path := filepath.Join(dir, "shop.key")
		if err := k.Save(path); err != nil {
			t.Fatal(algorithm, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s: mode %v", algorithm, info.Mode())
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: other files are left", algorithm)
		}
		loaded, err := signkey.Load(path)
		if err != nil {
			t.Fatal(algorithm, err)
		}
		if loaded.Key().ID() != k.Key().ID() || loaded.Key().Algorithm() != algorithm {
			t.Errorf("%s: another key is loaded", algorithm)
		}
		if err := verifies(t, loaded); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestSaveRefuses(t *testing.T) {
	k := newKey(t, handoff.EdDSA)
	dir := t.TempDir()
	path := filepath.Join(dir, "shop.key")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), dangling); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{path, dangling, dir} {
		if err := newKey(t, handoff.ES256).Save(taken); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", taken, err)
		}
	}
	missing := filepath.Join(dir, "missing")
	if err := k.Save(""); err == nil || err.Error() != "no file is named" {
		t.Errorf("without a name: %v", err)
	}
	err = k.Save(filepath.Join(missing, "shop.key"))
	if failed, ok := errors.AsType[*fs.PathError](err); !ok || failed.Path != missing || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	kept, err := signkey.New(handoff.EdDSA, faulty{Signer: private()[handoff.EdDSA]})
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Save(filepath.Join(dir, "kept")); err == nil {
		t.Error("a key that stays with its signer is saved")
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the file has changed")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("other files are left: %v", entries)
	}
}

// Of several at once, one creates the file.
func TestSaveIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.key")
	var wg sync.WaitGroup
	saved := make(chan *signkey.Key, 8)
	for range cap(saved) {
		k, err := signkey.Generate(handoff.EdDSA)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := k.Save(path); err == nil {
				saved <- k
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(saved)
	winner, ok := <-saved
	if !ok || len(saved) > 0 {
		t.Fatal("not exactly one was saved")
	}
	if loaded, err := signkey.Load(path); err != nil || loaded.Key().ID() != winner.Key().ID() {
		t.Errorf("another key is in the file: %v", err)
	}
}

// H11: nobody but its owner may be able to read the file.
func TestLoadRefusesAnExposedFile(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "shop.key"), filepath.Join(dir, "link")
	if err := newKey(t, handoff.EdDSA).Save(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[fs.FileMode]bool{
		0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o602: false, 0o610: false, 0o601: false, 0o644: false, 0o777: false,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, link} {
			if _, err := signkey.Load(name); (err == nil) != ok {
				t.Errorf("mode %04o, %s: %v", mode, filepath.Base(name), err)
			} else if err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("mode %04o: the error does not name the file: %v", mode, err)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	saved := func(algorithm handoff.Algorithm) map[string]any {
		path := filepath.Join(t.TempDir(), "key")
		if err := newKey(t, algorithm).Save(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var o map[string]any
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	ed, p256, rs := saved(handoff.EdDSA), saved(handoff.ES256), saved(handoff.PS256)
	// with changes members of a key; nil removes one.
	with := func(o map[string]any, members ...any) string {
		c := map[string]any{}
		for k, v := range o {
			c[k] = v
		}
		for i := 0; i < len(members); i += 2 {
			if c[members[i].(string)] = members[i+1]; members[i+1] == nil {
				delete(c, members[i].(string))
			}
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	load := func(text string) (*signkey.Key, error) {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return signkey.Load(path)
	}
	for name, text := range map[string]string{
		"as saved":         with(ed),
		"without kid, use": with(ed, "kid", nil, "use", nil),
		"alg Ed25519":      with(ed, "alg", "Ed25519"), // RFC 9864
		"key_ops":          with(ed, "key_ops", []string{"sign", "verify"}),
		"space":            "\n" + with(rs) + "\n",
	} {
		if _, err := load(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	zero := strings.Repeat("A", 43)
	for name, text := range map[string]string{
		"empty":               "",
		"null":                "null",
		"PEM":                 "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
		"A20 public":          with(ed, "d", nil),
		"public RSA":          with(rs, "d", nil, "p", nil, "q", nil, "dp", nil, "dq", nil, "qi", nil),
		"symmetric":           `{"kty":"oct","k":"AAAA","alg":"HS256"}`,
		"a set":               `{"keys":[` + with(ed) + `]}`,
		"two documents":       with(ed) + with(p256),
		"d twice":             strings.Replace(with(ed), `"d"`, `"d":"AAAA","d"`, 1),
		"without alg":         with(ed, "alg", nil),
		"RSA without alg":     with(rs, "alg", nil),
		"another alg":         with(ed, "alg", "ES256"),
		"alg none":            with(ed, "alg", "none"),
		"use enc":             with(ed, "use", "enc"),
		"key_ops verify":      with(ed, "key_ops", []string{"verify"}),
		"another kid":         with(ed, "kid", "2026-1"),
		"another's kid":       with(ed, "kid", p256["kid"]),
		"unknown member":      with(ed, "password", "x"),
		"d of another":        with(ed, "d", zero),
		"d of another, EC":    with(p256, "d", zero[:42]+"Q"),
		"x of another":        with(ed, "x", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
		"y missing":           with(p256, "y", nil),
		"d padded":            with(ed, "d", ed["d"].(string)+"="),
		"d, number":           with(ed, "d", 1),
		"q missing":           with(rs, "q", nil),
		"p and q of another":  with(rs, "p", rs["q"], "q", rs["q"]),
		"alg Ed25519 of EC":   with(p256, "alg", "Ed25519"),
		"BOM":                 "\ufeff" + with(ed),
		"ssh":                 "-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n",
		"n after a zero":      with(rs, "n", zeroBefore(rs["n"])),
		"e after a zero":      with(rs, "e", zeroBefore(rs["e"])),
		"d after a zero":      with(rs, "d", zeroBefore(rs["d"])),
		"p after a zero":      with(rs, "p", zeroBefore(rs["p"])),
		"qi after a zero":     with(rs, "qi", zeroBefore(rs["qi"])),
		"unknown curve":       with(ed, "crv", "Ed448"),
		"longer than a key":   with(ed) + strings.Repeat(" ", 64<<10),
		"A19 low-order point": with(ed, "x", "AQ"+strings.Repeat("A", 41)),
	} {
		k, err := load(text)
		if err == nil || k != nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, o := range []map[string]any{ed, p256, rs} {
			if strings.Contains(err.Error(), o["d"].(string)) {
				t.Errorf("%s: the error contains the key", name)
			}
		}
	}
}

// zeroBefore is a number with one octet more, which is zero.
func zeroBefore(number any) string {
	b, err := base64.RawURLEncoding.DecodeString(number.(string))
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(append([]byte{0}, b...))
}

// TestLoadSaysWhatItIs: what people have in place of a signing key is called by its
// name.
func TestLoadSaysWhatItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for text, want := range map[string]string{
		"":                                 "empty",
		"\ufeff{}":                         "byte order mark",
		"-----BEGIN PRIVATE KEY-----":      "PEM",
		"-----BEGIN OPENSSH PRIVATE KEY--": "ssh",
		"PuTTY-User-Key-File-3: x":         "ssh",
		"Bag\n-----BEGIN PRIVATE KEY-----": "text before its PEM",
		"0\x82\x01\x02":                    "DER",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := signkey.Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "handoff keygen") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestLoadRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"", dir, filepath.Join(dir, "missing")} {
		if _, err := signkey.Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", path, err)
		}
	}
}
