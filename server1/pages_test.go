package server1

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/trust"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// newShop returns a site that has pages: its policy says where billing's are.
func newShop(t testing.TB) *site {
	t.Helper()
	s := newShopWithout(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "reader")
	return s
}

// newShopWithout returns one that has no users yet.
func newShopWithout(t testing.TB) *site {
	t.Helper()
	s := newTrustedSite(t)
	s.write(t, "policy.json", strings.Replace(goodPolicy, `"target"`, `"web": "`+billing+`", "target"`, 1), 0o644)
	return s
}

func (s *site) openShop(t testing.TB, more ...string) *running {
	t.Helper()
	return s.start(t, s.publishing(append([]string{"http", "127.0.0.1:0"}, more...)...))
}

// browser is a client with a cookie jar that follows no redirect by itself, and says where
// its requests come from.
type browser struct {
	t      testing.TB
	client *http.Client
	origin string
}

// seen is what a browser got.
type seen struct {
	status int
	header http.Header
	body   string
}

func (r *running) browser(t testing.TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t: t, origin: "https://" + r.http, client: &http.Client{
		Transport: transport, Jar: jar, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do sends a request with these headers, besides those that a browser sends by itself.
// A header that is empty is left out.
func (b *browser) do(method, path, body string, headers map[string]string) seen {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.origin+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	all := map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
	if method == http.MethodPost {
		maps.Copy(all, map[string]string{
			"Origin": b.origin, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded",
		})
	}
	maps.Copy(all, headers)
	for name, value := range all {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := b.client.Do(request)
	if err != nil {
		b.t.Fatal(method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(method, path, err)
	}
	return seen{response.StatusCode, response.Header, string(text)}
}

func (b *browser) get(path string) seen { return b.do(http.MethodGet, path, "", nil) }

func (b *browser) post(path string, fields ...string) seen {
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.do(http.MethodPost, path, form.Encode(), nil)
}

// signIn signs a user in, and returns the session's id.
func (b *browser) signIn(name string) string {
	b.t.Helper()
	b.post("/sign-in", "user_name", name, "password", password).wantRedirect(b.t, "/orders")
	return b.session()
}

// plant has the browser hold a cookie with this session's id.
func (b *browser) plant(id string) {
	b.client.Jar.SetCookies(b.at(), []*http.Cookie{{Name: "__Host-session", Value: id, Path: "/", Secure: true}})
}

func (b *browser) at() *url.URL {
	b.t.Helper()
	at, err := url.Parse(b.origin)
	if err != nil {
		b.t.Fatal(err)
	}
	return at
}

// session returns the session's id in the jar, or nothing.
func (b *browser) session() string {
	for _, cookie := range b.client.Jar.Cookies(b.at()) {
		if cookie.Name == "__Host-session" {
			return cookie.Value
		}
	}
	return ""
}

func (s seen) wantRedirect(t testing.TB, to string) {
	t.Helper()
	if got := s.header.Get("Location"); s.status != http.StatusSeeOther || got != to {
		t.Fatalf("got %d to %q, want 303 to %q", s.status, got, to)
	}
}

func (s seen) want(t testing.TB, status int, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(s.body, text) {
			t.Errorf("the page has no %q:\n%s", text, s.body)
		}
	}
	if s.status != status {
		t.Errorf("got %d, want %d:\n%s", s.status, status, s.body)
	}
}

var sentToken = regexp.MustCompile(`<input type="hidden" name="handoff" value="([A-Za-z0-9_.-]+)">`)

// pay clicks "Pay" and returns the token in the page that takes it to billing.
func (b *browser) pay(order string) string {
	b.t.Helper()
	page := b.post("/orders/"+order+"/pay", "audience", billing)
	page.want(b.t, http.StatusOK, `action="`+billing+`/handoff"`)
	found := sentToken.FindStringSubmatch(page.body)
	if found == nil {
		b.t.Fatalf("no token in the page:\n%s", page.body)
	}
	return found[1]
}

// H01: the click hands off the order as it stands there, by the session in the cookie. The
// token is in the page's form: in no URL, no header and no log line, and neither are the
// session's id and the password.
func TestH01TheWayToBilling(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	r := s.openShop(t, "log-level", "debug")
	a := r.audience(t)
	b := r.browser(t)
	b.get("/").wantRedirect(t, "/sign-in")
	b.get("/orders").wantRedirect(t, "/sign-in")
	id := b.signIn("alice")
	b.get("/").wantRedirect(t, "/orders")
	list := b.get("/orders")
	list.want(t, http.StatusOK, "Pay at billing.example")
	for _, want := range []string{"alice", "INV-42", "12.00 EUR", "INV-47", "3.00 EUR", `action="/orders/INV-42/pay"`} {
		list.want(t, http.StatusOK, want)
	}
	if strings.Contains(list.body, "INV-43") {
		t.Error("alice is shown bob's order")
	}

	page := b.post("/orders/INV-42/pay", "audience", billing)
	raw := sentToken.FindStringSubmatch(page.body)[1]
	if n := strings.Count(page.body, raw); n != 1 {
		t.Errorf("the token stands in the page %d times", n)
	}
	if got := page.header.Get("Referrer-Policy"); got != "strict-origin" {
		t.Errorf("Referrer-Policy: %q: the audience needs the Origin", got)
	}
	for name := range page.header {
		if strings.Contains(page.header.Get(name), raw) {
			t.Errorf("the token stands in %s", name)
		}
	}
	verified, err := a.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	claims := verified.Claims()
	if claims.Method != payInvoice || claims.Audience != billing || claims.Session == "" || claims.Subject == "alice" {
		t.Errorf("got %+v", claims)
	}
	fields := map[string]string{}
	for _, field := range claims.Fields {
		fields[field.Path] = field.Value
	}
	first := fields["request_id"]
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(first) {
		t.Errorf("the request id %q is no UUID", first)
	}
	delete(fields, "request_id")
	if want := map[string]string{"invoice_id": "INV-42", "amount": "{}", "amount.currency_code": "EUR", "amount.minor_units": "1200"}; !maps.Equal(fields, want) {
		t.Errorf("signed %v, want %v", fields, want)
	}
	again, err := a.verifier.Verify(t.Context(), b.pay("INV-42"))
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range again.Claims().Fields {
		if field.Path == "request_id" && field.Value != first {
			t.Error("the same order has another request id: it could be paid twice")
		}
	}
	if again.Claims().ID == claims.ID {
		t.Error("two clicks have one handoff")
	}

	back := b.get("/orders/" + claims.ID)
	back.want(t, http.StatusOK, "Back from billing.example")
	back.want(t, http.StatusOK, "This shop is not told")
	b.post("/sign-out").wantRedirect(t, "/signed-out")
	a.wantSoon(t, "a handoff of a session that was signed out", raw, handoff.ReasonTokenRevoked)
	for what, secret := range map[string]string{"token": raw, "session's id": id, "password": password} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("the log has the %s", what)
		}
	}
	for _, want := range []string{`"outcome":"signed_in"`, `"outcome":"issued"`, `"network":"127.0.0.0/24"`, `"outcome":"signed_out"`} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the audit has no %s", want)
		}
	}
}

// Every page is kept by no cache, framed nowhere, and runs nothing; the trust list is as it
// was, and public.
func TestPagesAreShut(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	b := r.browser(t)
	signedOut := map[string]seen{
		"sign-in": b.get("/sign-in"), "signed out": b.get("/signed-out"), "to the sign-in": b.get("/orders"), "not there": b.get("/nothing"),
		"not accepted": b.post("/sign-in", "user_name", "alice", "password", "wrong password"),
		"foreign":      b.do(http.MethodPost, "/sign-in", "", map[string]string{"Sec-Fetch-Site": "cross-site"}),
		"wrong method": b.do(http.MethodDelete, "/orders", "", nil),
	}
	b.signIn("alice")
	pages := map[string]seen{"orders": b.get("/orders"), "not there, signed in": b.get("/orders/AAAAAAAAAAAAAAAAAAAAAA")}
	maps.Copy(pages, signedOut)
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`)
	for name, page := range pages {
		for header, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := page.header.Values(header); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		csp := page.header.Get("Content-Security-Policy")
		want := regexp.MustCompile(`^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; form-action 'self'; frame-ancestors 'none'; base-uri 'none'$`)
		if !want.MatchString(csp) {
			t.Errorf("%s: Content-Security-Policy is %q", name, csp)
		}
		if found := style.FindStringSubmatch(page.body); page.body != "" && (found == nil || !strings.Contains(csp, sha256Source(found[1]))) {
			t.Errorf("%s: the policy does not allow the page's own style", name)
		}
		if strings.Contains(page.body, "<script") || regexp.MustCompile(`\s(on[a-z]+|style)=`).MatchString(page.body) {
			t.Errorf("%s: a script, or a style of an element's own:\n%s", name, page.body)
		}
	}
	for _, path := range []string{trust.ListPath, "/.well-known/jwks.json"} {
		published := r.browser(t).get(path)
		if published.status != http.StatusOK || published.header.Get("ETag") == "" || published.header.Get("Content-Security-Policy") != "" {
			t.Errorf("%s: %d %v", path, published.status, published.header)
		}
	}
	r.browser(t).get("/.well-known/nothing").want(t, http.StatusNotFound, "404")
}

// Without the address of an audience's pages there are none, only the trust list.
func TestPagesOnlyWhereThePolicyHasSome(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	b := s.openShop(t).browser(t)
	for _, path := range []string{"/", "/sign-in", "/orders"} {
		b.get(path).want(t, http.StatusNotFound)
	}
	b.get("/.well-known/jwks.json").want(t, http.StatusOK, `"keys"`)
}

// H02, J05: nothing that a request says is where somebody is sent, except to one's own pages.
func TestH02OpenRedirect(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t, "sign-in-attempts", "100000")
	b := r.browser(t)
	own := "/orders/AbCdEfGhIjKlMnOpQrSt-_"
	for _, to := range []string{"/orders", own} {
		b.post("/sign-in", "user_name", "alice", "password", password, "to", to).wantRedirect(t, to)
		b.get("/sign-in?to="+url.QueryEscape(to)).wantRedirect(t, to)
		b.post("/sign-out").wantRedirect(t, "/signed-out")
	}
	b.get(own).wantRedirect(t, "/sign-in?to="+url.QueryEscape(own))
	b.get("/sign-in?to="+url.QueryEscape(own)).want(t, http.StatusOK, `name="to" value="`+own+`"`)
	signedIn := r.browser(t)
	signedIn.signIn("alice")
	for _, payload := range openRedirects() {
		query := "to=" + url.QueryEscape(payload)
		page := b.get("/sign-in?" + query)
		page.want(t, http.StatusOK, `name="to" value="/orders"`)
		signedIn.get("/sign-in?"+query).wantRedirect(t, "/orders")
		for _, name := range []string{"next", "url", "return", "return_to", "redirect_uri", "continue"} {
			signedIn.get("/sign-in?"+name+"="+url.QueryEscape(payload)).wantRedirect(t, "/orders")
		}
	}
	for i, payload := range openRedirects() {
		if i%12 == 0 { // each costs a password's hash
			signedIn.post("/sign-in", "user_name", "alice", "password", password, "to", payload).wantRedirect(t, "/orders")
		}
	}
	// As paths: what the server makes of them leads nowhere.
	for _, path := range []string{
		"//evil.example", "///evil.example/..", "/\\evil.example", "/%5cevil.example", "/%2f%2fevil.example", "//evil.example/%2e%2e",
		"/orders//evil.example", "/orders/../..//evil.example", "/sign-in/..//evil.example", "//evil.example/orders", "/orders/", "/orders?to=//evil.example",
		"/.well-known//evil.example", "/.well-known/..//evil.example",
	} {
		to, err := url.Parse(signedIn.raw(path).header.Get("Location"))
		if err != nil || to.Host != "" || to.Scheme != "" || strings.HasPrefix(to.Path, "//") || strings.Contains(to.Path, `\`) {
			t.Errorf("%s leads to %v, %v", path, to, err)
		}
	}
}

// openRedirects are ways to write another site's address that one program or another takes
// for a path of its own.
func openRedirects() []string {
	all := []string{
		"//evil.example", "///evil.example", "////evil.example", "/\\evil.example", "\\\\evil.example", "/\\/evil.example", "\\/evil.example",
		"https://evil.example", "http://evil.example", "HTTPS://evil.example", "https:evil.example", "https:/evil.example", "https:///evil.example",
		"https:\\\\evil.example", "https://evil.example#/orders", "https://evil.example?/orders", "javascript:alert(1)", "JaVaScRiPt:alert(1)",
		"java\tscript:alert(1)", "\x01javascript:alert(1)", "data:text/html,x", "vbscript:x", "blob:x", "file:///etc/passwd", "ftp://evil.example", "//[::1]",
		"//evil.example:443/orders", "//evil%2eexample", "/%2fevil.example", "/%5cevil.example", "%2f%2fevil.example", "/.evil.example", ".evil.example",
		"@evil.example", "//shop.example@evil.example", "https://shop.example@evil.example", "https://shop.example.evil.example", "//evil.example/orders",
		"evil.example", "/evil.example", "./evil.example", "../evil.example", "?to=//evil.example", "#//evil.example", ";//evil.example", "/;//evil.example",
		"/orders//evil.example", "/orders/../..//evil.example", "/orders/..;/", "/orders\\..\\..\\evil.example", "/orders@evil.example", "/orders.evil.example",
		"/orders:80@evil.example", "//evil.example\\@shop.example", "/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "\t//evil.example", "\n//evil.example",
		" //evil.example", "/ /evil.example", "\u00a0//evil.example", "\u3000//evil.example", "/\u2215evil.example", "\uff0f\uff0fevil.example", "//evil\u3002example",
		"//evil\u00adl.example", "/orders\r\nLocation: //evil.example", "/orders%0d%0aLocation:%20//evil.example", "/orders\x00//evil.example", "/orders?to=//evil.example",
		"/orders#//evil.example", "/orders/", "/Orders", "/orders/AbCdEfGhIjKlMnOpQrSt-_/", "/orders/AbCdEfGhIjKlMnOpQrSt-_\n", "/orders/AbCdEfGhIjKlMnOpQrSt-_?x",
		"/orders/AbCdEfGhIjKlMnOpQrSt%2d_", "/orders/AbCdEfGhIjKlMnOpQrSt-", "/sign-out", "/sign-in", "/orders/INV-42/pay", "/.well-known/jwks.json", "", "/",
		strings.Repeat("/", 4000) + "evil.example", "/" + strings.Repeat("../", 300) + "/evil.example",
	}
	for _, prefix := range []string{"/", "/\\", "%09/", "%5c", "/%09/", "/%5c", "//%0d%0a", "/%2e%2e/", "/%2f%2f", "////%5c", "\\%5c", "%00//", "/<>//", "/?/\\", "//;@"} {
		all = append(all, prefix+"/evil.example", prefix+"evil.example/%2f..", prefix+"/evil.example/%2e%2e%2f", prefix+"/shop.example@evil.example")
	}
	return all
}

// sha256Source is how a Content-Security-Policy names a text by its SHA-256.
func sha256Source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// raw asks for a path as it stands, in HTTP/1.1.
func (b *browser) raw(path string) seen {
	b.t.Helper()
	config := b.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(b.origin, "https://"), config)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: shop.example\r\nCookie: __Host-session=%s\r\nConnection: close\r\n\r\n", path, b.session())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.t.Fatal(path, err)
	}
	defer response.Body.Close()
	return seen{status: response.StatusCode, header: response.Header}
}

// H03: a POST that another site sends does nothing; and without the
// headers of a browser there is no cookie to misuse.
func TestH03ForeignPosts(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	b := r.browser(t)
	id := b.signIn("alice")
	for _, from := range []map[string]string{
		{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
		{"Origin": "https://evil.example", "Sec-Fetch-Site": ""},
		{"Origin": "null", "Sec-Fetch-Site": "cross-site"},
		{"Origin": "null", "Sec-Fetch-Site": ""},
		{"Origin": "", "Sec-Fetch-Site": "cross-site"},
		{"Origin": "https://sibling." + strings.TrimPrefix(b.origin, "https://"), "Sec-Fetch-Site": "same-site"},
		{"Origin": b.origin + ".evil.example", "Sec-Fetch-Site": ""},
		{"Origin": strings.Replace(b.origin, "https", "http", 1), "Sec-Fetch-Site": ""}, // somebody on the network
		{"Origin": "", "Sec-Fetch-Site": ""},
		{"Origin": billing, "Sec-Fetch-Site": "cross-site"}, // it is handed off to, and trusted with nothing
	} {
		for path, body := range map[string]string{
			"/sign-in":             url.Values{"user_name": {"bob"}, "password": {password}}.Encode(),
			"/sign-out":            "",
			"/sign-out-everywhere": "",
			"/orders/INV-42/pay":   url.Values{"audience": {billing}}.Encode(),
		} {
			page := b.do(http.MethodPost, path, body, from)
			page.want(t, http.StatusForbidden, "came from another site")
			if page.header.Get("Set-Cookie") != "" || sentToken.MatchString(page.body) {
				t.Errorf("%s from %v: something was done", path, from)
			}
		}
	}
	b.get("/orders").want(t, http.StatusOK, "Signed in as <strong>alice</strong>")
	if b.session() != id {
		t.Error("the session was changed")
	}
}

// No GET does anything.
func TestH03NoGetActs(t *testing.T) {
	t.Parallel()
	b := newShop(t).openShop(t).browser(t)
	b.signIn("alice")
	for _, path := range []string{"/sign-out", "/sign-out-everywhere", "/orders/INV-42/pay", "/orders/INV-42/pay?audience=" + url.QueryEscape(billing)} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			page := b.do(method, path, "", nil)
			page.want(t, http.StatusMethodNotAllowed, "")
			if page.header.Get("Allow") != "POST" {
				t.Errorf("%s %s: Allow is %q", method, path, page.header.Get("Allow"))
			}
		}
	}
	b.get("/orders").want(t, http.StatusOK, "alice")
}

// H04: signing in begins a new session, even if the browser came with one, and ends
// that one.
func TestH04PlantedSession(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	mallory := r.browser(t)
	planted := mallory.signIn("bob")
	victim := r.browser(t)
	victim.plant(planted)
	victim.get("/orders").want(t, http.StatusOK, "bob")
	if got := victim.signIn("alice"); got == planted || got == "" {
		t.Error("the session id that was planted is in use")
	}
	victim.get("/orders").want(t, http.StatusOK, "alice")
	mallory.get("/orders").wantRedirect(t, "/sign-in")
	for _, made := range []string{"made-up", strings.Repeat("A", 43), ""} {
		victim.plant(made)
		victim.get("/orders").wantRedirect(t, "/sign-in")
		if got := victim.signIn("alice"); got == made {
			t.Error("a session id that was made up is in use")
		}
	}
}

// H05: one cookie, from this host only, which no script reads; two are worth nothing.
func TestH05Cookie(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	b := r.browser(t)
	page := b.post("/sign-in", "user_name", "alice", "password", password)
	id := b.session()
	want := "__Host-session=" + id + "; Path=/; HttpOnly; Secure; SameSite=Lax"
	if got := page.header.Values("Set-Cookie"); len(got) != 1 || got[0] != want || len(id) != 43 {
		t.Errorf("got %q, want %q", got, want)
	}
	other := r.browser(t).signIn("bob")
	for name, cookies := range map[string]string{
		"a second one":          "__Host-session=" + id + "; __Host-session=" + other,
		"the same one twice":    "__Host-session=" + id + "; __Host-session=" + id,
		"without its prefix":    "session=" + id,
		"another case":          "__host-session=" + id,
		"with something behind": "__Host-session=" + id + "x",
		"what the database has": "__Host-session=" + sha256Source(id),
		"a name that is alike":  "__Secure-session=" + id,
		"empty":                 "__Host-session=",
	} {
		stranger := r.browser(t)
		stranger.do(http.MethodGet, "/orders", "", map[string]string{"Cookie": cookies}).wantRedirect(t, "/sign-in")
		stranger.do(http.MethodPost, "/orders/INV-42/pay", "audience="+url.QueryEscape(billing), map[string]string{"Cookie": cookies}).wantRedirect(t, "/sign-in")
		if t.Failed() {
			t.Fatalf("it was %s", name)
		}
	}
	stranger := r.browser(t)
	stranger.do(http.MethodGet, "/orders", "", map[string]string{"Authorization": "Bearer " + id}).wantRedirect(t, "/sign-in")
	over := stranger.do(http.MethodGet, "/sign-in", "", map[string]string{"Cookie": "__Host-session=over"})
	over.want(t, http.StatusOK, "Your session has ended")
	if got := over.header.Get("Set-Cookie"); got != "__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax" {
		t.Errorf("the cookie of a session that is over: %q", got)
	}
}

// The sessions are the same over gRPC and in the browser, and so are their ends.
func TestPagesShareSessions(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	here, there := r.browser(t), r.browser(t)
	id := here.signIn("alice")
	if _, err := r.sessions().GetSession(with(t, "Bearer "+id), &server1v1.GetSessionRequest{}); err != nil {
		t.Errorf("the browser's session over gRPC: %v", err)
	}
	there.signIn("alice")
	there.post("/sign-out-everywhere").wantRedirect(t, "/signed-out")
	// No more is said than holds for an audience that follows no trust list.
	there.get("/signed-out").want(t, http.StatusOK, "You are signed out", "has been taken back", "Any other refuses it when its time is over")
	here.get("/orders").wantRedirect(t, "/sign-in")
	here.get("/sign-in").want(t, http.StatusOK, "Your session has ended")
	_, err := r.sessions().GetSession(with(t, "Bearer "+id), &server1v1.GetSessionRequest{})
	wantReason(t, "the session over gRPC", err, handoff.ReasonSessionInvalid)

	here.signIn("alice")
	ctx, _ := r.signIn(t, "alice")
	if _, err := r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
		t.Fatal(err)
	}
	here.post("/orders/INV-42/pay", "audience", billing).wantRedirect(t, "/sign-in")
	here.post("/sign-out").wantRedirect(t, "/sign-in")
}

// A session that one process began is one at every other, and so is its end.
func TestPagesOfReplicas(t *testing.T) {
	t.Parallel()
	s := newShopWithout(t)
	s.database = servingtest.Postgres(t)
	s.addUser(t, "alice", "payer")
	one, other := s.openShop(t).browser(t), s.openShop(t).browser(t)
	other.plant(one.signIn("alice"))
	other.get("/orders").want(t, http.StatusOK, "Signed in as <strong>alice</strong>")
	id := handoffIn(t, one.pay("INV-42"))
	other.get("/orders/"+id).want(t, http.StatusOK, "you can do so there until")
	other.post("/sign-out-everywhere").wantRedirect(t, "/signed-out")
	one.get("/orders").wantRedirect(t, "/sign-in")
	one.post("/orders/INV-42/pay", "audience", billing).wantRedirect(t, "/sign-in")
	one.signIn("alice")
	one.get("/orders/"+id).want(t, http.StatusOK, "It has been taken back since")
}

// handoffIn returns the id of the handoff that a token is.
func handoffIn(t testing.TB, raw string) string {
	t.Helper()
	claims, err := handoff.UnverifiedClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	return claims.ID
}

// The page of a handoff is its user's only.
func TestReturnPage(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	a := r.audience(t)
	alice, bob := r.browser(t), r.browser(t)
	alice.signIn("alice")
	bob.signIn("bob")
	verified, err := a.verifier.Verify(t.Context(), alice.pay("INV-44"))
	if err != nil {
		t.Fatal(err)
	}
	page := "/orders/" + verified.Claims().ID
	alice.get(page).want(t, http.StatusOK, "you can do so there until "+`<time datetime="`+verified.Claims().Expires.UTC().Format(time.RFC3339))
	bob.get(page).want(t, http.StatusNotFound, "There is no such page")
	alice.get("/orders/").want(t, http.StatusOK, "Your orders") // back from an audience that has not recognised a handoff
	for _, other := range []string{page + "A", page + "/", page[:len(page)-1], "/orders/" + strings.Repeat("A", 22), "/orders/INV-43", "/orders/INV-044", "/orders/" + strings.Repeat("%41", 22) + "/x"} {
		alice.get(other).want(t, http.StatusNotFound, "There is no such page")
	}
	revoked := handoffIn(t, alice.pay("INV-44"))
	ctx := with(t, "Bearer "+alice.session())
	if _, err := r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: revoked}); err != nil {
		t.Fatal(err)
	}
	alice.get("/orders/"+revoked).want(t, http.StatusOK, "It has been taken back since", "refuses it as soon as it learns of that, and from ")
	alice.get(page).want(t, http.StatusOK, "you can do so there until ")
	alice.post("/sign-out").wantRedirect(t, "/signed-out")
	alice.get(page).wantRedirect(t, "/sign-in?to="+url.QueryEscape(page))
	alice.post("/sign-in", "user_name", "alice", "password", password, "to", page).wantRedirect(t, page)
	alice.get(page).want(t, http.StatusOK, "It has been taken back since")
}

// An audience sends a user here to pay one order: it is shown, by itself and to its user
// only, also after a sign-in, and nothing is paid by looking at it.
func TestOneOrder(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	alice, bob := r.browser(t), r.browser(t)
	alice.get("/orders/INV-42").wantRedirect(t, "/sign-in?to=%2Forders%2FINV-42")
	alice.post("/sign-in", "user_name", "alice", "password", password, "to", "/orders/INV-42").wantRedirect(t, "/orders/INV-42")
	page := alice.get("/orders/INV-42")
	page.want(t, http.StatusOK, "Your order INV-42", `action="/orders/INV-42/pay"`, "12.00 EUR")
	if strings.Contains(page.body, "INV-44") || sentToken.MatchString(page.body) {
		t.Errorf("it shows more:\n%s", page.body)
	}
	bob.signIn("bob")
	bob.get("/orders/INV-42").want(t, http.StatusNotFound, "There is no such page")
}

// What the policy does not allow, what is not the user's, and what nobody sells, is refused
// by the same checks as over gRPC.
func TestPayRefuses(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	alice, bob := r.browser(t), r.browser(t)
	alice.signIn("alice")
	bob.signIn("bob")
	bob.post("/orders/INV-43/pay", "audience", billing).want(t, http.StatusForbidden, "You may not do this")
	if !strings.Contains(r.log.String(), `"reason":"POLICY_DENIED"`) {
		t.Error("the refusal is not in the audit")
	}
	alice.post("/orders/INV-43/pay", "audience", billing).want(t, http.StatusNotFound, "There is no such page")
	alice.post("/orders/INV-99/pay", "audience", billing).want(t, http.StatusNotFound, "There is no such page")
	for _, audience := range []string{"", "https://evil.example", billing + "/", "https://archive.example"} {
		alice.post("/orders/INV-42/pay", "audience", audience).want(t, http.StatusBadRequest, "The form could not be read")
	}
}

// I04: a user's clicks count with what is asked for over gRPC.
func TestI04PayIsLimited(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t, "handoff-quota", "3")
	alice := r.browser(t)
	alice.signIn("alice")
	alice.pay("INV-42")
	r.issue(t, with(t, "Bearer "+alice.session()))
	alice.pay("INV-44")
	page := alice.post("/orders/INV-46/pay", "audience", billing)
	page.want(t, http.StatusTooManyRequests, "Nothing was done. Wait a minute")
	if page.header.Get("Retry-After") == "" || sentToken.MatchString(page.body) {
		t.Errorf("%v", page.header)
	}
}

// The sign-in form and gRPC count one user's attempts together, and say no more than that.
func TestPagesShareLimits(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t, "sign-in-attempts", "4")
	b := r.browser(t)
	for _, form := range [][]string{
		{"user_name", "alice", "password", "wrong password"},
		{"user_name", "nobody", "password", "wrong password"},
		{"user_name", "Alice <b>", "password", password},
		{"user_name", "", "password", ""},
		{"user_name", "alice", "password", strings.Repeat("x", 300)},
	} {
		b.post("/sign-in", form...).want(t, http.StatusForbidden, "There is no user with this name and password.")
	}
	if page := b.post("/sign-in", "user_name", `"><script>alert(1)</script>`, "password", "x"); strings.Contains(page.body, "<script>") {
		t.Error("the name is not escaped")
	}
	attempts := 1
	attempt := func() handoff.Reason {
		_, err := r.sessions().SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: "wrong password"})
		return handoffgrpc.ReasonOf(err)
	}
	for ; attempts < 4; attempts++ {
		if reason := attempt(); reason != handoff.ReasonSessionInvalid {
			t.Errorf("attempt %d, over gRPC: %v", attempts, reason)
		}
	}
	var page seen
	for range 5 { // a busy machine takes so long that there is another attempt
		for ; attempts < 20 && attempt() == handoff.ReasonSessionInvalid; attempts++ {
		}
		b = r.browser(t)
		if page = b.post("/sign-in", "user_name", "alice", "password", password); page.status == http.StatusTooManyRequests {
			break
		}
	}
	page.want(t, http.StatusTooManyRequests, "Too many attempts")
	if page.header.Get("Retry-After") != "60" || b.session() != "" {
		t.Errorf("Retry-After %q, session %q", page.header.Get("Retry-After"), b.session())
	}
	b.signIn("bob")
}

// J09: forms are bounded, and have each field once; what is not a form is not read.
func TestJ09Forms(t *testing.T) {
	t.Parallel()
	b := newShop(t).openShop(t, "sign-in-attempts", "1000").browser(t)
	good := "user_name=alice&password=" + url.QueryEscape(password)
	const urlencoded = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		kind, body string
		status     int
	}{
		"with a charset":       {urlencoded + "; charset=utf-8", good, http.StatusSeeOther},
		"no type":              {"", good, http.StatusUnsupportedMediaType},
		"multipart":            {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"user_name\"\r\n\r\nalice\r\n--x--\r\n", http.StatusUnsupportedMediaType},
		"JSON":                 {"application/json", `{"user_name":"alice"}`, http.StatusUnsupportedMediaType},
		"plain text":           {"text/plain", good, http.StatusUnsupportedMediaType},
		"two names":            {urlencoded, good + "&user_name=bob", http.StatusBadRequest},
		"two equal names":      {urlencoded, good + "&user_name=alice", http.StatusBadRequest},
		"two paths":            {urlencoded, good + "&to=/orders&to=//evil.example", http.StatusBadRequest},
		"an unknown field":     {urlencoded, good + "&admin=1", http.StatusBadRequest},
		"a semicolon":          {urlencoded, good + ";to=/orders", http.StatusBadRequest},
		"a broken escape":      {urlencoded, good + "&to=%zz", http.StatusBadRequest},
		"nothing":              {urlencoded, "", http.StatusForbidden},
		"a little too long":    {urlencoded, good + "&to=" + strings.Repeat("x", 8<<10), http.StatusRequestEntityTooLarge},
		"a megabyte":           {urlencoded, strings.Repeat("a=b&", 1<<18), http.StatusRequestEntityTooLarge},
		"a megabyte of a file": {"multipart/form-data; boundary=x", strings.Repeat("x", 1<<20), http.StatusUnsupportedMediaType},
	} {
		page := b.do(http.MethodPost, "/sign-in", c.body, map[string]string{"Content-Type": c.kind})
		if page.status != c.status {
			t.Errorf("%s: got %d, want %d", name, page.status, c.status)
		}
		if page.status != http.StatusSeeOther && (page.header.Get("Set-Cookie") != "" || !strings.Contains(page.body, "<h1>")) {
			t.Errorf("%s: not a page, or one that does something: %v %s", name, page.header, page.body)
		}
	}
}

// J09, G09: a form that does not come is cut off, in HTTP/1.1 and in HTTP/2.
func TestJ09SlowForms(t *testing.T) {
	t.Parallel()
	r := newShop(t).openShop(t)
	for _, version := range []string{"http/1.1", "h2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			reader, writer := io.Pipe()
			defer writer.Close()
			go writer.Write([]byte("user_name=alice&"))
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+r.http+"/sign-in", reader)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Sec-Fetch-Site", "same-origin")
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.pool}, ForceAttemptHTTP2: version == "h2"}
			began := time.Now()
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if took := time.Since(began); response.StatusCode != http.StatusRequestTimeout || took < 4*time.Second || took > 5*time.Second+patience {
				t.Errorf("%d after %s, want 408 after 5 s", response.StatusCode, took)
			}
		})
	}
}

// What is not there, and what cannot be done there, is a page too.
func TestPagesNotThere(t *testing.T) {
	t.Parallel()
	b := newShop(t).openShop(t).browser(t)
	for _, path := range []string{"/nothing", "/sign-in/", "/Sign-in", "/orders//", "/orders/INV-x", "/orders/INV-42/", "/orders/INV-42/pay/", "/favicon.ico", "/robots.txt"} {
		b.get(path).want(t, http.StatusNotFound, "<h1>There is no such page</h1>")
	}
	for path, allow := range map[string]string{
		"/": "GET, HEAD", "/sign-in": "GET, HEAD, POST", "/orders": "GET, HEAD", "/sign-out": "POST", "/orders/INV-42/pay": "POST",
	} {
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions, "PROPFIND"} {
			page := b.do(method, path, "", nil)
			page.want(t, http.StatusMethodNotAllowed, "<h1>This cannot be done here</h1>")
			if page.header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow is %q, want %q", method, path, page.header.Get("Allow"), allow)
			}
		}
	}
	b.get("/nothing").want(t, http.StatusNotFound, "To the sign-in page")
	b.signIn("alice")
	b.get("/nothing").want(t, http.StatusNotFound, "To your orders")
	b.do(http.MethodDelete, "/orders", "", nil).want(t, http.StatusMethodNotAllowed, "Signed in as <strong>alice</strong>")
	b.post("/sign-out").wantRedirect(t, "/signed-out")
	head := b.do(http.MethodHead, "/sign-in", "", nil)
	if length, err := strconv.Atoi(head.header.Get("Content-Length")); head.status != http.StatusOK || head.body != "" || err != nil || length == 0 {
		t.Errorf("HEAD: %d, %d bytes, %v", head.status, len(head.body), err)
	}
}

// A user with no orders, and a role that nothing asks for, sees a page that says so.
func TestNoOrders(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.addUser(t, "carol", "reader")
	b := s.openShop(t).browser(t)
	b.signIn("carol")
	b.get("/orders").want(t, http.StatusOK, "You have no orders yet")
}

// I12: pages follow the policy, with what they show and where they lead; there are none
// while it says nowhere where an audience's are.
func TestI12PagesFollowThePolicy(t *testing.T) {
	t.Parallel()
	s := newShopWithout(t)
	s.addUser(t, "alice", "payer")
	r := s.openShop(t)
	b := r.browser(t)
	b.signIn("alice")
	says := func(web string) {
		t.Helper()
		s.write(t, "next.json", strings.Replace(goodPolicy, `"target"`, web+`"target"`, 1), 0o644)
		if err := os.Rename(s.path("next.json"), s.path("policy.json")); err != nil {
			t.Fatal(err)
		}
	}
	paysAt := func() seen { return b.post("/orders/INV-42/pay", "audience", billing) }
	paysAt().want(t, http.StatusOK, `action="`+billing+`/handoff"`)
	says(`"web": "https://moved.example", `)
	servingtest.Eventually(t, "the old origin is used", func() bool {
		return strings.Contains(paysAt().body, `action="https://moved.example/handoff"`)
	})
	b.get("/orders").want(t, http.StatusOK, "Pay at moved.example")
	says("")
	servingtest.Eventually(t, "there are pages", func() bool { return b.get("/orders").status == http.StatusNotFound })
	b.get("/.well-known/jwks.json").want(t, http.StatusOK, "keys")
	says(`"web": "` + billing + `", `)
	servingtest.Eventually(t, "there are no pages", func() bool { return b.get("/orders").status == http.StatusOK })
}
