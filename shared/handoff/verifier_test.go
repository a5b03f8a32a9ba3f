package handoff_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

const (
	shop    = "https://shop.example"
	billing = "https://billing.example"
	pay     = "/billing.v1.Billing/Pay"
)

var now = time.Unix(1767225600, 0).UTC() // 2026-01-01T00:00:00Z

// keys is a KeySource of fixed keys.
type keys []handoff.Key

func (k keys) Key(_ context.Context, kid string) (handoff.Key, error) {
	for _, key := range k {
		if key.ID() == kid {
			return key, nil
		}
	}
	return handoff.Key{}, handoff.ErrKeyUnknown
}

// following is a KeySource of an issuer whose trust list is followed: it takes back
// what is named in it, by jti.
type following struct {
	keys
	revoked map[string]bool
}

func (f following) Key(ctx context.Context, kid string) (handoff.Key, error) {
	key, err := f.keys.Key(ctx, kid)
	return key.WithRevocations(f), err
}

func (f following) Revoked(_ context.Context, c *handoff.Claims) error {
	if f.revoked[c.ID] {
		return handoff.ErrRevoked
	}
	return nil
}

// recorder is a Store that keeps what it was asked, in order.
type recorder struct {
	mu      sync.Mutex
	seen    map[handoff.Redemption]bool
	answers error
}

func (s *recorder) Redeem(_ context.Context, r handoff.Redemption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers != nil {
		return s.answers
	}
	key := handoff.Redemption{Issuer: r.Issuer, ID: r.ID}
	if s.seen[key] {
		return handoff.ErrReplayed
	}
	if s.seen == nil {
		s.seen = make(map[handoff.Redemption]bool)
	}
	s.seen[key] = true
	return nil
}

var operation = handoff.Operation{
	Method: pay,
	Bound: []handoff.Field{
		{Path: "amount", Value: "{}"},
		{Path: "amount.minor_units", Value: "1200"},
		{Path: "invoice_id", Value: "INV-42"},
	},
	Free: []handoff.Field{{Path: "memo", Value: "thank you"}},
}

// bench is what a test of the verifier stands on.
type bench struct {
	key      *forge.Key
	store    *recorder
	verifier *handoff.Verifier
	now      time.Time
}

func newBench(t testing.TB, algorithm handoff.Algorithm) *bench {
	t.Helper()
	b := &bench{key: forge.NewKey(algorithm), store: &recorder{}, now: now}
	other := forge.NewKey(handoff.EdDSA)
	var err error
	b.verifier, err = handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing,
		Issuers: map[string]handoff.KeySource{
			shop:                    following{keys: keys{b.key.Public}},
			"https://other.example": keys{other.Public},
		},
		Store: b.store,
		Now:   b.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) good() forge.Token {
	return forge.Good(forge.Params{
		Key: b.key, Issuer: shop, Audience: billing, Subject: "u-1", Session: handoff.NewID(),
		Operation: operation, IssuedAt: now,
	})
}

// refusal asserts that err is a Refusal, and returns it.
func refusal(t testing.TB, err error) *handoff.Refusal {
	t.Helper()
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("err = %v, want a *Refusal", err)
	}
	return refusal
}

// TestAttacks offers each hostile token and, before it, its control.
func TestAttacks(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		for _, attack := range forge.Attacks() {
			if attack.Algorithm != "" && attack.Algorithm != algorithm {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s %s", algorithm, attack.ID, attack.Name), func(t *testing.T) {
				good := b.good()
				if _, err := b.verifier.Verify(t.Context(), good.Compact()); err != nil {
					t.Fatalf("the control is refused: %v", err)
				}
				raw := attack.Forge(good)
				verified, err := b.verifier.Verify(t.Context(), raw)
				got := refusal(t, err)
				if verified != nil {
					t.Error("a refused token was returned as verified")
				}
				if got.Check != attack.Check || got.Reason != attack.Reason {
					t.Errorf("refused by %s with %s, want %s with %s: %v", got.Check, got.Reason, attack.Check, attack.Reason, got)
				}
				if vouched := attack.Reason == handoff.ReasonTokenExpired || attack.Reason == handoff.ReasonTokenNotYetValid ||
					attack.Reason == handoff.ReasonAudienceMismatch || attack.Reason == handoff.ReasonLifetimeTooLong ||
					attack.Reason == handoff.ReasonCertificateMismatch; vouched != (got.Claims != nil) {
					t.Errorf("refused with %s, and claims %v for the audit", got.Reason, got.Claims)
				}
				if text := got.Error(); len(text) > 300 || strings.ContainsAny(text, "\r\n\x00") {
					t.Errorf("the error is no clean line: %q", text)
				}
			})
		}
	}
}

// C06: a token that is not authentic gets one answer, for any claims.
// H06: the texts of the public answer are handoffgrpc's to fix.
func TestUniformBeforeTheSignature(t *testing.T) {
	for _, attack := range forge.Attacks() {
		before := strings.HasPrefix(string(attack.Check), "token.") || strings.HasPrefix(string(attack.Check), "header.") ||
			strings.HasPrefix(string(attack.Check), "key.") || attack.Check == "signature"
		if before != (attack.Reason == handoff.ReasonTokenInvalid) {
			t.Errorf("%s %s: check %s goes with reason %s", attack.ID, attack.Name, attack.Check, attack.Reason)
		}
	}
}

// E09: no refused token leaves a trace in the store.
func TestE09RefusedTokensAreNotSpent(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	for _, attack := range forge.Attacks() {
		if attack.Algorithm == "" || attack.Algorithm == handoff.EdDSA {
			if verified, err := b.verifier.Verify(t.Context(), attack.Forge(b.good())); err == nil {
				t.Errorf("%s accepted: %v", attack.Name, verified)
			}
		}
	}
	for _, op := range []handoff.Operation{
		{Method: "/billing.v1.Billing/Refund", Bound: operation.Bound},
		{Method: pay, Bound: operation.Bound[:2]},
	} {
		verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.verifier.Redeem(t.Context(), verified, op, handoff.Rule{}); err == nil {
			t.Errorf("%v redeemed", op)
		}
	}
	if len(b.store.seen) != 0 {
		t.Errorf("the store was asked %d times", len(b.store.seen))
	}
}

// A17 and A10: two issuers, each with its own key. Neither speaks for the other.
func TestA10KeyOfAnotherIssuer(t *testing.T) {
	a, b := forge.NewKey(handoff.EdDSA), forge.NewKey(handoff.EdDSA)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: &recorder{}, Now: func() time.Time { return now },
		Issuers: map[string]handoff.KeySource{"https://a.example": keys{a.Public}, "https://b.example": keys{b.Public}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		key    *forge.Key
		issuer string
		want   handoff.Check
	}{
		{a, "https://a.example", ""},
		{b, "https://b.example", ""},
		{a, "https://b.example", "verify.iss"},
		{b, "https://a.example", "verify.iss"},
		{a, "https://c.example", "verify.iss"},
	} {
		raw := forge.Good(forge.Params{
			Key: test.key, Issuer: test.issuer, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now,
		}).Compact()
		_, err := verifier.Verify(t.Context(), raw)
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.issuer, err)
			}
		} else if got := refusal(t, err); got.Check != test.want || got.Reason != handoff.ReasonIssuerMismatch {
			t.Errorf("%s: %v, want %s", test.issuer, err, test.want)
		}
	}
}

// D02, D06, D07: the edges of time, to the nanosecond and the second.
func TestTimes(t *testing.T) {
	for _, test := range []struct {
		name      string
		at        time.Duration // of the clock, after iat; the token lives 60 s
		notBefore time.Duration // of nbf after iat; 0: absent
		check     handoff.Check
		reason    handoff.Reason
	}{
		{"at once", 0, 0, "", 0},
		{"the last nanosecond", time.Minute - 1, 0, "", 0},
		{"exp", time.Minute, 0, "verify.exp", handoff.ReasonTokenExpired},
		{"a second after exp", 61 * time.Second, 0, "verify.exp", handoff.ReasonTokenExpired},
		{"a clock 5 s behind", -5 * time.Second, 0, "", 0},
		{"a clock just more than 5 s behind", -5*time.Second - 1, 0, "verify.iat", handoff.ReasonTokenNotYetValid},
		{"5 s before nbf", 25 * time.Second, 30 * time.Second, "", 0},
		{"just more than 5 s before nbf", 25*time.Second - 1, 30 * time.Second, "verify.nbf", handoff.ReasonTokenNotYetValid},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, handoff.EdDSA)
			b.now = now.Add(test.at)
			token := b.good()
			if test.notBefore != 0 {
				token = token.WithClaim("nbf", fmt.Sprint(now.Add(test.notBefore).Unix()))
			}
			_, err := b.verifier.Verify(t.Context(), token.Compact())
			if test.check == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if got := refusal(t, err); got.Check != test.check || got.Reason != test.reason {
				t.Errorf("refused by %s with %s, want %s with %s", got.Check, got.Reason, test.check, test.reason)
			}
		})
	}
}

// D14: a genuine token on any other call.
// A rule that no .proto can set allows nothing, rather than anything.
func TestRedeemNegativeLifetime(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{MaxLifetime: -time.Second})
	if handoff.ReasonOf(err) != handoff.ReasonLifetimeTooLong {
		t.Errorf("Redeem = %v", err)
	}
}

// H08: what a refusal says for the log quotes a field's path, but not a kilobyte
// of a map's key.
func TestH08LongPath(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	op := operation
	op.Bound = append(slices.Clone(op.Bound), handoff.Field{Path: `labels["` + strings.Repeat("\u00e9", 1000) + `"]`, Value: "x"})
	_, err = b.verifier.Redeem(t.Context(), verified, op, handoff.Rule{})
	if handoff.ReasonOf(err) != handoff.ReasonFieldMismatch || len(err.Error()) > 700 || !strings.Contains(err.Error(), "labels[") {
		t.Errorf("Redeem = %v", err)
	}
}

func TestRedeemOperation(t *testing.T) {
	op := func(bound ...handoff.Field) handoff.Operation {
		return handoff.Operation{Method: pay, Bound: bound}
	}
	units, message, id := handoff.Field{Path: "amount.minor_units", Value: "1200"}, handoff.Field{Path: "amount", Value: "{}"}, handoff.Field{Path: "invoice_id", Value: "INV-42"}
	with := func(f handoff.Field, value string) handoff.Field { f.Value = value; return f }
	for _, test := range []struct {
		name   string
		op     handoff.Operation
		check  handoff.Check
		reason handoff.Reason
	}{
		{"the same", op(message, units, id), "", 0},
		{"the same in another order", op(id, units, message), "", 0},
		{"a free field", handoff.Operation{Method: pay, Bound: operation.Bound, Free: []handoff.Field{{Path: "memo", Value: "other"}}}, "", 0},
		{"a named field that the rule frees, equal", handoff.Operation{Method: pay, Bound: []handoff.Field{message, units}, Free: []handoff.Field{id}}, "", 0},
		{"a named field that the rule frees, unequal", handoff.Operation{Method: pay, Bound: []handoff.Field{message, units}, Free: []handoff.Field{with(id, "INV-43")}}, "operation.value", handoff.ReasonFieldMismatch},
		{"another method", handoff.Operation{Method: "/billing.v1.Billing/Refund", Bound: operation.Bound}, "operation.method", handoff.ReasonMethodMismatch},
		{"another service", handoff.Operation{Method: "/billing.v2.Billing/Pay", Bound: operation.Bound}, "operation.method", handoff.ReasonMethodMismatch},
		{"another case", handoff.Operation{Method: "/billing.v1.Billing/pay", Bound: operation.Bound}, "operation.method", handoff.ReasonMethodMismatch},
		{"another value", op(message, with(units, "120000"), id), "operation.value", handoff.ReasonFieldMismatch},
		{"an empty value", op(message, with(units, ""), id), "operation.value", handoff.ReasonFieldMismatch},
		{"a missing field", op(message, id), "operation.value", handoff.ReasonFieldMismatch},
		{"nothing", op(), "operation.value", handoff.ReasonFieldMismatch},
		{"one field more", op(message, units, id, handoff.Field{Path: "payee", Value: "mallory"}), "operation.unnamed", handoff.ReasonFieldMismatch},
		{"one empty message more", op(message, units, id, handoff.Field{Path: "payee", Value: "{}"}), "operation.unnamed", handoff.ReasonFieldMismatch},
		{"a field twice", op(message, units, id, id), "operation.bind", handoff.ReasonRequestUnbindable},
		{"no path", op(handoff.Field{Value: "x"}), "operation.bind", handoff.ReasonRequestUnbindable},
		{"no method", handoff.Operation{Bound: operation.Bound}, "operation.bind", handoff.ReasonRequestUnbindable},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, handoff.EdDSA)
			verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
			if err != nil {
				t.Fatal(err)
			}
			grant, err := b.verifier.Redeem(t.Context(), verified, test.op, handoff.Rule{})
			if test.check == "" {
				if err != nil {
					t.Fatal(err)
				}
				if c := verified.Claims(); grant.ID() != c.ID || grant.Issuer() != shop || grant.Subject() != "u-1" || grant.Method() != pay || !grant.Expires().Equal(c.Expires) {
					t.Errorf("grant %v does not say what the token says", grant)
				}
				return
			}
			if got := refusal(t, err); got.Check != test.check || got.Reason != test.reason {
				t.Errorf("refused by %s with %s, want %s with %s", got.Check, got.Reason, test.check, test.reason)
			}
			if grant != nil || len(b.store.seen) != 0 {
				t.Error("a refused operation left a trace")
			}
		})
	}
}

// The detail of a mismatch names the field, never a value, and tells apart in
// which way the field differs.
func TestMismatchNamesTheField(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	rest, id := operation.Bound[:2], handoff.Field{Path: "invoice_id", Value: "INV-43"}
	other := handoff.Operation{Method: pay, Bound: append(rest[:2:2], id)}
	otherFree := handoff.Operation{Method: pay, Bound: rest, Free: []handoff.Field{id}}
	missing := handoff.Operation{Method: pay, Bound: rest}
	unnamed := handoff.Operation{Method: pay, Bound: append(operation.Bound[:3:3], handoff.Field{Path: `labels["eu"]`, Value: "INV-43"})}
	details := map[string]bool{}
	for _, c := range []struct {
		op   handoff.Operation
		path string
	}{{other, "invoice_id"}, {otherFree, "invoice_id"}, {missing, "invoice_id"}, {unnamed, `labels["eu"]`}} {
		got := refusal(t, verified.Allows(c.op, handoff.Rule{}))
		if !strings.Contains(got.Detail, strconv.Quote(c.path)) || strings.Contains(got.Detail, "INV-4") {
			t.Errorf("%s: %s", c.path, got.Detail)
		}
		details[got.Detail] = true
	}
	if len(details) != 3 { // bound or free, another value is one
		t.Errorf("not three ways to differ: %v", details)
	}
}

func TestRedeemDigest(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	long := handoff.Operation{Method: pay}
	for i := range 40 {
		long.Bound = append(long.Bound, handoff.Field{Path: fmt.Sprintf("lines[%d].text", i), Value: strings.Repeat("x", 40)})
	}
	raw, claims := b.issue(t, long)
	if claims.FieldsSHA256 == "" || claims.Fields != nil {
		t.Fatal("fields over 1 KiB were not replaced by their digest")
	}
	verified, err := b.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range long.Bound {
		other := long
		other.Bound = slices.Clone(long.Bound)
		other.Bound[i].Value += "y"
		if got := refusal(t, verified.Allows(other, handoff.Rule{})); got.Check != "operation.digest" || got.Reason != handoff.ReasonFieldMismatch {
			t.Fatalf("another value: %v", got)
		}
	}
	shorter := long
	shorter.Bound = long.Bound[1:]
	if got := refusal(t, verified.Allows(shorter, handoff.Rule{})); got.Reason != handoff.ReasonFieldMismatch {
		t.Errorf("one field fewer: %v", got)
	}
	free := long
	free.Free = []handoff.Field{{Path: "memo", Value: "free"}}
	slices.Reverse(free.Bound)
	if _, err := b.verifier.Redeem(t.Context(), verified, free, handoff.Rule{}); err != nil {
		t.Error(err)
	}
}

// signer is a SignerSource and Signer over a forge key.
type signer struct{ key *forge.Key }

func (s signer) Key() handoff.Key                               { return s.key.Public }
func (s signer) Signer(context.Context) (handoff.Signer, error) { return s, nil }
func (s signer) Sign(_ context.Context, in []byte) ([]byte, error) {
	return s.key.Sign(string(in)), nil
}

// issue has the real issuer issue a token for op.
func (b *bench) issue(t testing.TB, op handoff.Operation) (string, *handoff.Claims) {
	t.Helper()
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: shop, Key: signer{b.key}, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	raw, claims, err := issuer.Issue(t.Context(), handoff.IssueParams{Audience: billing, Subject: "u-1", Operation: op})
	if err != nil {
		t.Fatal(err)
	}
	return raw, claims
}

// E01: one redemption, however many try at once. (The recorder is atomic; that
// the stores are is handofftest.Store's to show.)
func TestRedeemOnce(t *testing.T) {
	b := newBench(t, handoff.ES256)
	good := b.good()
	raw := good.Compact()
	// C02, E14: the ECDSA twin is another spelling of the same token, and so is a
	// second signature over the same claims.
	spellings := []string{raw, forge.Twin(good, raw), good.Compact()}
	var mu sync.Mutex
	var granted, replayed int
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			verified, err := b.verifier.Verify(t.Context(), spellings[i%len(spellings)])
			if err != nil {
				t.Error(err)
				return
			}
			_, err = b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				granted++
			} else if handoff.ReasonOf(err) == handoff.ReasonTokenReplayed {
				replayed++
			}
		})
	}
	group.Wait()
	if granted != 1 || replayed != 29 {
		t.Errorf("%d granted and %d replayed, want 1 and 29", granted, replayed)
	}
}

func TestRedeemReusable(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		grant, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Reusable: true})
		if err != nil || !grant.Reusable() {
			t.Fatal(grant, err)
		}
	}
	if len(b.store.seen) != 0 {
		t.Error("a reusable token was spent")
	}
	b.now = now.Add(time.Minute)
	if _, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Reusable: true}); handoff.ReasonOf(err) != handoff.ReasonTokenExpired {
		t.Errorf("after exp: %v", err)
	}
}

// E06: what a store answers, other than yes, is a no with its reason.
func TestRedeemStoreAnswers(t *testing.T) {
	for _, test := range []struct {
		answer error
		reason handoff.Reason
	}{
		{handoff.ErrReplayed, handoff.ReasonTokenReplayed},
		{fmt.Errorf("store: %w", handoff.ErrReplayed), handoff.ReasonTokenReplayed},
		{handoff.ErrIssuedBeforeStart, handoff.ReasonIssuedBeforeStart},
		{handoff.ErrStoreFull, handoff.ReasonLimitExceeded},
		{errors.New("EOF"), handoff.ReasonStoreUnavailable},
		{context.DeadlineExceeded, handoff.ReasonStoreUnavailable},
	} {
		b := newBench(t, handoff.EdDSA)
		b.store.answers = test.answer
		verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
		if err != nil {
			t.Fatal(err)
		}
		grant, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
		if got := refusal(t, err); grant != nil || got.Reason != test.reason || !errors.Is(err, test.answer) {
			t.Errorf("%v: %v, want %s", test.answer, err, test.reason)
		}
	}
}

func TestRedeemRuleLifetime(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	verified, err := b.verifier.Verify(t.Context(), b.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{MaxLifetime: 59 * time.Second})
	if got := refusal(t, err); got.Reason != handoff.ReasonLifetimeTooLong || got.Check != "redeem.max_lifetime" {
		t.Error(err)
	}
	if _, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{MaxLifetime: time.Minute}); err != nil {
		t.Error(err)
	}
}

// A token between Verify and Redeem, or a grant on an open stream, does not
// outlive what it stands on.
func TestRecheck(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	source := &fickle{keys: keys{key.Public}}
	// A decorator of a source, as one that counts, hides nothing of it.
	decorated := struct{ handoff.KeySource }{source}
	clock := now
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: &recorder{}, Now: func() time.Time { return clock },
		Issuers: map[string]handoff.KeySource{shop: decorated},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now}).Compact()
	verified, err := verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	stale := errors.New("the list is too old")
	for _, test := range []struct {
		name   string
		change func()
		reason handoff.Reason
	}{
		{"nothing changed", func() {}, 0},
		{"revoked", func() { source.revoked = handoff.ErrRevoked }, handoff.ReasonTokenRevoked},
		{"the list is too old", func() { source.revoked = stale }, handoff.ReasonTrustStale},
		{"the key is no longer listed", func() { source.keys = nil }, handoff.ReasonIssuerMismatch},
		{"the source cannot tell", func() { source.err = stale }, handoff.ReasonTrustStale},
		{"nothing changed still", func() {}, 0},
		{"expired", func() { clock = now.Add(time.Minute) }, handoff.ReasonTokenExpired},
		// F01: the clock is set back.
		{"expired, a moment ago", func() { clock = now.Add(time.Minute - time.Millisecond) }, handoff.ReasonTokenExpired},
		{"expired, long ago", func() { clock = now }, handoff.ReasonTokenExpired},
	} {
		before, beforeClock := *source, clock
		test.change()
		if got := handoff.ReasonOf(verifier.Recheck(t.Context(), grant)); got != test.reason {
			t.Errorf("%s: Recheck says %s, want %s", test.name, got, test.reason)
		}
		_, err := verifier.Redeem(t.Context(), verified, operation, handoff.Rule{Reusable: true})
		if got := handoff.ReasonOf(err); got != test.reason {
			t.Errorf("%s: Redeem says %s, want %s", test.name, got, test.reason)
		}
		if test.reason != 0 {
			if _, err := verifier.Verify(t.Context(), raw); err == nil {
				t.Errorf("%s: Verify accepts", test.name)
			}
		}
		*source, clock = before, beforeClock
	}
}

// F01: a clock that is set back revives nothing that has expired, for any method that it
// is for; what is current stays so, and nothing is refused as from the future but what
// is, by the time that was seen last.
func TestF01TheClockIsSetBack(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	clock := now
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: &recorder{}, Now: func() time.Time { return clock },
		Issuers: map[string]handoff.KeySource{shop: keys{key.Public}},
	})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(issued time.Time, want handoff.Reason) {
		t.Helper()
		raw := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: issued}).Compact()
		if _, err := verifier.Verify(t.Context(), raw); handoff.ReasonOf(err) != want {
			t.Errorf("a token issued %s after the start: %v, want %s", issued.Sub(now), err, want)
		}
	}
	verify(now, 0)
	clock = now.Add(10 * time.Minute)
	verify(now, handoff.ReasonTokenExpired)
	for _, back := range []time.Duration{time.Millisecond, 10 * time.Minute, 24 * time.Hour, 50 * 365 * 24 * time.Hour} {
		clock = now.Add(10*time.Minute - back)
		verify(now, handoff.ReasonTokenExpired)
		verify(now.Add(9*time.Minute), handoff.ReasonTokenExpired)
		verify(now.Add(10*time.Minute-time.Second), 0)
		verify(now.Add(11*time.Minute), handoff.ReasonTokenNotYetValid)
		if err := verifier.Healthy(); (err != nil) != (back > 2*handoff.DefaultSkew) {
			t.Errorf("set back by %s: %v", back, err)
		}
	}
	clock = now.Add(12 * time.Minute)
	verify(now.Add(11*time.Minute+time.Second), 0)
	if err := verifier.Healthy(); err != nil {
		t.Errorf("once it has caught up: %v", err)
	}
}

// fickle is a source that changes its mind.
type fickle struct {
	keys
	err, revoked error
}

func (f *fickle) Key(ctx context.Context, kid string) (handoff.Key, error) {
	if f.err != nil {
		return handoff.Key{}, f.err
	}
	key, err := f.keys.Key(ctx, kid)
	return key.WithRevocations(f), err
}

func (f *fickle) Revoked(context.Context, *handoff.Claims) error { return f.revoked }

// A source that cannot tell refuses as such, not as an unknown key.
func TestSourceThatCannotTell(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	source := &fickle{err: errors.New("no list yet")}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Store: &recorder{}, Issuers: map[string]handoff.KeySource{shop: source},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := forge.Good(forge.Params{Key: key, Issuer: shop, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: time.Now()}).Compact()
	if _, err := verifier.Verify(t.Context(), raw); handoff.ReasonOf(err) != handoff.ReasonTrustStale {
		t.Error(err)
	}
}

// Only Verify and Redeem make what Redeem and Recheck take.
func TestForeignVerified(t *testing.T) {
	a, b := newBench(t, handoff.EdDSA), newBench(t, handoff.EdDSA)
	verified, err := a.verifier.Verify(t.Context(), a.good().Compact())
	if err != nil {
		t.Fatal(err)
	}
	for _, foreign := range []*handoff.Verified{nil, {}, verified} {
		if _, err := b.verifier.Redeem(t.Context(), foreign, operation, handoff.Rule{}); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
			t.Errorf("Redeem(%v) = %v", foreign, err)
		}
	}
	grant, err := a.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
	if err != nil {
		t.Fatal(err)
	}
	for _, foreign := range []*handoff.Grant{nil, {}, grant} {
		if err := b.verifier.Recheck(t.Context(), foreign); handoff.ReasonOf(err) != handoff.ReasonTokenInvalid {
			t.Errorf("Recheck(%v) = %v", foreign, err)
		}
	}
}

// D12: an empty or malformed setting is refused, never a check left out.
func TestD12NewVerifierRefuses(t *testing.T) {
	key := forge.NewKey(handoff.EdDSA)
	source := keys{key.Public}
	good := func() handoff.VerifierConfig {
		return handoff.VerifierConfig{Audience: billing, Issuers: map[string]handoff.KeySource{shop: source}, Store: &recorder{}}
	}
	if _, err := handoff.NewVerifier(good()); err != nil {
		t.Fatalf("the control is refused: %v", err)
	}
	for name, spoil := range map[string]func(*handoff.VerifierConfig){
		"VerifierConfig.Audience":      func(c *handoff.VerifierConfig) { c.Audience = "" },
		"VerifierConfig.Audience ":     func(c *handoff.VerifierConfig) { c.Audience = "two words" },
		"VerifierConfig.Audience  ":    func(c *handoff.VerifierConfig) { c.Audience = strings.Repeat("a", 256) },
		"VerifierConfig.Issuers":       func(c *handoff.VerifierConfig) { c.Issuers = nil },
		"VerifierConfig.Issuers ":      func(c *handoff.VerifierConfig) { c.Issuers = map[string]handoff.KeySource{"": source} },
		"VerifierConfig.Issuers  ":     func(c *handoff.VerifierConfig) { c.Issuers = map[string]handoff.KeySource{shop: nil} },
		"VerifierConfig.Store":         func(c *handoff.VerifierConfig) { c.Store = nil },
		"VerifierConfig.MaxLifetime":   func(c *handoff.VerifierConfig) { c.MaxLifetime = 301 * time.Second },
		"VerifierConfig.MaxLifetime ":  func(c *handoff.VerifierConfig) { c.MaxLifetime = -time.Second },
		"VerifierConfig.MaxLifetime  ": func(c *handoff.VerifierConfig) { c.MaxLifetime = 1500 * time.Millisecond },
		"VerifierConfig.Skew":          func(c *handoff.VerifierConfig) { c.Skew = -1 },
		"VerifierConfig.Skew ":         func(c *handoff.VerifierConfig) { c.Skew = 61 * time.Second },
		"VerifierConfig.Skew  ":        func(c *handoff.VerifierConfig) { c.Skew, c.Store = 6*time.Second, shortStore{} },
	} {
		config := good()
		spoil(&config)
		if _, err := handoff.NewVerifier(config); err == nil || refusedField(err) != "handoff."+strings.TrimSpace(name) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

type shortStore struct{ handoff.Store }

func (shortStore) Skew() time.Duration { return 5 * time.Second }

// No refusal costs memory in proportion to what was sent. What is prepared of the key
// once is not counted.
func TestRefusalAllocation(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	b.prepare(t)
	for _, attack := range forge.Attacks() {
		if attack.Algorithm != "" && attack.Algorithm != handoff.EdDSA {
			continue
		}
		raw := attack.Forge(b.good())
		var before, after runtime.MemStats
		const rounds = 20
		runtime.ReadMemStats(&before)
		for range rounds {
			if _, err := b.verifier.Verify(context.Background(), raw); err == nil {
				t.Fatalf("%s accepted", attack.Name)
			}
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / rounds; each > 16<<10 {
			t.Errorf("%s %s: %d bytes for a token of %d", attack.ID, attack.Name, each, len(raw))
		}
	}
}
