package sealed_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/sealed"
)

var update = flag.Bool("update", false, "make testdata/tokens.json where there is none; published vectors are never changed")

// frozen is testdata/tokens.json: what another implementation must say of each sealed
// token.
type frozen struct {
	Comment  string          `json:"comment"`
	Audience string          `json:"audience"`
	At       int64           `json:"at"` // the audience's clock, in Unix seconds
	Issuer   string          `json:"issuer"`
	Keys     json.RawMessage `json:"keys"`       // the issuer's, a JWK Set
	Unseal   unsealJWK       `json:"unseal_key"` // the audience's
	Tokens   []frozenToken   `json:"tokens"`
}

type unsealJWK struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	D   string `json:"d"`
}

type frozenToken struct {
	Attack string        `json:"attack,omitempty"`
	Name   string        `json:"name"`
	Token  string        `json:"token"`
	Reason string        `json:"reason,omitempty"` // empty: accepted
	Check  handoff.Check `json:"check,omitempty"`
}

const frozenFile = "testdata/tokens.json"

// TestFrozenTokens holds the opener to the published vectors.
func TestFrozenTokens(t *testing.T) {
	text, err := os.ReadFile(frozenFile)
	if *update && errors.Is(err, fs.ErrNotExist) {
		freeze(t)
		text, err = os.ReadFile(frozenFile)
	}
	if err != nil {
		t.Fatal(err)
	}
	var vectors frozen
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	scalar, err := base64.RawURLEncoding.DecodeString(vectors.Unseal.D)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sealed.NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyset.Parse(vectors.Keys)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: vectors.Audience, Issuers: map[string]handoff.KeySource{vectors.Issuer: keys}, Store: everything{},
		Now: func() time.Time { return time.Unix(vectors.At, 0) }, Unseal: opener(t, key),
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted, ids := 0, map[string]bool{}
	for _, vector := range vectors.Tokens {
		_, err := verifier.Verify(t.Context(), vector.Token)
		ids[vector.Attack] = true
		if vector.Reason == "" {
			accepted++
			if err != nil {
				t.Errorf("%s: %v, want accepted", vector.Name, err)
			}
			continue
		}
		if got := refusal(t, err); got.Check != vector.Check || got.Reason.String() != vector.Reason {
			t.Errorf("%s: %v, want %s (%s)", vector.Name, err, vector.Reason, vector.Check)
		}
	}
	if accepted != 2 || len(vectors.Tokens) < 40 || !ids["B13"] || !ids["B14"] || !ids["B15"] || !ids["B16"] {
		t.Errorf("%d of %d vectors are acceptable, for %v", accepted, len(vectors.Tokens), ids)
	}
}

// freeze writes two good tokens, whose headers have their members in different orders,
// and each attack.
func freeze(t *testing.T) {
	t.Helper()
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	to, point := forge.NewRecipient(private.PublicKey()), string(private.PublicKey().Bytes())
	b := newBench(t, nil)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: b.key.Public.Public(), KeyID: b.key.Public.ID(), Algorithm: string(handoff.EdDSA), Use: "sig"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	vectors := frozen{
		Comment: "Frozen vectors of handoff-sealed+jwt, see section 7 of ../../handoff/SPEC.md. A token without a reason is accepted. " +
			"The private key is published here: it is for tests only.",
		Audience: billing, At: now.Unix(), Issuer: shop, Keys: set,
		Unseal: unsealJWK{"EC", "P-256", forge.Encode(point[1:33]), forge.Encode(point[33:]), forge.Encode(string(private.Bytes()))},
	}
	other := forge.Seal(to)
	other.Header = append(other.Header[3:len(other.Header):len(other.Header)], other.Header[:3]...)
	vectors.Tokens = []frozenToken{
		{Name: "a good token", Token: forge.Seal(to).Around(b.good().Compact())},
		{Name: "a good token, its header in another order", Token: other.Around(b.good().Compact())},
	}
	for _, attack := range forge.SealedAttacks() {
		raw := attack.Forge(to, b.good().Compact())
		if len(raw) > 3000 || strings.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r > '~' }) {
			continue
		}
		vectors.Tokens = append(vectors.Tokens, frozenToken{attack.ID, attack.Name, raw, handoff.ReasonTokenInvalid.String(), attack.Check})
	}
	text, err := json.MarshalIndent(vectors, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(frozenFile, append(text, '\n'), 0o644)); err != nil {
		t.Fatal(err)
	}
}
