package server1

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// A key in a PKCS#11 token is loaded by the build that can, and refused by all others.
func TestKeyInAToken(t *testing.T) {
	key, err := signkey.Generate(handoff.ES256)
	if err != nil {
		t.Fatal(err)
	}
	const uri = "pkcs11:object=trust"
	reaching := Config{PKCS11: func(asked string) (*signkey.Key, error) {
		if asked != uri {
			return nil, errors.New("no such key")
		}
		return key, nil
	}}
	public := func(c Config, key string) (status int, stdout, stderr string) {
		var out, complaint bytes.Buffer
		status = c.run(t.Context(), []string{"keys", "public", "--key", key}, nil, strings.NewReader(""), &out, &complaint)
		return status, out.String(), complaint.String()
	}
	status, out, complaint := public(reaching, uri)
	if status != 0 {
		t.Fatalf("status %d: %s", status, complaint)
	}
	if set, err := keyset.Parse([]byte(out)); err != nil || len(set.Keys()) != 1 || set.Keys()[0].ID() != key.Key().ID() {
		t.Errorf("%v: %s", err, out)
	}
	if status, out, complaint := public(reaching, uri+"s"); status != 2 || out != "" || !strings.Contains(complaint, "--key") || !strings.Contains(complaint, "no such key") {
		t.Errorf("a key that is not there: status %d: %s", status, complaint)
	}
	for _, written := range []string{" " + uri, uri + "\n", `"` + uri + `"`, "'" + uri + "'"} {
		if status, again, complaint := public(reaching, written); status != 0 || again != out {
			t.Errorf("%q: status %d: %s", written, status, complaint)
		}
	}
	// What is no URI that can be used is not repeated: a PIN may be in it.
	for _, written := range []string{"PKCS11:pin-value=4711", " Pkcs11:pin-value=4711", "file:pkcs11:pin-value=4711", "‘pkcs11:pin-value=4711’", "./PKCS11:/x?pin-value=4711"} {
		for _, build := range []Config{{}, reaching} {
			if status, out, complaint := public(build, written); status != 2 || out != "" || !strings.Contains(complaint, "--key") || strings.Contains(complaint, "4711") {
				t.Errorf("%q: status %d: %s", written, status, complaint)
			}
		}
	}
	if status, out, complaint := public(Config{}, uri); status != 2 || out != "" || !strings.Contains(complaint, "make pkcs11") {
		t.Errorf("another build: status %d: %s", status, complaint)
	}

	s := newSite(t)
	for _, setting := range []string{"key", "trust-key"} {
		settings := s.settings()
		settings[setting] = uri
		refused(t, arguments("serve", settings), nil, "--"+setting+" is a key in a PKCS#11 token")
	}
}
