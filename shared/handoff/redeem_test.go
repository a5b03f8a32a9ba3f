package handoff_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/replay"
)

// redeem offers raw for the operation, and says why not.
func (b *bench) redeem(t testing.TB, raw string) handoff.Reason {
	t.Helper()
	verified, err := b.verifier.Verify(t.Context(), raw)
	if err == nil {
		_, err = b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
	}
	return handoff.ReasonOf(err)
}

// C02: the twin (r, n-s) of an ECDSA signature is as good as the original, first
// or second; whichever comes second is the same token again.
func TestC02TwinIsTheSameToken(t *testing.T) {
	for _, algorithm := range []handoff.Algorithm{handoff.ES256, handoff.ES384} {
		for _, twinFirst := range []bool{false, true} {
			b := newBench(t, algorithm)
			good := b.good()
			raw := good.Compact()
			first, second := raw, forge.Twin(good, raw)
			if twinFirst {
				first, second = second, first
			}
			if first == second {
				t.Fatal("the twin is the original")
			}
			if got := b.redeem(t, first); got != 0 {
				t.Errorf("%s: the first is refused: %s", algorithm, got)
			}
			if got := b.redeem(t, second); got != handoff.ReasonTokenReplayed {
				t.Errorf("%s: the second: %s", algorithm, got)
			}
		}
	}
}

// E10: an id is its issuer's own. Another trusted issuer that uses it first takes
// nothing away.
func TestE10AnIDOfAnotherIssuer(t *testing.T) {
	const other = "https://other.example"
	mallory := forge.NewKey(handoff.EdDSA)
	b := newBench(t, handoff.EdDSA)
	var err error
	b.verifier, err = handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: b.store, Now: b.clock,
		Issuers: map[string]handoff.KeySource{shop: keys{b.key.Public}, other: keys{mallory.Public}},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := b.good()
	poison := forge.Good(forge.Params{Key: mallory, Issuer: other, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now}).
		WithClaim("jti", good.Payload.Get("jti"))
	for _, step := range []struct {
		raw  string
		want handoff.Reason
	}{
		{poison.Compact(), 0},
		{poison.WithClaim("iss", forge.Quote(shop)).Compact(), handoff.ReasonIssuerMismatch},
		{good.Compact(), 0},
		{good.Compact(), handoff.ReasonTokenReplayed},
		{poison.Compact(), handoff.ReasonTokenReplayed},
	} {
		if got := b.redeem(t, step.raw); got != step.want {
			t.Errorf("%s, want %s", got, step.want)
		}
	}
}

// E14: a token that was spent is spent in every spelling: another JSON, another
// signature, another lifetime under the same id. Other base64url is no token.
func TestE14OtherBytesOfOneToken(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		good := b.good()
		raw := good.Compact()
		header, payload := good.Header.String(), good.Payload.String()
		reordered := good
		reordered.Payload = append(good.Payload[1:len(good.Payload):len(good.Payload)], good.Payload[0])
		if got := b.redeem(t, raw); got != 0 {
			t.Fatal(got)
		}
		for name, test := range map[string]struct {
			raw  string
			want handoff.Reason
		}{
			"the same":           {raw, handoff.ReasonTokenReplayed},
			"signed again":       {good.Compact(), handoff.ReasonTokenReplayed},
			"white space":        {good.Text(" "+header, payload+"\n"), handoff.ReasonTokenReplayed},
			"escapes":            {good.WithClaim("sub", `"\u0075-1"`).Compact(), handoff.ReasonTokenReplayed},
			"another order":      {reordered.Compact(), handoff.ReasonTokenReplayed},
			"a longer life":      {good.WithClaim("exp", "1767225700").Compact(), handoff.ReasonTokenReplayed},
			"another subject":    {good.WithClaim("sub", `"u-2"`).Compact(), handoff.ReasonTokenReplayed},
			"a line feed":        {raw + "\n", handoff.ReasonTokenInvalid},
			"padding":            {raw + "=", handoff.ReasonTokenInvalid},
			"another id":         {good.Fresh().Compact(), 0},
			"the id, escaped":    {good.WithClaim("jti", fmt.Sprintf(`"\u%04x`, good.Payload.Get("jti")[1])+good.Payload.Get("jti")[2:]).Compact(), handoff.ReasonTokenReplayed},
			"the id, other bits": {good.WithClaim("jti", otherBits(good.Payload.Get("jti"))).Compact(), handoff.ReasonClaimsInvalid},
		} {
			if got := b.redeem(t, test.raw); got != test.want {
				t.Errorf("%s, %s: %s, want %s", algorithm, name, got, test.want)
			}
		}
	}
}

// otherBits is the quoted id with bits set that are no part of its 128.
func otherBits(id string) string {
	return id[:22] + map[byte]string{'A': "B", 'Q': "R", 'g': "h", 'w': "x"}[id[22]] + `"`
}

// H07: what comes before the signature is the same answer after the same work,
// for any claims: nobody learns from it which would have been good.
func TestH07NothingShowsBeforeTheSignature(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	good := b.good()
	header, _, signature := good.Parts()
	var first *handoff.Refusal
	var work float64
	for i, payload := range []string{
		good.Payload.String(),
		good.WithClaim("aud", `"https://silling.example"`).Payload.String(),
		good.WithClaim("iss", `"https://s-op.example"`).Payload.String(),
		good.WithClaim("exp", "1767225500").Payload.String(),
		good.WithClaim("sub", `"u-2"`).Payload.String(),
		"{" + good.Payload.String()[1:len(good.Payload.String())-1] + "]",
	} {
		if len(payload) != len(good.Payload.String()) {
			t.Fatalf("%d is of another length: %s", i, payload)
		}
		raw := header + "." + forge.Encode(payload) + "." + signature[:20] + "AAAA" + signature[24:]
		var err error
		allocations := testing.AllocsPerRun(500, func() { _, err = b.verifier.Verify(t.Context(), raw) })
		got := refusal(t, err)
		if first == nil {
			first, work = got, allocations
		}
		if got.Error() != first.Error() || got.Check != "signature" || math.Abs(allocations-work) > 1 { // under the race detector a pool forgets
			t.Errorf("%d: %v after %v allocations, want %v after %v", i, got, allocations, first, work)
		}
	}
}

// E02: the store learns each verifier's skew, though another Store around it hides
// its own from NewVerifier: nothing is redeemed that it would not know to refuse
// after a restart.
func TestE02SkewOfTheVerifierReachesTheStore(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	b.now = now.Add(-time.Minute)
	memory := replay.NewMemory(replay.Config{Now: b.clock})
	b.now = now
	raw := b.good().Compact()
	for _, step := range []struct {
		skew time.Duration
		want handoff.Reason
	}{
		{handoff.MaxSkew, handoff.ReasonStoreUnavailable},
		{6 * time.Second, handoff.ReasonStoreUnavailable},
		{5 * time.Second, 0},
		{time.Second, handoff.ReasonTokenReplayed},
	} {
		config := handoff.VerifierConfig{
			Audience: billing, Issuers: map[string]handoff.KeySource{shop: keys{b.key.Public}},
			Store: memory, Skew: step.skew, Now: b.clock,
		}
		if _, err := handoff.NewVerifier(config); (err != nil) != (step.want == handoff.ReasonStoreUnavailable) {
			t.Errorf("skew %s: NewVerifier: %v", step.skew, err)
		}
		config.Store = struct{ handoff.Store }{memory}
		var err error
		if b.verifier, err = handoff.NewVerifier(config); err != nil {
			t.Fatal(err)
		}
		if got := b.redeem(t, raw); got != step.want {
			t.Errorf("skew %s: got %s, want %s", step.skew, got, step.want)
		}
	}
}

// A grant says what its token says, and nothing that the token does not.
func TestGrant(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	good := b.good()
	verified, err := b.verifier.Verify(t.Context(), good.Compact())
	if err != nil {
		t.Fatal(err)
	}
	grant, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
	if err != nil {
		t.Fatal(err)
	}
	if `"`+grant.ID()+`"` != good.Payload.Get("jti") || grant.Issuer() != shop || grant.Subject() != "u-1" || grant.Method() != pay ||
		!grant.Expires().Equal(now.Add(time.Minute)) || grant.Reusable() {
		t.Errorf("the grant is %+v", grant)
	}
	if got, ok := handoff.FromContext(t.Context()); ok || got != nil {
		t.Error("a grant came from nowhere")
	}
	if _, ok := handoff.FromContext(handoff.NewContext(t.Context(), nil)); ok {
		t.Error("no grant passes for one")
	}
	if got, ok := handoff.FromContext(handoff.NewContext(t.Context(), grant)); !ok || got != grant {
		t.Error("the handler gets another grant")
	}
	// The claims that a caller gets are a copy.
	claims := verified.Claims()
	claims.Fields[0].Value = "another"
	if verified.Claims().Fields[0].Value == "another" {
		t.Error("a caller can change what was verified")
	}
}

// K05: a token of a client that acts for a user redeems nothing where the rule does not allow
// that, and the grant says who acts where it does.
func TestK05Actor(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: keys{key.Public}}, Store: &recorder{}, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	good := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now})
	for _, c := range []struct {
		act    string
		actors bool
		want   handoff.Check
		actor  string
	}{{"", false, "", ""}, {"", true, "", ""}, {`{"sub":"c-1"}`, true, "", "c-1"}, {`{"sub":"c-1"}`, false, "redeem.actors", ""}} {
		token := good.Fresh()
		if c.act != "" {
			token = token.WithClaim("act", c.act)
		}
		verified, err := verifier.Verify(t.Context(), token.Compact())
		if err != nil {
			t.Fatal(err)
		}
		grant, err := verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Actors: c.actors})
		if got := checkOf(t, err); got != c.want || err == nil && (grant.Actor() != c.actor || grant.Subject() != "u-1") {
			t.Errorf("%+v: %v, %v", c, grant, err)
		}
		if err != nil && handoff.ReasonOf(err) != handoff.ReasonActorDenied {
			t.Errorf("%+v: %v", c, err)
		}
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signer{key}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	acting := params()
	acting.Actor = "c-1"
	if _, _, err := issuer.Issue(t.Context(), acting); err == nil {
		t.Error("a token for a method without actors is issued")
	}
	acting.Operation.Actors = true
	raw, claims, err := issuer.Issue(t.Context(), acting)
	if err != nil || claims.Actor != "c-1" {
		t.Fatal(claims, err)
	}
	if verified, err := verifier.Verify(t.Context(), raw); err != nil || verified.Claims().Actor != "c-1" {
		t.Errorf("%v, %v", verified, err)
	}
}
