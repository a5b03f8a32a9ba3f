package handoffweb_test

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// shopToken returns a genuine token for an operation with one bound field.
func shopToken(field handoff.Field) forge.Token {
	return forge.Good(forge.Params{
		Key: forge.NewKey(handoff.EdDSA), Issuer: "https://shop.example", Audience: "https://billing.example", Subject: "u-1",
		Operation: handoff.Operation{Method: "/billing.v1.Billing/Pay", Bound: []handoff.Field{field}},
		IssuedAt:  time.Now(),
	})
}

// H01: the token is in the form, and in no header and no URL.
func TestH01Send(t *testing.T) {
	raw := shopToken(handoff.Field{Path: "invoice", Value: "INV-42"}).Compact()
	w := httptest.NewRecorder()
	w.Header().Set("Content-Security-Policy", "default-src *")
	if err := handoffweb.Send(w, handoffweb.Passage{Token: raw, To: "https://billing.example"}); err != nil {
		t.Fatal(err)
	}
	body := w.Body.String()
	nonce := regexp.MustCompile(`<script nonce="([A-Z2-7]{26})">`).FindStringSubmatch(body)
	if w.Code != 200 || nonce == nil {
		t.Fatalf("%d %s", w.Code, body)
	}
	for name, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"Cache-Control":          "no-store",
		"Referrer-Policy":        "strict-origin",
		"X-Content-Type-Options": "nosniff",
		"Content-Security-Policy": "default-src 'none'; script-src 'nonce-" + nonce[1] + "'; style-src '" + styleIn(t, body) +
			"'; form-action https://billing.example; frame-ancestors 'none'; base-uri 'none'",
	} {
		if got := w.Header().Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, want := range []string{
		`<form method="post" action="https://billing.example/handoff">`,
		`<input type="hidden" name="handoff" value="` + raw + `">`,
		`<button>Continue</button>`,
		`>document.forms[0].submit()</script>`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Count(body, raw) != 1 {
		t.Error("the token is in the page more than once")
	}
	again := httptest.NewRecorder()
	if err := handoffweb.Send(again, handoffweb.Passage{Token: raw, To: "https://billing.example"}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(again.Body.String(), nonce[1]) {
		t.Error("two pages have the same nonce")
	}
}

// H02: a page goes to an origin, and to nothing else.
func TestH02SendTo(t *testing.T) {
	raw := shopToken(handoff.Field{Path: "invoice", Value: "INV-42"}).Compact()
	for to, ok := range map[string]bool{
		"https://billing.example":         true,
		"https://billing.example:8443":    true,
		"https://xn--bcher-kva.example":   true,
		"https://127.0.0.1:8443":          true,
		"http://localhost":                true,
		"http://localhost:8080":           true,
		"":                                false,
		"billing.example":                 false,
		"//billing.example":               false,
		"https://":                        false,
		"https:billing.example":           false,
		"https:///billing.example":        false,
		"https://billing.example/":        false,
		"https://billing.example/handoff": false,
		"https://billing.example?x":       false,
		"https://billing.example#x":       false,
		"https://u@billing.example":       false,
		"https://u:p@billing.example":     false,
		"https://Billing.example":         false,
		"HTTPS://billing.example":         false,
		"https://billing.example:443":     false,
		"https://billing.example:":        false,
		"https://billing.example:08443":   false,
		"https://billing.example:70000":   false,
		"https://billing.example:0":       false,
		"https://billing.example:x":       false,
		"http://localhost:80":             false,
		"http://billing.example":          false,
		"http://localhost.example":        false,
		"http://127.0.0.1:8080":           false,
		"javascript:alert(1)":             false,
		"data:text/html,x":                false,
		"https://bücher.example":          false,
		"https://[::1]:8443":              false,
		"https://*.example":               false,
		"https://a.example; script-src *": false,
		"https://a.example;script-src":    false,
		"https://a.example'":              false,
		"https://a.example\\@b.example":   false,
		" https://billing.example":        false,
		"https://billing.example\r\nX: y": false,
		"https://bil%6cing.example":       false,
	} {
		w := httptest.NewRecorder()
		err := handoffweb.Send(w, handoffweb.Passage{Token: raw, To: to})
		if ok != (err == nil) {
			t.Errorf("%q: got %v", to, err)
		}
		if err != nil && (w.Body.Len() > 0 || len(w.Header()) > 0 || !strings.Contains(err.Error(), "Passage.To")) {
			t.Errorf("%q: %v after %v %s", to, err, w.Header(), w.Body)
		}
	}
}

// J04: what could not arrive is not sent.
func TestJ04Send(t *testing.T) {
	good := shopToken(handoff.Field{Path: "note", Value: "x"})
	most := 4078 - len("__Host-handoff-") - 22
	digest := shopToken(handoff.Field{}).WithDetails(forge.Object{
		{Name: "type", Value: `"grpc_call"`},
		{Name: "actions", Value: `["/billing.v1.Billing/Pay"]`},
		{Name: "fields_sha256", Value: forge.Quote(strings.Repeat("A", 43))},
	}).Compact()
	for _, c := range []struct {
		name, raw string
		want      handoff.Reason
	}{
		{"good", shopToken(handoff.Field{Path: "note", Value: strings.Repeat("x", 900)}).Compact(), 0},
		{"a digest only", digest, handoff.ReasonRequestUnbindable},
		{"no token", "", handoff.ReasonTokenInvalid},
		{"not a token", "a.b.c", handoff.ReasonTokenInvalid},
		{"as long as a cookie holds", padded(t, good, most), 0},
		{"a byte longer", padded(t, good, most+1), handoff.ReasonLimitExceeded},
		{"of more than 4096 bytes", padded(t, good, 4097), handoff.ReasonTokenInvalid},
		{"sealed, as long as a cookie holds", "A..B.C." + strings.Repeat("D", most-7), 0},
		{"sealed, a byte longer", "A..B.C." + strings.Repeat("D", most-6), handoff.ReasonLimitExceeded},
		{
			"G17 bound to a certificate",
			shopToken(handoff.Field{Path: "a"}).WithClaim("cnf", `{"x5t#S256":"`+strings.Repeat("A", 43)+`"}`).Compact(),
			handoff.ReasonCertificateMismatch,
		},
		{"with markup", `"><script>alert(1)</script>`, handoff.ReasonTokenInvalid},
		{"of another kind", shopToken(handoff.Field{Path: "a"}).WithHeader("typ", `"handoff-trust+jwt"`).Compact(), handoff.ReasonTokenInvalid},
		{"with a claim too many", shopToken(handoff.Field{Path: "a"}).WithClaim("x", "1").Compact(), handoff.ReasonClaimsInvalid},
	} {
		w := httptest.NewRecorder()
		err := handoffweb.Send(w, handoffweb.Passage{Token: c.raw, To: "https://billing.example"})
		if (err == nil) != (c.want == 0) || handoff.ReasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if err != nil && w.Body.Len() > 0 {
			t.Errorf("%s: the page was begun", c.name)
		}
		if err != nil && c.raw != "" && strings.Contains(err.Error(), c.raw) {
			t.Errorf("%s: the token is in the error", c.name)
		}
	}
}
