package handoff_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

var update = flag.Bool("update", false, "add what testdata/tokens.json lacks; published vectors are never changed")

// frozen is testdata/tokens.json: what another implementation must say of each
// token.
type frozen struct {
	Comment  string            `json:"comment"`
	Audience string            `json:"audience"`
	At       int64             `json:"at"` // the audience's clock, in Unix seconds
	Issuers  map[string]jwks   `json:"issuers"`
	Fields   map[string]string `json:"fields"` // of the request, none of them free
	Method   string            `json:"method"`
	Tokens   []frozenToken     `json:"tokens"`
}

type jwks struct {
	Keys []jose.JSONWebKey `json:"keys"`
}

type frozenToken struct {
	Attack string        `json:"attack,omitempty"`
	Name   string        `json:"name"`
	Token  string        `json:"token"`
	Reason string        `json:"reason,omitempty"` // empty: accepted
	Check  handoff.Check `json:"check,omitempty"`
	// Certificate is that of the client whose connection brings the token, in DER and
	// base64; empty: it has none.
	Certificate []byte `json:"certificate,omitempty"`
}

const frozenFile = "testdata/tokens.json"

// TestFrozenTokens holds the verifier to the published vectors.
func TestFrozenTokens(t *testing.T) {
	if *update {
		freeze(t)
	}
	vectors := readFrozen(t)
	issuers := make(map[string]handoff.KeySource)
	for issuer, set := range vectors.Issuers {
		var listed keys
		for _, jwk := range set.Keys {
			key, err := handoff.NewKey(handoff.Algorithm(jwk.Algorithm), jwk.Key)
			if err != nil {
				t.Fatal(err)
			}
			if key.ID() != jwk.KeyID {
				t.Errorf("the thumbprint of %s is %s", jwk.KeyID, key.ID())
			}
			listed = append(listed, key)
		}
		issuers[issuer] = listed
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: vectors.Audience, Issuers: issuers, Store: &recorder{},
		Now: func() time.Time { return time.Unix(vectors.At, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	op := handoff.Operation{Method: vectors.Method}
	for path, value := range vectors.Fields {
		op.Bound = append(op.Bound, handoff.Field{Path: path, Value: value})
	}
	accepted, ids := 0, map[string]bool{}
	for _, vector := range vectors.Tokens {
		var from *x509.Certificate
		if vector.Certificate != nil {
			if from, err = x509.ParseCertificate(vector.Certificate); err != nil {
				t.Fatal(err)
			}
		}
		verified, err := verifier.VerifyFrom(context.Background(), vector.Token, from)
		if err == nil {
			err = verified.Allows(op, handoff.Rule{})
		}
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
	if accepted != len(handoff.Algorithms())+1 || // and one that is bound to a certificate
		len(vectors.Tokens) < 80 || !ids["D14"] || !ids["G17"] {
		t.Errorf("%d of %d vectors are acceptable", accepted, len(vectors.Tokens))
	}
}

func readFrozen(t *testing.T) (vectors frozen) {
	t.Helper()
	text, err := os.ReadFile(frozenFile)
	if err == nil {
		err = json.Unmarshal(text, &vectors)
	}
	if err != nil {
		t.Fatal(err)
	}
	return vectors
}

// freeze adds of each attack the shortest token for each check, where the file has
// none; and what is bound to a certificate.
func freeze(t *testing.T) {
	vectors := readFrozen(t)
	set, known := vectors.Issuers[shop], map[string]bool{}
	for _, vector := range vectors.Tokens {
		known[vector.Attack+string(vector.Check)] = true
	}
	key := forge.NewKey(handoff.EdDSA)
	set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public.Public(), KeyID: key.Public.ID(), Algorithm: string(handoff.EdDSA), Use: "sig"})
	good := func() forge.Token {
		return forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(), Operation: operation, IssuedAt: now})
	}
	shortest := map[string]int{}
	for _, attack := range forge.Attacks() {
		what := attack.ID + string(attack.Check)
		if known[what] || attack.Algorithm != "" && attack.Algorithm != handoff.EdDSA {
			continue
		}
		vector := frozenToken{Attack: attack.ID, Name: attack.Name, Token: attack.Forge(good()), Reason: attack.Reason.String(), Check: attack.Check}
		at, ok := shortest[what]
		switch {
		case len(vector.Token) > 5000:
		case !ok:
			shortest[what] = len(vectors.Tokens)
			vectors.Tokens = append(vectors.Tokens, vector)
		case len(vector.Token) < len(vectors.Tokens[at].Token):
			vectors.Tokens[at] = vector
		}
	}
	if !slices.ContainsFunc(vectors.Tokens, func(vector frozenToken) bool { return vector.Certificate != nil }) {
		vectors.Tokens = append(vectors.Tokens, freezeBound(t, good)...)
	}
	if len(vectors.Tokens) == len(readFrozen(t).Tokens) {
		return
	}
	vectors.Issuers[shop] = set
	text, err := json.MarshalIndent(vectors, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(frozenFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// freezeBound returns a token that is bound to a certificate, from its client and from
// another.
func freezeBound(t *testing.T, good func() forge.Token) []frozenToken {
	t.Helper()
	certificate := func() []byte {
		key := forge.NewKey(handoff.ES256).Private
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	own := certificate()
	sum := sha256.Sum256(own)
	bound := func() string {
		return good().WithClaim("cnf", `{"x5t#S256":"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"}`).Compact()
	}
	return []frozenToken{
		{Name: "a good token, bound to the certificate of its connection", Token: bound(), Certificate: own},
		{
			Attack: "G17", Name: "a good token, bound to another certificate", Token: bound(), Certificate: certificate(),
			Reason: handoff.ReasonCertificateMismatch.String(), Check: "verify.cnf",
		},
	}
}
