package handoff_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

const (
	get    = "/billing.v1.Billing/Get"
	export = "/billing.v1.Billing/Export"
)

// reads is the rule of a method that takes visits.
var reads = handoff.Rule{Reusable: true, Visit: true}

func (b *bench) visit() forge.Token {
	return forge.GoodVisit(forge.Params{
		Key: b.key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(), IssuedAt: now, Lifetime: 15 * time.Minute,
	}, get, export)
}

func visitParams() handoff.IssueParams {
	return handoff.IssueParams{Audience: billing, Subject: "u-1", Session: handoff.NewID(), Methods: []string{get, export}}
}

func asVisits(c *handoff.IssuerConfig) { c.MaxVisitLifetime = time.Hour }

// What the issuer makes, the verifier and the judge take, and read alike.
func TestIssueVisit(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		raw, claims, err := b.issuer(t, asVisits).Issue(t.Context(), visitParams())
		if err != nil {
			t.Fatal(err)
		}
		verified, err := b.verifier.VerifyVisit(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		judge{b.key, now}.agree(t, raw, verified)
		if got := verified.Claims(); got.Kind() != handoff.KindVisit || verified.Kind() != handoff.KindVisit || !slices.Equal(got.Methods, claims.Methods) ||
			!got.Expires.Equal(now.Add(15*time.Minute)) {
			t.Errorf("%+v", got)
		}
		unverified, err := handoff.UnverifiedClaims(raw)
		if err != nil || unverified.ID != claims.ID || !slices.Equal(unverified.Methods, claims.Methods) {
			t.Errorf("%+v, %v", unverified, err)
		}
		if !handoff.KindVisit.Of(raw) || handoff.KindHandoff.Of(raw) || handoff.KindVisit.Of(b.good().Compact()) || !handoff.KindHandoff.Of(b.good().Compact()) {
			t.Error("Of takes one kind for the other")
		}
	}
	for _, raw := range []string{"", "..", "a.b.c", strings.Repeat("A", 5000)} {
		if handoff.KindVisit.Of(raw) || handoff.KindHandoff.Of(raw) {
			t.Errorf("%.20q is of a kind", raw)
		}
	}
}

func TestIssueVisitRefuses(t *testing.T) {
	many := make([]string, 33)
	for i := range many {
		many[i] = "/a.v1.B/C" + strconv.Itoa(i)
	}
	for name, test := range map[string]struct {
		spoil func(*handoff.IssueParams)
		field string
	}{
		"no session":      {func(p *handoff.IssueParams) { p.Session = "" }, "Session"},
		"no method":       {func(p *handoff.IssueParams) { p.Methods = []string{} }, "Methods"},
		"33 methods":      {func(p *handoff.IssueParams) { p.Methods = many }, "Methods"},
		"a method twice":  {func(p *handoff.IssueParams) { p.Methods = []string{get, get} }, "Methods"},
		"all methods":     {func(p *handoff.IssueParams) { p.Methods = []string{"/billing.v1.Billing/*"} }, "Methods"},
		"an operation":    {func(p *handoff.IssueParams) { p.Operation = operation }, "Methods"},
		"a rule's demand": {func(p *handoff.IssueParams) { p.Operation.CertificateBound = true }, "Methods"},
		"a certificate":   {func(p *handoff.IssueParams) { p.Certificate = &x509.Certificate{Raw: []byte("a client's")} }, "Methods"},
		"a seal":          {func(p *handoff.IssueParams) { p.Seal = func(s string) (string, error) { return s, nil } }, "Methods"},
		"too long":        {func(p *handoff.IssueParams) { p.Lifetime = time.Hour + time.Second }, "Lifetime"},
		"a fraction":      {func(p *handoff.IssueParams) { p.Lifetime = 1500 * time.Millisecond }, "Lifetime"},
		"no audience":     {func(p *handoff.IssueParams) { p.Audience = "" }, "Audience"},
	} {
		params := visitParams()
		test.spoil(&params)
		raw, _, err := newBench(t, handoff.EdDSA).issuer(t, asVisits).Issue(t.Context(), params)
		if refusedField(err) != "handoff.IssueParams."+test.field || raw != "" {
			t.Errorf("%s: %v, want %s refused", name, err, test.field)
		}
	}
	b := newBench(t, handoff.EdDSA)
	if _, _, err := b.issuer(t, asIs).Issue(t.Context(), visitParams()); refusedField(err) != "handoff.IssueParams.Methods" {
		t.Errorf("an issuer that was not told to issues visits: %v", err)
	}
	for _, most := range []time.Duration{-1, time.Millisecond, time.Hour + time.Second} {
		if _, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signer{b.key}, MaxVisitLifetime: most}); refusedField(err) != "handoff.IssuerConfig.MaxVisitLifetime" {
			t.Errorf("%s: %v", most, err)
		}
	}
	if _, claims, err := b.issuer(t, func(c *handoff.IssuerConfig) { c.MaxVisitLifetime = time.Minute }).Issue(t.Context(), visitParams()); err != nil || claims.Expires.Sub(claims.IssuedAt) != time.Minute {
		t.Errorf("%v, %v", claims, err)
	}
}

// J10: each hostile visit is refused, and no visit is a handoff or a handoff a visit.
func TestJ10Attacks(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		if _, err := b.verifier.VerifyAny(t.Context(), b.visit().Compact(), nil); err != nil {
			t.Fatalf("the control is refused: %v", err)
		}
		for _, attack := range forge.VisitAttacks() {
			raw := attack.Forge(b.visit())
			verified, err := b.verifier.VerifyAny(t.Context(), raw, nil)
			if got := refusal(t, err); got.Check != attack.Check || got.Reason != attack.Reason || verified != nil {
				t.Errorf("%s: refused by %s with %s, want %s with %s", attack.Name, got.Check, got.Reason, attack.Check, attack.Reason)
			}
			if _, err := b.verifier.Verify(t.Context(), raw); err == nil {
				t.Errorf("%s: accepted as a handoff", attack.Name)
			}
			if _, err := b.verifier.VerifyVisit(t.Context(), raw); err == nil {
				t.Errorf("%s: accepted as a visit", attack.Name)
			}
		}
		if _, err := b.verifier.Verify(t.Context(), b.visit().Compact()); checkOf(t, err) != "header.typ" {
			t.Errorf("a visit as a handoff: %v", err)
		}
		if _, err := b.verifier.VerifyVisit(t.Context(), b.good().Compact()); checkOf(t, err) != "header.typ" {
			t.Errorf("a handoff as a visit: %v", err)
		}
	}
}

// J10: a rule that does not say visit takes none, and one that does takes the visit's
// methods; a visit is never spent.
func TestJ10RuleOfTheMethod(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.VerifyVisit(t.Context(), b.visit().Compact())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		method string
		rule   handoff.Rule
		check  handoff.Check
		reason handoff.Reason
	}{
		"its method":            {get, reads, "", 0},
		"its other method":      {export, reads, "", 0},
		"no visit":              {get, handoff.Rule{Reusable: true}, "redeem.visit", handoff.ReasonMethodMismatch},
		"the strictest rule":    {get, handoff.Rule{}, "redeem.visit", handoff.ReasonMethodMismatch},
		"visit, and not again":  {get, handoff.Rule{Visit: true}, "redeem.visit", handoff.ReasonMethodMismatch},
		"another method":        {pay, reads, "operation.method", handoff.ReasonMethodMismatch},
		"a shorter life":        {get, handoff.Rule{Reusable: true, Visit: true, MaxLifetime: time.Minute}, "redeem.max_lifetime", handoff.ReasonLifetimeTooLong},
		"a life that is enough": {get, handoff.Rule{Reusable: true, Visit: true, MaxLifetime: 15 * time.Minute}, "", 0},
	} {
		for range 2 {
			// A visit names no values.
			op := handoff.Operation{Method: test.method, Bound: []handoff.Field{{Path: "invoice_id", Value: "INV-7"}}}
			grant, err := b.verifier.Redeem(t.Context(), verified, op, test.rule)
			if test.check != "" {
				if got := refusal(t, err); got.Check != test.check || got.Reason != test.reason || grant != nil {
					t.Errorf("%s: %v, want %s", name, err, test.check)
				}
				continue
			}
			if err != nil || grant.Kind() != handoff.KindVisit || grant.Method() != test.method || !grant.Reusable() {
				t.Fatalf("%s: %+v, %v", name, grant, err)
			}
		}
	}
	if len(b.store.seen) > 0 {
		t.Errorf("the store was asked: %v", b.store.seen)
	}
	// The other way round: a rule that says visit takes a handoff as ever.
	good, err := b.verifier.VerifyAny(t.Context(), b.good().Compact(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.verifier.Redeem(t.Context(), good, operation, reads); err != nil {
		t.Error(err)
	}
	other := operation
	other.Bound = operation.Bound[:2]
	if _, err := b.verifier.Redeem(t.Context(), good, other, reads); checkOf(t, err) != "operation.value" {
		t.Errorf("a handoff that stands for a visit: %v", err)
	}
	if good.Kind() != handoff.KindHandoff || !good.For(pay) || good.For(get) || !verified.For(export) || verified.For(pay) {
		t.Error("a token is for other methods than it names")
	}
}

// J10: an audience without a trust list takes no visit, as nothing could end one; with
// one, what is taken back ends it, in the middle of a stream as well.
func TestJ10TrustList(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	revoked := map[string]bool{}
	var source handoff.KeySource = keys{b.key.Public}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: b.store, Now: b.clock,
		Issuers: map[string]handoff.KeySource{shop: sourceFunc(func(ctx context.Context, kid string) (handoff.Key, error) { return source.Key(ctx, kid) })},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := b.visit().Compact()
	_, err = verifier.VerifyVisit(t.Context(), raw)
	if got := refusal(t, err); got.Check != "verify.visit" || got.Reason != handoff.ReasonTrustStale {
		t.Errorf("without a trust list: %v", err)
	}
	source = following{keys{b.key.Public}, revoked}
	verified, err := verifier.VerifyVisit(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := verifier.Redeem(t.Context(), verified, handoff.Operation{Method: get}, reads)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Recheck(t.Context(), grant); err != nil {
		t.Error(err)
	}
	revoked[grant.ID()] = true
	if err := verifier.Recheck(t.Context(), grant); handoff.ReasonOf(err) != handoff.ReasonTokenRevoked {
		t.Errorf("taken back, in a stream: %v", err)
	}
	if _, err := verifier.VerifyVisit(t.Context(), raw); handoff.ReasonOf(err) != handoff.ReasonTokenRevoked {
		t.Errorf("taken back: %v", err)
	}
	clear(revoked)
	b.now = now.Add(15 * time.Minute)
	if err := verifier.Recheck(t.Context(), grant); handoff.ReasonOf(err) != handoff.ReasonTokenExpired {
		t.Errorf("expired, in a stream: %v", err)
	}
}

type sourceFunc func(context.Context, string) (handoff.Key, error)

func (f sourceFunc) Key(ctx context.Context, kid string) (handoff.Key, error) { return f(ctx, kid) }

// A verifier can be stricter than the profile, and not laxer.
func TestMaxVisitLifetime(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	config := handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: following{keys: keys{b.key.Public}}}, Store: b.store, Now: b.clock,
	}
	for most, check := range map[time.Duration]handoff.Check{0: "", time.Hour: "", 15 * time.Minute: "", 15*time.Minute - time.Second: "verify.lifetime"} {
		config.MaxVisitLifetime = most
		verifier, err := handoff.NewVerifier(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.VerifyVisit(t.Context(), b.visit().Compact()); checkOf(t, err) != check {
			t.Errorf("%s: %v, want %q", most, err, check)
		}
	}
	for _, most := range []time.Duration{-1, time.Millisecond, time.Hour + time.Second} {
		config.MaxVisitLifetime = most
		if _, err := handoff.NewVerifier(config); refusedField(err) != "handoff.VerifierConfig.MaxVisitLifetime" {
			t.Errorf("%s: %v", most, err)
		}
	}
}

// What is sealed is a handoff: a visit in a seal is none, and a sealed handoff no visit.
func TestJ10Sealed(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	inner := ""
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: following{keys: keys{b.key.Public}}}, Store: b.store, Now: b.clock,
		Unseal: func(string) (string, error) { return inner, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	const seal = "a.b.c.d.e"
	inner = b.good().Compact()
	if _, err := verifier.VerifyAny(t.Context(), seal, nil); err != nil {
		t.Error(err)
	}
	if _, err := verifier.VerifyVisit(t.Context(), seal); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
		t.Errorf("a sealed handoff as a visit: %v", err)
	}
	inner = b.visit().Compact()
	if _, err := verifier.VerifyAny(t.Context(), seal, nil); checkOf(t, err) != "header.typ" {
		t.Errorf("a sealed visit: %v", err)
	}
}

// frozenVisits is testdata/visits.json.
const frozenVisits = "testdata/visits.json"

// TestFrozenVisits holds the verifier to the published vectors of visits.
func TestFrozenVisits(t *testing.T) {
	if *update {
		if _, err := os.Stat(frozenVisits); errors.Is(err, os.ErrNotExist) {
			freezeVisits(t)
		}
	}
	text, err := os.ReadFile(frozenVisits)
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
			listed = append(listed, key)
		}
		issuers[issuer] = following{keys: listed}
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: vectors.Audience, Issuers: issuers, Store: &recorder{}, Now: func() time.Time { return time.Unix(vectors.At, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for _, vector := range vectors.Tokens {
		verified, err := verifier.VerifyAny(t.Context(), vector.Token, nil)
		if err == nil {
			err = verified.Allows(handoff.Operation{Method: vectors.Method}, reads)
		}
		if vector.Reason == "" {
			accepted++
			if err != nil || verified.Kind() != handoff.KindVisit {
				t.Errorf("%s: %v, want accepted", vector.Name, err)
			}
			continue
		}
		if got := refusal(t, err); got.Check != vector.Check || got.Reason.String() != vector.Reason {
			t.Errorf("%s: %v, want %s (%s)", vector.Name, err, vector.Reason, vector.Check)
		}
	}
	if accepted != len(handoff.Algorithms()) || len(vectors.Tokens) < 35 {
		t.Errorf("%d of %d vectors are acceptable", accepted, len(vectors.Tokens))
	}
}

// freezeVisits writes a good visit of each algorithm, and each hostile one.
func freezeVisits(t *testing.T) {
	vectors := frozen{
		Comment: "Frozen vectors of handoff-visit+jwt, see SPEC.md section 9. A token without a reason is accepted, for the method below, whose rule says " +
			"reusable and visit, by an audience that follows the issuer's trust list, on which nothing is taken back. The audience takes handoffs as well.",
		Audience: billing, At: now.Unix(), Issuers: map[string]jwks{}, Method: get, Fields: map[string]string{},
	}
	var set jwks
	add := func(attack, name, raw string, reason handoff.Reason, check handoff.Check) {
		vector := frozenToken{Attack: attack, Name: name, Token: raw, Check: check}
		if reason != 0 {
			vector.Reason = reason.String()
		}
		vectors.Tokens = append(vectors.Tokens, vector)
	}
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: b.key.Public.Public(), KeyID: b.key.Public.ID(), Algorithm: string(algorithm), Use: "sig"})
		add("", "a good visit, "+string(algorithm), b.visit().Compact(), 0, "")
		if algorithm != handoff.EdDSA {
			continue
		}
		attacks := forge.VisitAttacks()
		slices.SortStableFunc(attacks, func(a, b forge.Hostile) int { return strings.Compare(a.Name, b.Name) })
		for _, attack := range attacks {
			add(attack.ID, attack.Name, attack.Forge(b.visit()), attack.Reason, attack.Check)
		}
		add("J10", "a good visit for another method", b.visit().WithDetails(forge.VisitDetails(export)).Compact(), handoff.ReasonMethodMismatch, "operation.method")
	}
	vectors.Issuers[shop] = set
	text, err := json.MarshalIndent(vectors, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(frozenVisits, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
