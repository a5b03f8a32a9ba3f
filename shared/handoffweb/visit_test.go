package handoffweb_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const renew = "https://shop.example/visit"

var visited = []string{server2v1.InvoiceService_GetInvoice_FullMethodName, server2v1.InvoiceService_ExportPayments_FullMethodName}

// withApp has an application that the shop's users visit.
func withApp(c *handoffweb.LandingConfig) {
	c.App = "/app/"
	c.From = map[string]handoffweb.Origin{
		shop:                    {Origin: shop, Return: back, Visit: renew},
		"https://third.example": {Origin: "https://third.example", Return: "https://third.example/x?id="},
	}
}

func (k *kit) visit() forge.Token {
	return forge.GoodVisit(forge.Params{
		Key: k.key, Issuer: shop, Audience: billing, Subject: alice, Session: handoff.NewID(), IssuedAt: k.clock.now(), Lifetime: 15 * time.Minute,
	}, visited...)
}

// visitState is what GET /visit says.
type visitState struct {
	Reason, Issuer, Subject, Renew, Return string
	Expires                                time.Time
	Methods                                []string
}

// app is the headers of the application's own fetch.
func app(more ...string) []string {
	return append([]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, more...)
}

func (k *kit) status(t *testing.T, headers ...string) (answer, visitState) {
	t.Helper()
	a := k.ask(t, "GET", "/visit", "", headers...)
	var s visitState
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %q: %v", a.StatusCode, a.body, err)
	}
	return a, s
}

func TestVisit(t *testing.T) {
	k := newKit(t, withApp)
	visit := k.visit()
	raw := visit.Compact()
	a, c := k.arrive(t, raw)
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/app/" || c == nil {
		t.Fatalf("%d %q", a.StatusCode, a.body)
	}
	if c.Name != handoffweb.VisitCookie || handoffweb.VisitCookie != "__Host-visit" || c.Value != raw || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode ||
		c.Path != "/" || c.Domain != "" || c.MaxAge < 890 || c.MaxAge > 901 || len(a.Cookies()) != 1 {
		t.Errorf("the cookie is %+v", c)
	}
	if e := k.events.last(); e.Step != "arrive" || e.ID != idOf(visit) || e.Subject != alice || e.Refusal != nil {
		t.Errorf("%+v", e)
	}
	a, s := k.status(t, app(cookie(c)...)...)
	if a.StatusCode != http.StatusOK || s.Issuer != shop || s.Subject != alice || s.Renew != renew || s.Return != back || s.Reason != "" ||
		strings.Join(s.Methods, " ") != strings.Join(visited, " ") || s.Expires.Unix() != k.clock.now().Add(15*time.Minute).Unix() {
		t.Errorf("%d %+v", a.StatusCode, s)
	}
	// No answer shows the token, and no other origin can read one.
	if strings.Contains(a.body, raw) || strings.Contains(a.body, strings.Split(raw, ".")[2]) || a.Header.Get("Access-Control-Allow-Origin") != "" ||
		a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" ||
		a.Header.Get("Content-Type") != "application/json" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v %s", a.Header, a.body)
	}
	if e := k.events.last(); e.Step != "visit" || e.ID != idOf(visit) || e.Status != http.StatusOK {
		t.Errorf("%+v", e)
	}

	// The end, by the application's page.
	own := []string{"Origin", k.web.URL, "Sec-Fetch-Site", "same-origin"}
	a = k.ask(t, "POST", "/visit/end", "", append(own, cookie(c)...)...)
	gone := a.Cookies()
	if a.StatusCode != http.StatusNoContent || len(gone) != 1 || gone[0].Name != handoffweb.VisitCookie || gone[0].MaxAge >= 0 || gone[0].Value != "" || !gone[0].Secure {
		t.Errorf("%d %+v", a.StatusCode, gone)
	}
	if a, s := k.status(t, app()...); a.StatusCode != http.StatusUnauthorized || s.Reason != "TOKEN_MISSING" || s.Renew != renew || s.Subject != "" {
		t.Errorf("%d %+v", a.StatusCode, s)
	}
}

// However a visit ends, the application is told, and where to get another.
func TestVisitEnds(t *testing.T) {
	for name, test := range map[string]struct {
		change func(k *kit)
		code   int
		reason string
		gone   bool
	}{
		"expired":    {func(k *kit) { k.clock.pass(15 * time.Minute) }, http.StatusUnauthorized, "TOKEN_EXPIRED", true},
		"taken back": {func(k *kit) { k.set(handoff.ErrRevoked, nil) }, http.StatusUnauthorized, "TOKEN_REVOKED", true},
		"stale":      {func(k *kit) { k.set(http.ErrServerClosed, nil) }, http.StatusServiceUnavailable, "TRUST_STALE", false},
	} {
		k := newKit(t, withApp)
		_, c := k.arrive(t, k.visit().Compact())
		test.change(k)
		a, s := k.status(t, app(cookie(c)...)...)
		if a.StatusCode != test.code || s.Reason != test.reason || s.Renew != renew || s.Subject != "" || s.Return != "" {
			t.Errorf("%s: %d %+v", name, a.StatusCode, s)
		}
		if gone := len(a.Cookies()) == 1 && a.Cookies()[0].MaxAge < 0; gone != test.gone {
			t.Errorf("%s: cookies %v", name, a.Cookies())
		}
		if (a.Header.Get("Retry-After") != "") != (test.code == http.StatusServiceUnavailable) {
			t.Errorf("%s: Retry-After %q", name, a.Header.Get("Retry-After"))
		}
	}
}

// J10: a handoff in the visit's cookie, and a visit in the handoff's, are worth nothing.
func TestJ10TheOthersCookie(t *testing.T) {
	k := newKit(t, withApp)
	good := k.good(t)
	if a, s := k.status(t, app("Cookie", handoffweb.VisitCookie+"="+good.Compact())...); a.StatusCode != http.StatusUnauthorized || s.Reason != "TOKEN_INVALID" {
		t.Errorf("%d %+v", a.StatusCode, s)
	}
	visit := k.visit()
	held := "__Host-handoff-" + idOf(visit) + "=" + visit.Compact()
	if a := k.ask(t, "GET", "/handoff/"+idOf(visit), "", "Cookie", held); a.StatusCode != http.StatusBadRequest {
		t.Errorf("shown: %d %s", a.StatusCode, a.body)
	}
	if a := k.ask(t, "POST", "/handoff/"+idOf(visit), "", k.here("Cookie", held)...); a.StatusCode != http.StatusBadRequest {
		t.Errorf("confirmed: %d %s", a.StatusCode, a.body)
	}
	// With both cookies, the visit stands beside the handoff.
	_, pending := k.arrive(t, good.Compact())
	_, c := k.arrive(t, visit.Compact())
	if a, s := k.status(t, app("Cookie", c.Name+"="+c.Value+"; "+pending.Name+"="+pending.Value)...); a.StatusCode != http.StatusOK || s.Subject != alice {
		t.Errorf("%d %+v", a.StatusCode, s)
	}
	if k.invoices.payments() != 0 {
		t.Error("something was paid")
	}
	if _, s := k.status(t, app("Cookie", c.Name+"="+c.Value+"; "+c.Name+"="+k.visit().Compact())...); s.Reason != "TOKEN_INVALID" {
		t.Errorf("of two cookies one counted: %+v", s)
	}
}

// J07: another site can neither ask for a visit's status nor end it.
func TestJ07VisitFromElsewhere(t *testing.T) {
	k := newKit(t, withApp)
	_, c := k.arrive(t, k.visit().Compact())
	for name, headers := range map[string][]string{
		"another site": {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"a sibling":    {"Sec-Fetch-Site", "same-site", "Origin", "https://www.example"},
		"a bookmark":   {"Sec-Fetch-Site", "none"},
		"two values":   {"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Site", "cross-site"},
	} {
		if a, s := k.status(t, append(headers, cookie(c)...)...); a.StatusCode != http.StatusForbidden || s.Subject != "" || s.Issuer != "" {
			t.Errorf("asked by %s: %d %+v", name, a.StatusCode, s)
		}
	}
	for name, headers := range map[string][]string{
		"another site": {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"the shop":     {"Sec-Fetch-Site", "cross-site", "Origin", shop},
		"nobody":       {},
		"null":         {"Origin", "null"},
	} {
		if a := k.ask(t, "POST", "/visit/end", "", append(headers, cookie(c)...)...); a.StatusCode != http.StatusForbidden || len(a.Cookies()) != 0 {
			t.Errorf("ended by %s: %d %v", name, a.StatusCode, a.Cookies())
		}
	}
	for _, r := range []struct{ method, path string }{{"POST", "/visit"}, {"GET", "/visit/end"}, {"GET", "/visit/"}, {"GET", "/visit/x"}, {"DELETE", "/visit"}} {
		if a := k.ask(t, r.method, r.path, "", append(k.here(), cookie(c)...)...); a.StatusCode != http.StatusMethodNotAllowed && a.StatusCode != http.StatusNotFound {
			t.Errorf("%s %s: %d", r.method, r.path, a.StatusCode)
		}
	}
}

// J01, J10: a visit arrives as a handoff does, from its issuer's page only, and where there
// is an application.
func TestJ10Arrival(t *testing.T) {
	k := newKit(t, withApp)
	raw := k.visit().Compact()
	for name, headers := range map[string][]string{
		"another origin":         with(sent(), "Origin", "https://evil.example"),
		"another issuer's page":  with(sent(), "Origin", "https://third.example"),
		"no origin":              without(sent(), "Origin"),
		"null":                   with(sent(), "Origin", "null"),
		"a fetch":                with(with(sent(), "Sec-Fetch-Mode", "cors"), "Sec-Fetch-Dest", "empty"),
		"a frame":                with(sent(), "Sec-Fetch-Dest", "iframe"),
		"the application itself": with(sent(), "Origin", k.web.URL),
	} {
		if a := k.ask(t, "POST", "/handoff", handoffForm(raw), headers...); a.StatusCode != http.StatusForbidden || len(a.Cookies()) != 0 {
			t.Errorf("%s: %d %v", name, a.StatusCode, a.Cookies())
		}
	}
	for _, attack := range forge.VisitAttacks() {
		a, c := k.arrive(t, attack.Forge(k.visit()))
		if e := k.events.last(); a.StatusCode < 400 || c != nil || e.Refusal == nil {
			t.Errorf("%s: %d %+v", attack.Name, a.StatusCode, e)
		}
	}
	stranger := k.visit().WithClaim("iss", forge.Quote(other)) // trusted, and nobody comes from there
	if a, c := k.arrive(t, stranger.Compact()); a.StatusCode != http.StatusForbidden || c != nil || k.events.last().Refusal.Check != "web.from" {
		t.Errorf("%d %+v", a.StatusCode, k.events.last())
	}
	k = newKit(t)
	if a, c := k.arrive(t, k.visit().Compact()); a.StatusCode != http.StatusForbidden || c != nil || k.events.last().Refusal.Check != "web.visit" {
		t.Errorf("without an application: %d %+v", a.StatusCode, k.events.last())
	}
	if a := k.ask(t, "GET", "/visit", "", app()...); a.StatusCode != http.StatusNotFound {
		t.Errorf("without an application: %d", a.StatusCode)
	}
}

func TestSendVisit(t *testing.T) {
	k := newKit(t, withApp)
	w := httptest.NewRecorder()
	raw := k.visit().Compact()
	if err := handoffweb.Send(w, handoffweb.Passage{Token: raw, To: billing}); err != nil || !strings.Contains(w.Body.String(), raw) {
		t.Errorf("%v: %s", err, w.Body)
	}
	// The longest that a cookie holds is sent, and what is longer is not.
	methods := make([]string, 32)
	for i := range methods {
		methods[i] = "/a.v1.B/" + strings.Repeat("C", 64) + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	visit, sent, refused := k.visit().WithDetails(forge.VisitDetails(methods...)), 0, 0
	for n := range 255 {
		raw := visit.WithClaim("sub", forge.Quote(strings.Repeat("u", n+1))).Compact()
		if len(raw) > 4096 {
			break
		}
		w := httptest.NewRecorder()
		err := handoffweb.Send(w, handoffweb.Passage{Token: raw, To: billing})
		if fits := len(handoffweb.VisitCookie)+len(raw) <= 4078; (err == nil) != fits || err != nil && handoff.ReasonOf(err) != handoff.ReasonLimitExceeded || (w.Body.Len() > 0) != fits {
			t.Errorf("%d bytes: %v", len(raw), err)
		} else if fits {
			sent++
		} else {
			refused++
		}
	}
	if sent == 0 || refused == 0 {
		t.Errorf("%d were sent, %d refused", sent, refused)
	}
}

func TestNewLandingRefusesApp(t *testing.T) {
	k := newKit(t)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{Audience: billing, Issuers: map[string]handoff.KeySource{shop: k}, Store: k})
	if err != nil {
		t.Fatal(err)
	}
	for path, visit := range map[string]string{
		"app/": "", "//evil.example/": "", "https://evil.example/": "", "/app?x": "", "/a b": "", "/\\evil.example": "", "/app/#x": "",
		"/app/": "javascript:x", "/": "https://shop.example",
	} {
		config := handoffweb.LandingConfig{Verifier: verifier, Server: k.serve(t, verifier)}
		withApp(&config)
		from := config.From[shop]
		config.App, from.Visit = path, visit
		config.From[shop] = from
		if _, err := handoffweb.NewLanding(config); err == nil {
			t.Errorf("%q, %q: accepted", path, visit)
		}
	}
}
