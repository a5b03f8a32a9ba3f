package keyset_test

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/keyset"
)

// FuzzParse holds the parser against go-jose. Accepted implies: go-jose reads
// each key too, to the same thumbprint; none of the document's keys is private to
// go-jose's eyes; and what the set publishes is read back as the same set.
func FuzzParse(f *testing.F) {
	s := samples()
	f.Add([]byte(set(jwk(s.ed25519), jwk(s.p256).with("use", "sig"), jwk(s.p384).with("kid", "a"), jwk(s.rsa).with("alg", "PS256"))))
	f.Add([]byte(set(jwk(s.p521), jwk(s.ed25519).with("key_ops", []string{"verify"}))))
	f.Add([]byte(jwk(s.p256).with("d", "AAAA").String()))
	f.Add([]byte(pemOf(f, "PUBLIC KEY", s.ed25519) + pemOf(f, "PUBLIC KEY", s.p256)))
	f.Add([]byte(pemOf(f, "PUBLIC KEY", s.rsa)))
	f.Add([]byte(`{"keys":[{"alg":"ES521","use":"sig","x":"04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY","y":"UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw","crv":"P-256","kid":"kid-ec-sign","kty":"EC"}]}`)) // Wycheproof 19
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := keyset.Parse(text)
		if err != nil {
			if got != nil {
				t.Fatal("a set beside an error")
			}
			return
		}
		ids := thumbprints(t, text)
		for _, k := range got.Keys() {
			if !ids[k.ID()] {
				t.Errorf("go-jose does not read the key %s", k.ID())
			}
		}
		published, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := keyset.Parse(published)
		if err != nil || len(again.Keys()) != len(got.Keys()) {
			t.Fatalf("what the set publishes is not read back: %v", err)
		}
		for i, k := range got.Keys() {
			if a := again.Keys()[i]; a.ID() != k.ID() || a.Algorithm() != k.Algorithm() {
				t.Errorf("key %d is read back as another", i)
			}
		}
	})
}

// thumbprints reads the keys of an accepted document with go-jose.
func thumbprints(t *testing.T, text []byte) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	add := func(k jose.JSONWebKey) {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		ids[base64.RawURLEncoding.EncodeToString(sum)] = true
	}
	if block, rest := pem.Decode(text); block != nil {
		for ; block != nil; block, rest = pem.Decode(rest) {
			public, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				t.Fatalf("accepted with a block that is no key: %v", err)
			}
			add(jose.JSONWebKey{Key: public})
		}
		return ids
	}
	var document struct{ Keys []map[string]any }
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if document.Keys == nil {
		document.Keys = make([]map[string]any, 1)
		if err := json.Unmarshal(text, &document.Keys[0]); err != nil {
			t.Fatal(err)
		}
	}
	for _, members := range document.Keys {
		for name := range members { // our parser does not look at certificates
			if strings.HasPrefix(name, "x5") {
				delete(members, name)
			}
		}
		one, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) != nil {
			continue // of an unknown kind
		}
		if !k.IsPublic() {
			t.Error("accepted beside a key that is not public")
		}
		add(k)
	}
	return ids
}
