package handoff_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

var update = flag.Bool("update", false, "make testdata/tokens.json anew; published vectors are never changed, only added to")

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
}

const frozenFile = "testdata/tokens.json"

// TestFrozenTokens holds the verifier to the published vectors.
func TestFrozenTokens(t *testing.T) {
	if *update {
		freeze(t)
	}
	text, err := os.ReadFile(frozenFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors frozen
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
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
	accepted := 0
	for _, vector := range vectors.Tokens {
		verified, err := verifier.Verify(context.Background(), vector.Token)
		if err == nil {
			err = verified.Allows(op, handoff.Rule{})
		}
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
	if accepted != len(handoff.Algorithms()) || len(vectors.Tokens) < 80 {
		t.Errorf("%d of %d vectors are acceptable", accepted, len(vectors.Tokens))
	}
}

// freeze writes a good token of each algorithm, and of each attack the shortest
// token for each check.
func freeze(t *testing.T) {
	vectors := frozen{
		Comment: "Frozen vectors of handoff+jwt, see SPEC.md. A token without a reason is accepted, for the method and the request's fields " +
			"below, once its redemption is recorded. Reasons before the signature are all TOKEN_INVALID; check tells them apart.",
		Audience: billing, At: now.Unix(), Issuers: map[string]jwks{}, Method: pay, Fields: map[string]string{},
	}
	for _, f := range operation.Bound {
		vectors.Fields[f.Path] = f.Value
	}
	var set jwks
	shortest := map[string]int{}
	for _, algorithm := range handoff.Algorithms() {
		key := forge.NewKey(algorithm)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public.Public(), KeyID: key.Public.ID(), Algorithm: string(algorithm), Use: "sig"})
		good := func() forge.Token {
			return forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(), Operation: operation, IssuedAt: now})
		}
		vectors.Tokens = append(vectors.Tokens, frozenToken{Name: "a good token, " + string(algorithm), Token: good().Compact()})
		for _, attack := range forge.Attacks() {
			own := attack.Algorithm == algorithm
			if !own && (attack.Algorithm != "" || algorithm != handoff.EdDSA) {
				continue
			}
			raw := attack.Forge(good())
			vector := frozenToken{Attack: attack.ID, Name: attack.Name, Token: raw, Reason: attack.Reason.String(), Check: attack.Check}
			at, ok := shortest[attack.ID+string(attack.Check)+string(attack.Algorithm)]
			switch {
			case len(raw) > 5000:
			case !ok:
				shortest[attack.ID+string(attack.Check)+string(attack.Algorithm)] = len(vectors.Tokens)
				vectors.Tokens = append(vectors.Tokens, vector)
			case len(raw) < len(vectors.Tokens[at].Token):
				vectors.Tokens[at] = vector
			}
		}
	}
	for _, other := range []struct {
		name string
		op   handoff.Operation
		want handoff.Check
		why  handoff.Reason
	}{
		{"for another method", handoff.Operation{Method: pay + "All", Bound: operation.Bound}, handoff.CheckOperationMethod, handoff.ReasonMethodMismatch},
		{"with another value", handoff.Operation{Method: pay, Bound: append([]handoff.Field{{Path: "amount", Value: "{}"}, {Path: "amount.minor_units", Value: "1"}}, operation.Bound[2:]...)}, handoff.CheckOperationValue, handoff.ReasonFieldMismatch},
		{"with a field less", handoff.Operation{Method: pay, Bound: operation.Bound[:2]}, handoff.CheckOperationField, handoff.ReasonFieldMismatch},
		{"with a field more", handoff.Operation{Method: pay, Bound: append(operation.Bound[:3:3], handoff.Field{Path: "payee", Value: "x"})}, handoff.CheckOperationValue, handoff.ReasonFieldMismatch},
	} {
		key := forge.NewKey(handoff.EdDSA)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public.Public(), KeyID: key.Public.ID(), Algorithm: string(handoff.EdDSA), Use: "sig"})
		raw := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: other.op, IssuedAt: now}).Compact()
		vectors.Tokens = append(vectors.Tokens, frozenToken{Attack: "D14", Name: "a good token " + other.name, Token: raw, Reason: other.why.String(), Check: other.want})
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
