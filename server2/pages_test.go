package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

const shopOrigin = "https://shop.test"

// withPages asks for pages.
func withPages(s settings) {
	s["http"], s["issuer-origin"], s["issuer-return"] = "127.0.0.1:0", shopOrigin, shopOrigin+"/orders/"
}

// browser is an HTTP client that behaves as a browser does, with one cookie.
type browser struct {
	client *http.Client
	base   string
	cookie string
}

func (r *running) browser(t *testing.T, certificate string) *browser {
	t.Helper()
	line := r.announced(t, "https on ")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: poolOf(t, certificate)}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{base: "https://" + line, client: &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (b *browser) do(t *testing.T, method, path, origin, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	if method == http.MethodPost {
		r.Header.Set("Origin", origin)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
	}
	response, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range response.Cookies() {
		if c.MaxAge > 0 {
			b.cookie = c.Name + "=" + c.Value
		}
	}
	return response, string(text)
}

// arrive brings a token as SERVER1's page does, and returns where it leads.
func (b *browser) arrive(t *testing.T, raw string) string {
	t.Helper()
	response, text := b.do(t, http.MethodPost, "/handoff", shopOrigin, url.Values{"handoff": {raw}}.Encode())
	if response.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", response.StatusCode, text)
	}
	return response.Header.Get("Location")
}

var proof = regexp.MustCompile(`name="(handoff-confirm)" value="([A-Za-z0-9_-]{43})"`)

// confirm sends the form of the page, with what the person has filled in.
func (b *browser) confirm(t *testing.T, path, fields string) (*http.Response, string) {
	t.Helper()
	_, page := b.do(t, http.MethodGet, path, "", "")
	hidden := proof.FindStringSubmatch(page)
	if hidden == nil {
		t.Fatalf("the page's form has no proof:\n%s", page)
	}
	return b.do(t, http.MethodPost, path, b.base, hidden[1]+"="+hidden[2]+"&"+fields)
}

func (b *browser) see(t *testing.T, path string, texts ...string) {
	t.Helper()
	response, text := b.do(t, http.MethodGet, path, "", "")
	for _, want := range texts {
		if !strings.Contains(text, want) {
			t.Errorf("%s: %d, without %q:\n%s", path, response.StatusCode, want, text[strings.Index(text, "<main>"):])
		}
	}
}

// J02, H01: a person who is redirected here sees the invoice, confirms it, and pays it
// once; what became of it is told again and again. No log line has the token.
func TestJ02H01Pages(t *testing.T) {
	t.Parallel()
	var certificate string
	r := startWith(t, func(s settings) { withPages(s); certificate = s["tls-cert"] })
	b := r.browser(t, certificate)
	pay := &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: "6f9619ff-8b86-4011-b42d-00c04fc964ff",
	}
	var raw string
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) { // the memory of redemptions has to begin
		raw = token(t, r.issuer, server2v1.InvoiceService_PayInvoice_FullMethodName, pay, nil)
		path := b.arrive(t, raw)
		b.see(t, path, "Pay invoice INV-42: 12.00 EUR", "<button>Pay 12.00 EUR</button>", "shop.test asks you", `href="`+shopOrigin+`/orders/`)
		held := b.cookie
		response, text := b.confirm(t, path, "memo=books")
		if response.StatusCode != http.StatusSeeOther {
			t.Fatalf("%d %s", response.StatusCode, text)
		}
		_, told := b.do(t, http.MethodGet, path, "", "")
		if strings.Contains(told, "restarted since it was signed") && time.Now().Before(deadline) {
			b.cookie = ""
			continue
		}
		b.see(t, path, "Done. Invoice INV-42 is paid: 12.00 EUR.", shopOrigin+"/orders/"+strings.TrimPrefix(path, "/handoff/"))
		b.see(t, path, "Done.")
		b.cookie = held // the answer never came: the same confirmation again pays nothing more
		b.confirm(t, path, "memo=books")
		b.see(t, path, "Pay invoice INV-42: 12.00 EUR")
		break
	}
	other := token(t, r.issuer, server2v1.InvoiceService_PayInvoice_FullMethodName, &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-43", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: "7f9619ff-8b86-4011-b42d-00c04fc964ff",
	}, nil)
	b.cookie = ""
	path := b.arrive(t, other)
	b.confirm(t, path, "")
	b.see(t, path, "Nothing has happened.", "You have no such invoice here.")

	r.stop()
	if code := <-r.status; code != 0 {
		t.Errorf("status %d", code)
	}
	close(r.status)
	for _, secret := range []string{raw, other, raw[strings.LastIndexByte(raw, '.'):]} {
		if strings.Contains(r.log.String(), secret) {
			t.Error("a token is in the log")
		}
	}
	if !regexp.MustCompile(`"msg":"page".*"step":"confirm".*"sub":"u-alice"`).MatchString(r.log.String()) {
		t.Errorf("the log does not tell of the pages:\n%s", r.log)
	}
}

// J02: a page asks for what the rules in force leave to the person, and for nothing else:
// the guard would refuse it.
func TestJ02PagesUnderStricterRules(t *testing.T) {
	t.Parallel()
	const rules = `{"rules": {"` + server2v1.InvoiceService_PayInvoice_FullMethodName + `": {"free": []}}}`
	var certificate string
	r := startWith(t, func(s settings) {
		withPages(s)
		certificate = s["tls-cert"]
		s["rules"] = filepath.Join(t.TempDir(), "rules.json")
		if err := os.WriteFile(s["rules"], []byte(rules), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	b := r.browser(t, certificate)
	strict, err := rule.Linked().Overlay([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	method, err := strict.Method(server2v1.InvoiceService_PayInvoice_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	pay := &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: "6f9619ff-8b86-4011-b42d-00c04fc964ff",
	}
	bound, err := method.Operation(pay)
	if err != nil {
		t.Fatal(err)
	}
	path := b.arrive(t, token(t, r.issuer, method.Name(), pay, func(p *handoff.IssueParams) { p.Operation = bound }))
	b.see(t, path, "<button>Pay 12.00 EUR</button>")
	if _, page := b.do(t, http.MethodGet, path, "", ""); strings.Contains(page, `name="memo"`) {
		t.Errorf("the page asks for a memo:\n%s", page)
	}
}

// J01: another page of the web brings nothing.
func TestJ01Pages(t *testing.T) {
	t.Parallel()
	var certificate string
	r := startWith(t, func(s settings) { withPages(s); certificate = s["tls-cert"] })
	b := r.browser(t, certificate)
	raw := token(t, r.issuer, server2v1.InvoiceService_GetInvoice_FullMethodName, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, func(p *handoff.IssueParams) {})
	response, text := b.do(t, http.MethodPost, "/handoff", "https://evil.test", url.Values{"handoff": {raw}}.Encode())
	if response.StatusCode != http.StatusForbidden || b.cookie != "" || !strings.Contains(text, "Nothing has happened.") {
		t.Errorf("%d %q %s", response.StatusCode, b.cookie, text)
	}
}

// I04: who holds a handoff can ask for its page without end, and fills no disk.
func TestI04Pages(t *testing.T) {
	t.Parallel()
	var certificate string
	r := startWith(t, func(s settings) { withPages(s); certificate = s["tls-cert"] })
	b := r.browser(t, certificate)
	path := b.arrive(t, token(t, r.issuer, server2v1.InvoiceService_GetInvoice_FullMethodName, &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}, nil))
	for range 50 {
		b.see(t, path, "Show invoice INV-42")
	}
	if lines := strings.Count(r.log.String(), `"msg":"page"`); lines < 1 || lines > 25 {
		t.Errorf("%d lines for 51 requests", lines)
	}
}
