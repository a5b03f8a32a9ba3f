package handoff_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

func (b *bench) issuer(t testing.TB, spoil func(*handoff.IssuerConfig)) *handoff.Issuer {
	t.Helper()
	config := handoff.IssuerConfig{Issuer: shop, Key: signer{b.key}, Now: b.clock}
	spoil(&config)
	issuer, err := handoff.NewIssuer(config)
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func asIs(*handoff.IssuerConfig) {}

func params() handoff.IssueParams {
	return handoff.IssueParams{Audience: billing, Subject: "u-1", Operation: operation}
}

// What the issuer makes, the verifier, go-jose and the judge take, and read alike.
func TestIssue(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		issuer := b.issuer(t, asIs)
		for name, change := range map[string]func(*handoff.IssueParams){
			"as it is":       func(*handoff.IssueParams) {},
			"with a session": func(p *handoff.IssueParams) { p.Session = handoff.NewID() },
			"one second":     func(p *handoff.IssueParams) { p.Lifetime = time.Second },
			"300 seconds":    func(p *handoff.IssueParams) { p.Lifetime = 300 * time.Second },
			"no field":       func(p *handoff.IssueParams) { p.Operation.Bound = nil },
			"a digest":       func(p *handoff.IssueParams) { p.Operation = inline(t, 1025) },
			"1024 bytes":     func(p *handoff.IssueParams) { p.Operation = inline(t, 1024) },
			"escaped fields": func(p *handoff.IssueParams) { p.Operation = awkward() },
			"awkward as an id": func(p *handoff.IssueParams) {
				p.Subject = "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"
			},
		} {
			p := params()
			change(&p)
			raw, claims, err := issuer.Issue(t.Context(), p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			verified, err := b.verifier.Verify(t.Context(), raw)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			judge{b.key, now}.agree(t, raw, verified)
			if err := verified.Allows(p.Operation, handoff.Rule{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if claims.Issuer != shop || claims.Audience != billing || claims.Subject != p.Subject || claims.Session != p.Session ||
				!claims.IssuedAt.Equal(now) || claims.Method != pay || verified.Claims().ID != claims.ID {
				t.Errorf("%s: the claims that were returned are %+v", name, claims)
			}
		}
	}
}

// inline is an operation whose canonical form has this many bytes.
func inline(t testing.TB, size int) handoff.Operation {
	t.Helper()
	op := handoff.Operation{Method: pay, Bound: []handoff.Field{{Path: "note", Value: ""}}}
	canonical, err := op.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	op.Bound[0].Value = strings.Repeat("x", size-len(canonical))
	return op
}

// awkward has paths in another order by bytes than by UTF-16 code units, and what
// JSON escapes.
func awkward() handoff.Operation {
	op := handoff.Operation{Method: pay}
	for _, path := range []string{`labels["\ue000"]`, `labels["` + "\U0001f600" + `"]`, `labels["` + "\uffff" + `"]`, "b", "a", `labels["\\"]`} {
		op.Bound = append(op.Bound, handoff.Field{Path: path, Value: path + "\b\t\n\f\r\x00\x1f\x7f\u2028<>&\"\\/"})
	}
	return op
}

// The header is exactly alg, kid and typ, and so is its text.
func TestIssueHeader(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		raw, _, err := b.issuer(t, asIs).Issue(t.Context(), params())
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := strings.Cut(raw, ".")
		want := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"handoff+jwt"}`, algorithm, b.key.Public.ID())
		if got := string(decode(t, header)); got != want {
			t.Errorf("the header is %s, want %s", got, want)
		}
	}
}

// fieldsOf returns the text of authorization_details[0].fields, empty if there is
// none, and the digest.
func fieldsOf(t testing.TB, raw string) (fields, digest string) {
	t.Helper()
	payload, err := object(string(decode(t, strings.Split(raw, ".")[1])))
	if err != nil {
		t.Fatal(err)
	}
	detail := payload["authorization_details"].([]any)[0].(map[string]any)
	digest, _ = detail["fields_sha256"].(string)
	if _, ok := detail["fields"]; ok {
		text := string(decode(t, strings.Split(raw, ".")[1]))
		fields = strings.TrimSuffix(text[strings.Index(text, `"fields":`)+len(`"fields":`):], "}]}")
	}
	return fields, digest
}

// Fields stand in the token in canonical form, in whichever order they came.
func TestIssueFieldsAreCanonical(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	p := params()
	p.Operation = awkward()
	before := slices.Clone(p.Operation.Bound)
	raw, _, err := b.issuer(t, asIs).Issue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fields, digest := fieldsOf(t, raw)
	canonical := jsontext.Value(fields)
	if err := canonical.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	if fields != string(canonical) || digest != "" {
		t.Errorf("the token carries %s\ncanonical is  %s", fields, canonical)
	}
	if !slices.Equal(before, p.Operation.Bound) {
		t.Error("the caller's operation was changed")
	}
}

// 64 fields stand in the token; of one more, the digest. A token that carries more
// itself is refused.
func TestIssueManyFields(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	for _, n := range []int{64, 65} {
		p := params()
		p.Operation = handoff.Operation{Method: pay}
		for i := range n {
			p.Operation.Bound = append(p.Operation.Bound, handoff.Field{Path: fmt.Sprintf("a[%d]", i), Value: "1"})
		}
		raw, claims, err := b.issuer(t, asIs).Issue(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if many := n > 64; (claims.FieldsSHA256 != "") != many || (claims.Fields == nil) != many {
			t.Errorf("%d fields: digest %q", n, claims.FieldsSHA256)
		}
		verified, err := b.verifier.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := verified.Allows(p.Operation, handoff.Rule{}); err != nil {
			t.Errorf("%d fields: %v", n, err)
		}
		_, err = b.verifier.Verify(t.Context(), b.good().WithDetails(forge.Details(p.Operation)).Compact())
		if n <= 64 && err != nil {
			t.Errorf("%d fields in the token: %v", n, err)
		}
		if n > 64 {
			if got := refusal(t, err); got.Check != "claim.authorization_details" {
				t.Errorf("%d fields in the token: %v", n, got)
			}
		}
	}
}

// A canonical form of 1024 bytes stands in the token; of a longer one, the digest.
// A token that carries a longer one itself is refused.
func TestIssueDigest(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	for _, size := range []int{1023, 1024, 1025, 5000} {
		p := params()
		p.Operation = inline(t, size)
		raw, claims, err := b.issuer(t, asIs).Issue(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		fields, digest := fieldsOf(t, raw)
		if long := size > 1024; (digest != "") != long || (fields == "") != long || digest != claims.FieldsSHA256 || (claims.Fields == nil) != long {
			t.Errorf("%d bytes: fields %q, digest %q", size, fields, digest)
		}
		if size > 2000 {
			continue
		}
		_, err = b.verifier.Verify(t.Context(), b.good().WithDetails(forge.Details(p.Operation)).Compact())
		if size <= 1024 && err != nil {
			t.Errorf("%d bytes in the token: %v", size, err)
		}
		if size > 1024 {
			if got := refusal(t, err); got.Check != "claim.authorization_details" {
				t.Errorf("%d bytes in the token: %v", size, got)
			}
		}
	}
}

// Escapes count as the canonical form writes them, not as the token does.
func TestInlineLimitIsOfTheCanonicalForm(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	for _, unit := range []string{"x", "\u00e9", "\U0001f600", `"`, `\`, "/", "\b", "\t", "\n", "\v", "\f", "\r", "\x00", "\x1f", "\x7f", "\u2028", "<"} {
		for _, over := range []int{0, 1} {
			op := handoff.Operation{Method: pay, Bound: []handoff.Field{{Path: "note", Value: strings.Repeat(unit, 40)}, {Path: "pad" + unit, Value: ""}}}
			canonical, err := op.Canonical()
			if err != nil {
				t.Fatal(err)
			}
			op.Bound[1].Value = strings.Repeat("x", 1024+over-len(canonical))
			_, err = b.verifier.Verify(t.Context(), b.good().WithDetails(forge.Details(op)).Compact())
			if (err != nil) != (over == 1) {
				t.Errorf("%q, %d bytes: %v", unit, 1024+over, err)
			}
		}
	}
}

// The longest token that can be issued is one that the verifier looks at.
func TestIssueLongest(t *testing.T) {
	for _, algorithm := range []handoff.Algorithm{handoff.RS256, handoff.EdDSA} {
		b := newBench(t, algorithm)
		issuer := strings.Repeat("i", 255)
		p := handoff.IssueParams{Audience: strings.Repeat("a", 255), Subject: strings.Repeat("s", 255), Session: handoff.NewID(), Operation: inline(t, 1024)}
		p.Operation.Method = "/p." + strings.Repeat("S", 125) + "/" + strings.Repeat("M", 126)
		raw, _, err := b.issuer(t, func(c *handoff.IssuerConfig) { c.Issuer = issuer }).Issue(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if most := 4096 - 342; len(raw) > most { // with RSA of 4096 bits the signature is as much longer
			t.Errorf("%d bytes with %s, want at most %d", len(raw), algorithm, most)
		}
		verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
			Audience: p.Audience, Issuers: map[string]handoff.KeySource{issuer: keys{b.key.Public}}, Store: &recorder{}, Now: b.clock,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(t.Context(), raw); err != nil {
			t.Error(err)
		}
	}
	// What does not fit is not issued.
	b := newBench(t, handoff.EdDSA)
	b.key.Private = nil
	long := longSigner{signer{b.key}, 4000}
	if raw, claims, err := b.issuer(t, func(c *handoff.IssuerConfig) { c.Key = long }).Issue(t.Context(), params()); err == nil || raw != "" || claims != nil {
		t.Errorf("a token of %d bytes was issued", len(raw))
	}
}

// longSigner makes long signatures.
type longSigner struct {
	signer
	size int
}

func (s longSigner) Signer(context.Context) (handoff.Signer, error) { return s, nil }
func (s longSigner) Sign(context.Context, []byte) ([]byte, error)   { return make([]byte, s.size), nil }

func TestNewIssuerRefuses(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	for name, spoil := range map[string]func(*handoff.IssuerConfig){
		"IssuerConfig.Issuer":         func(c *handoff.IssuerConfig) { c.Issuer = "" },
		"IssuerConfig.Issuer ":        func(c *handoff.IssuerConfig) { c.Issuer = "two words" },
		"IssuerConfig.Issuer  ":       func(c *handoff.IssuerConfig) { c.Issuer = strings.Repeat("i", 256) },
		"IssuerConfig.Issuer   ":      func(c *handoff.IssuerConfig) { c.Issuer = `"` },
		"IssuerConfig.Key":            func(c *handoff.IssuerConfig) { c.Key = nil },
		"IssuerConfig.Lifetime":       func(c *handoff.IssuerConfig) { c.Lifetime = 301 * time.Second },
		"IssuerConfig.Lifetime ":      func(c *handoff.IssuerConfig) { c.Lifetime = -time.Second },
		"IssuerConfig.Lifetime  ":     func(c *handoff.IssuerConfig) { c.Lifetime = 1500 * time.Millisecond },
		"IssuerConfig.Lifetime   ":    func(c *handoff.IssuerConfig) { c.Lifetime = time.Millisecond },
		"IssuerConfig.Lifetime    ":   func(c *handoff.IssuerConfig) { c.Lifetime, c.MaxLifetime = 31*time.Second, 30*time.Second },
		"IssuerConfig.MaxLifetime":    func(c *handoff.IssuerConfig) { c.MaxLifetime = 301 * time.Second },
		"IssuerConfig.MaxLifetime ":   func(c *handoff.IssuerConfig) { c.MaxLifetime = -time.Second },
		"IssuerConfig.MaxLifetime  ":  func(c *handoff.IssuerConfig) { c.MaxLifetime = 999 * time.Millisecond },
		"IssuerConfig.MaxLifetime   ": func(c *handoff.IssuerConfig) { c.MaxLifetime = 1001 * time.Millisecond },
	} {
		config := handoff.IssuerConfig{Issuer: shop, Key: signer{b.key}}
		spoil(&config)
		if issuer, err := handoff.NewIssuer(config); err == nil || issuer != nil || refusedField(err) != "handoff."+strings.TrimSpace(name) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

// refusedField is the field that a *ConfigError names, or empty.
func refusedField(err error) string {
	var config *handoff.ConfigError
	if !errors.As(err, &config) || config.Problem == "" || !strings.HasPrefix(err.Error(), config.Field+" "+config.Problem) {
		return ""
	}
	return config.Field
}

func TestIssueRefuses(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	issuer := b.issuer(t, func(c *handoff.IssuerConfig) { c.MaxLifetime = 120 * time.Second })
	operation := func(spoil func(*handoff.Operation)) func(*handoff.IssueParams) {
		return func(p *handoff.IssueParams) {
			p.Operation.Bound = slices.Clone(p.Operation.Bound)
			spoil(&p.Operation)
		}
	}
	for name, spoil := range map[string]func(*handoff.IssueParams){
		"IssueParams.Audience":        func(p *handoff.IssueParams) { p.Audience = "" },
		"IssueParams.Audience ":       func(p *handoff.IssueParams) { p.Audience = "two\nlines" },
		"IssueParams.Audience  ":      func(p *handoff.IssueParams) { p.Audience = strings.Repeat("a", 256) },
		"IssueParams.Subject":         func(p *handoff.IssueParams) { p.Subject = "" },
		"IssueParams.Subject ":        func(p *handoff.IssueParams) { p.Subject = "zo\u00eb" },
		"IssueParams.Subject  ":       func(p *handoff.IssueParams) { p.Subject = `a\b` },
		"IssueParams.Session":         func(p *handoff.IssueParams) { p.Session = "session-1" },
		"IssueParams.Session ":        func(p *handoff.IssueParams) { p.Session = strings.Repeat("A", 21) + "B" },
		"IssueParams.Session  ":       func(p *handoff.IssueParams) { p.Session = strings.Repeat("A", 43) },
		"IssueParams.Lifetime":        func(p *handoff.IssueParams) { p.Lifetime = 121 * time.Second },
		"IssueParams.Lifetime ":       func(p *handoff.IssueParams) { p.Lifetime = -time.Second },
		"IssueParams.Lifetime  ":      func(p *handoff.IssueParams) { p.Lifetime = 1500 * time.Millisecond },
		"IssueParams.Lifetime   ":     func(p *handoff.IssueParams) { p.Lifetime, p.Operation.MaxLifetime = 31*time.Second, 30*time.Second },
		"IssueParams.Operation":       operation(func(op *handoff.Operation) { op.Method = "" }),
		"IssueParams.Operation ":      operation(func(op *handoff.Operation) { op.Method = "billing.v1.Billing/Pay" }),
		"IssueParams.Operation  ":     operation(func(op *handoff.Operation) { op.Bound[0].Path = "" }),
		"IssueParams.Operation   ":    operation(func(op *handoff.Operation) { op.Bound[0].Value = "\xff" }),
		"IssueParams.Operation    ":   operation(func(op *handoff.Operation) { op.Bound[1].Path = op.Bound[0].Path }),
		"IssueParams.Operation     ":  operation(func(op *handoff.Operation) { *op = handoff.Operation{} }),
		"IssueParams.Operation      ": operation(func(op *handoff.Operation) { op.MaxLifetime = -time.Second }),
	} {
		p := params()
		spoil(&p)
		if raw, claims, err := issuer.Issue(t.Context(), p); err == nil || raw != "" || claims != nil || refusedField(err) != "handoff."+strings.TrimSpace(name) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

func TestIssueLifetime(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	b.now = now.Add(999 * time.Millisecond) // iat is a whole second, and never ahead
	for _, test := range []struct {
		name                               string
		standard, most, ofOperation, asked time.Duration
		want                               time.Duration
	}{
		{"nothing said", 0, 0, 0, 0, 60 * time.Second},
		{"the issuer's", 20 * time.Second, 0, 0, 0, 20 * time.Second},
		{"the issuer's most is less than the default", 0, 30 * time.Second, 0, 0, 30 * time.Second},
		{"the operation's is less than the default", 0, 0, 10 * time.Second, 0, 10 * time.Second},
		{"the operation's is more than the default", 0, 0, 200 * time.Second, 0, 60 * time.Second},
		{"the operation's is more than all", 0, 0, time.Hour, 300 * time.Second, 300 * time.Second},
		{"asked for", 0, 0, 0, 90 * time.Second, 90 * time.Second},
		{"asked for the operation's", 0, 0, 10 * time.Second, 10 * time.Second, 10 * time.Second},
	} {
		issuer := b.issuer(t, func(c *handoff.IssuerConfig) { c.Lifetime, c.MaxLifetime = test.standard, test.most })
		p := params()
		p.Lifetime, p.Operation.MaxLifetime = test.asked, test.ofOperation
		raw, claims, err := issuer.Issue(t.Context(), p)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := claims.Expires.Sub(claims.IssuedAt); got != test.want || !claims.IssuedAt.Equal(now) {
			t.Errorf("%s: %s from %s, want %s from %s", test.name, got, claims.IssuedAt, test.want, now)
		}
		if verified, err := b.verifier.Verify(t.Context(), raw); err != nil || verified.Claims().Expires != claims.Expires {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// failing is a source, or a signer, that fails.
type failing struct {
	signer
	source, sign error
}

func (f failing) Signer(context.Context) (handoff.Signer, error) { return f, f.source }
func (f failing) Sign(context.Context, []byte) ([]byte, error) {
	return []byte("half a signature"), f.sign
}

func TestIssueWithAFailingSigner(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	broken := errors.New("the HSM does not answer")
	for _, key := range []failing{{signer{b.key}, broken, nil}, {signer{b.key}, nil, broken}} {
		raw, claims, err := b.issuer(t, func(c *handoff.IssuerConfig) { c.Key = key }).Issue(t.Context(), params())
		if !errors.Is(err, broken) || raw != "" || claims != nil {
			t.Errorf("Issue = %q, %v, %v", raw, claims, err)
		}
	}
}

// E11: ids are 128 random bits. Twenty thousand of them are distinct, and each
// bit is set in about half.
func TestE11IDs(t *testing.T) {
	const n = 20_000
	seen := make(map[string]bool, n)
	var set [128]int
	for range n {
		id := handoff.NewID()
		b, err := base64.RawURLEncoding.Strict().DecodeString(id)
		if err != nil || len(b) != 16 || len(id) != 22 {
			t.Fatalf("%q is not 128 bits in base64url", id)
		}
		bits := new(big.Int).SetBytes(b)
		for i := range set {
			set[i] += int(bits.Bit(i))
		}
		seen[id] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d ids are distinct", len(seen), n)
	}
	for i, ones := range set {
		if ones < n/2-900 || ones > n/2+900 { // more than 12 standard deviations
			t.Errorf("bit %d is set in %d of %d", i, ones, n)
		}
	}
}

// E11: no caller chooses the id, and no two tokens have one.
func TestE11EachTokenHasItsOwnID(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	issuer := b.issuer(t, asIs)
	seen := map[string]bool{}
	for range 1000 {
		_, claims, err := issuer.Issue(t.Context(), params())
		if err != nil {
			t.Fatal(err)
		}
		seen[claims.ID] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d ids in 1000 tokens", len(seen))
	}
}

// F05: a token names the user by the immutable id that it was issued for, byte for
// byte. A user who later gets the same name has another id, and the token is not
// theirs: no display name, address or case-folded form of one is in it or is
// compared.
func TestF05SubjectIsAnIDNotAName(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	issuer := b.issuer(t, asIs)
	subjects := []string{"u-1", "U-1", "u-10", "u-1.", "2f1c9b1e-8f55-4b0c-9d0e-0d6b9a6a3c01"}
	for _, subject := range subjects {
		p := params()
		p.Subject = subject
		raw, _, err := issuer.Issue(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		verified, err := b.verifier.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		grant, err := b.verifier.Redeem(t.Context(), verified, operation, handoff.Rule{})
		if err != nil {
			t.Fatal(err)
		}
		if grant.Subject() != subject || grant.Issuer() != shop {
			t.Errorf("the grant is for (%s, %s), want (%s, %s)", grant.Issuer(), grant.Subject(), shop, subject)
		}
	}
	// A name that people write in more than one way cannot be a subject at all.
	for _, name := range []string{"Zo\u00eb", "Zoe\u0308", "Alice Smith", "alice\u00a0", "\uff41lice", ""} {
		p := params()
		p.Subject = name
		if _, _, err := issuer.Issue(t.Context(), p); err == nil {
			t.Errorf("a token was issued for %q", name)
		}
	}
}
