package handoff_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// client and stranger are clients' certificates: of one, only the DER counts.
var (
	client   = x509.Certificate{Raw: []byte("the client's certificate in DER")}
	stranger = x509.Certificate{Raw: []byte("another certificate in DER")}
)

// bound returns the token, bound to the client's certificate.
func bound(t forge.Token) forge.Token {
	sum := sha256.Sum256(client.Raw)
	return t.WithClaim("cnf", `{"x5t#S256":"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"}`)
}

// G17: a token that is bound to one certificate counts with no other, and not without
// one; what is bound to none counts with any, unless the rule demands it.
func TestG17Certificate(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	demands := handoff.Rule{CertificateBound: true}
	mismatch := handoff.ReasonCertificateMismatch
	for _, c := range []struct {
		name  string
		token forge.Token
		from  *x509.Certificate
		rule  handoff.Rule
		want  handoff.Reason // 0: accepted
		check handoff.Check
	}{
		{"bound, from its client", bound(b.good()), &client, handoff.Rule{}, 0, ""},
		{"bound, from its client, as demanded", bound(b.good()), &client, demands, 0, ""},
		{"bound, from a stranger", bound(b.good()), &stranger, handoff.Rule{}, mismatch, "verify.cnf"},
		{"bound, from nobody", bound(b.good()), nil, handoff.Rule{}, mismatch, "verify.cnf"},
		{"bound, from a certificate without DER", bound(b.good()), new(x509.Certificate), handoff.Rule{}, mismatch, "verify.cnf"},
		{"unbound, from the client", b.good(), &client, handoff.Rule{}, 0, ""},
		{"unbound, from the client, though demanded", b.good(), &client, demands, mismatch, "redeem.certificate_bound"},
		{"unbound, from nobody, though demanded", b.good(), nil, demands, mismatch, "redeem.certificate_bound"},
	} {
		verified, err := b.verifier.VerifyFrom(t.Context(), c.token.Compact(), c.from)
		if err == nil {
			_, err = b.verifier.Redeem(t.Context(), verified, operation, c.rule)
		}
		if c.want == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		got := refusal(t, err)
		if got.Reason != c.want || got.Check != c.check || got.Claims == nil {
			t.Errorf("%s: %v, want %s (%s) and the claims for the audit", c.name, err, c.want, c.check)
		}
		if spent := b.store.seen[handoff.Redemption{Issuer: shop, ID: got.Claims.ID}]; spent {
			t.Errorf("%s: the token is spent", c.name)
		}
	}
	if _, err := b.verifier.Verify(t.Context(), bound(b.good()).Compact()); handoff.ReasonOf(err) != mismatch {
		t.Errorf("Verify of a bound token: %v", err)
	}
	// Who is not its client learns nothing more than that of a token that has been
	// taken back, expired or is for somebody else.
	expired := bound(b.good()).WithClaim("exp", b.good().Payload.Get("iat"))
	if _, err := b.verifier.VerifyFrom(t.Context(), expired.Compact(), &stranger); handoff.ReasonOf(err) == mismatch {
		t.Errorf("an expired token: %v", err)
	}
}

// What the issuer binds, the verifier reads; and it issues nothing unbound for a
// method that demands it.
func TestG17Issue(t *testing.T) {
	b := newBench(t, handoff.EdDSA)
	issuer := b.issuer(t, func(*handoff.IssuerConfig) {})
	p := params()
	p.Operation.CertificateBound = true
	if raw, _, err := issuer.Issue(t.Context(), p); err == nil || !strings.Contains(err.Error(), "handoff.IssueParams.Certificate is required") {
		t.Errorf("issued %q, %v", raw, err)
	}
	p.Certificate = new(x509.Certificate)
	if raw, _, err := issuer.Issue(t.Context(), p); err == nil || !strings.Contains(err.Error(), "has no DER") {
		t.Errorf("issued %q, %v", raw, err)
	}
	p.Certificate = &client
	raw, claims, err := issuer.Issue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := b.verifier.VerifyFrom(t.Context(), raw, &client)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(client.Raw)
	if got := verified.Claims().CertificateSHA256; got != base64.RawURLEncoding.EncodeToString(sum[:]) || got != claims.CertificateSHA256 {
		t.Errorf("bound to %q, the issuer says %q", got, claims.CertificateSHA256)
	}
	judge{b.key, now}.agree(t, raw, verified)
}
