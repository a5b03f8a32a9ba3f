package sealed_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// What is saved loads, and its public half seals for it.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "unseal.key")
	key, err := sealed.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := key.Save(path); err == nil {
		t.Error("a key was written over another")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	loaded, err := sealed.Load(path)
	if err != nil || loaded.Public().ID() != key.Public().ID() {
		t.Fatal(err)
	}
	text, err := sealed.MarshalKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "seal.jwks")
	if err := os.WriteFile(public, text, 0o644); err != nil {
		t.Fatal(err)
	}
	keys, err := sealed.LoadKeys(public)
	if err != nil || len(keys) != 1 {
		t.Fatal(err)
	}
	raw, err := keys[0].Seal("a.b.c")
	if err != nil {
		t.Fatal(err)
	}
	if inner, err := opener(t, loaded)(raw); err != nil || inner != "a.b.c" {
		t.Errorf("%q, %v", inner, err)
	}
}

// A04, A20, H11: keys for something else, of others, or that others can use.
func TestFilesRefused(t *testing.T) {
	dir := t.TempDir()
	key, err := sealed.Generate()
	if err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	if err := key.Save(good); err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := signkey.Generate(handoff.ES256)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Save(filepath.Join(dir, "signing")); err != nil {
		t.Fatal(err)
	}
	signingText, err := os.ReadFile(filepath.Join(dir, "signing"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := sealed.MarshalKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	other := func(text, old, new string) string {
		changed := strings.Replace(text, old, new, 1)
		if changed == text {
			t.Fatalf("%q is not in it", old)
		}
		return changed
	}
	if _, err := sealed.MarshalKeys(key.Public(), key.Public()); err == nil {
		t.Error("a set that has a key twice is written")
	}
	_, member, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(string(public)), "]\n}"), "[")
	twice := other(string(public), "[", "["+strings.TrimSpace(member)+",")
	for name, test := range map[string]struct {
		text   string
		mode   os.FileMode
		secret bool
	}{
		"a signing key":               {string(signingText), 0o600, true},
		"use sig":                     {other(string(private), `"enc"`, `"sig"`), 0o600, true},
		"readable by others":          {string(private), 0o644, true},
		"another alg":                 {other(string(private), "ECDH-ES", "ECDH-ES+A256KW"), 0o600, true},
		"another d":                   {other(string(private), `"d":"`, `"d":"A`), 0o600, true},
		"another kid":                 {other(string(private), `"kid":"`, `"kid":"A`), 0o600, true},
		"an unknown member":           {other(string(private), `{`, `{"key_ops":"x",`), 0o600, true},
		"public in place of private":  {string(public), 0o600, true},
		"empty":                       {"", 0o600, true},
		"private in place of public":  {`{"keys":[` + string(private) + `]}`, 0o644, false},
		"none":                        {`{"keys":[]}`, 0o644, false},
		"the same twice":              {twice, 0o644, false},
		"writable by others":          {string(public), 0o666, false},
		"a set with something beside": {other(string(public), `{`, `{"x":1,`), 0o644, false},
		"a point off the curve":       {other(string(public), `"x": "`, `"x": "AAAA`), 0o644, false},
	} {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		if test.secret {
			_, err = sealed.Load(path)
		} else {
			_, err = sealed.LoadKeys(path)
		}
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
