package handoffweb_test

import (
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffweb"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// H01, J02: the whole way, with every header. Nothing but the confirmation spends.
func TestH01TheWholeWay(t *testing.T) {
	k := newKit(t)
	token := k.good(t)
	raw, id := token.Compact(), idOf(token)

	arrived, held := k.arrive(t, raw)
	arrived.wants(t, "arrival", 303)
	if got := arrived.Header.Get("Location"); got != "/handoff/"+id {
		t.Errorf("Location: %s", got)
	}
	set := arrived.Header.Values("Set-Cookie")
	want := "__Host-handoff-" + id + "=" + raw + "; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax"
	if len(set) != 1 || set[0] != want && set[0] != strings.Replace(want, "=60;", "=59;", 1) {
		t.Errorf("Set-Cookie: %q\nwant %q", set, want)
	}
	for range 3 { // reload, Back, a second tab
		page := k.ask(t, "GET", "/handoff/"+id, "", append(without(k.here(), "Origin", "Content-Type"), cookie(held)...)...)
		page.wants(t, "the page", 200, "<h1>Pay invoice</h1>", "shop.example asks you to confirm",
			"<dt>Invoice id</dt><dd><bdi>INV-42</bdi></dd>", "<dt>Amount › minor units</dt><dd><bdi>1200</bdi></dd>",
			`<a class="back" href="`+back+id+`">Back to shop.example</a>`, "<bdi>user-1</bdi>", `name="memo"`)
		if refresh, err := strconv.Atoi(page.Header.Get("Refresh")); err != nil || refresh < 55 || refresh > 60 {
			t.Errorf("Refresh: %q", page.Header.Get("Refresh"))
		}
		headers(t, page)
	}
	if k.invoices.payments() != 0 || len(k.spent) != 0 {
		t.Fatal("spent before the confirmation")
	}
	confirmed := k.ask(t, "POST", "/handoff/"+id, proven(held, "memo=my+books"), k.here(cookie(held)...)...)
	confirmed.wants(t, "the confirmation", 303)
	if got := confirmed.Header.Get("Location"); got != "/handoff/"+id {
		t.Errorf("Location: %s", got)
	}
	if k.invoices.payments() != 1 || k.invoices.paid[0].GetMemo() != "my books" || k.invoices.by[0] != alice {
		t.Fatalf("paid: %v by %v", k.invoices.paid, k.invoices.by)
	}
	ended := confirmed.Cookies()[0]
	if gone := confirmed.Cookies()[1]; gone.Name != held.Name || gone.MaxAge >= 0 || strings.Contains(ended.Value, ".") {
		t.Errorf("the token is still in the browser: %v, %v", ended, gone)
	}
	for range 2 {
		told := k.ask(t, "GET", "/handoff/"+id, "", cookie(ended)...)
		told.wants(t, "the outcome", 200, "Pay invoice", "Done.", `href="`+back+id+`"`)
		headers(t, told)
		if strings.Contains(told.body, "<form") {
			t.Error("the outcome offers to confirm again")
		}
	}
	// A confirmation that is sent again with what the browser holds now tells the same.
	k.ask(t, "POST", "/handoff/"+id, "", k.here(cookie(ended)...)...).wants(t, "again", 303)
	// So does the form of SERVER1's page, sent again by Back.
	// The browser sends no cookie with it.
	again, reopened := k.arrive(t, raw)
	again.wants(t, "arriving again", 303)
	both := k.ask(t, "GET", "/handoff/"+id, "", append(cookie(ended), cookie(reopened)...)...)
	both.wants(t, "what has arrived again", 200, "Done.")
	if gone := both.Cookies(); len(gone) != 1 || gone[0].Name != held.Name || gone[0].MaxAge >= 0 {
		t.Errorf("the token is back in the browser: %v", gone)
	}
	if k.invoices.payments() != 1 {
		t.Errorf("%d payments", k.invoices.payments())
	}
	for _, e := range k.events.all {
		if e.Issuer != shop && e.Step != "show" && e.Step != "confirm" || e.Refusal != nil {
			t.Errorf("event %+v", e)
		}
	}
}

// headers holds a page to what DESIGN and its own style say.
func headers(t *testing.T, a answer) {
	t.Helper()
	for name, want := range map[string]string{
		"Cache-Control":              "no-store",
		"Content-Type":               "text/html; charset=utf-8",
		"Cross-Origin-Opener-Policy": "same-origin",
		"Referrer-Policy":            "same-origin",
		"X-Content-Type-Options":     "nosniff",
		"Content-Security-Policy": "default-src 'none'; style-src '" + styleIn(t, a.body) +
			"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	} {
		if got := a.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, script := range []string{"<script", "onclick", "onload", "style=", "javascript:"} {
		if strings.Contains(strings.ReplaceAll(a.body, `<bdi>`, ""), script) {
			t.Errorf("the page has %s", script)
		}
	}
}

// J01, J03, H03: only the issuer's own page brings a handoff.
func TestJ01J03Arrival(t *testing.T) {
	k := newKit(t)
	const browser handoff.Check = "web.browser"
	for _, c := range []struct {
		name    string
		headers []string
		says    string
	}{
		{"another origin", with(sent(), "Origin", "https://evil.example"), "Origin"},
		{"another configured origin", with(sent(), "Origin", "https://third.example"), "Origin"},
		{"the origin of SERVER2", with(sent(), "Origin", k.web.URL), "Origin"},
		{"Origin null", with(sent(), "Origin", "null"), "Referrer-Policy: strict-origin"},
		{"no Origin", without(sent(), "Origin"), "Origin is missing"},
		{"Origin empty", with(sent(), "Origin", ""), "Origin"},
		{"Origin twice", sent("Origin", shop), "Origin is there twice"},
		{"Origin in capitals", with(sent(), "Origin", "https://SHOP.example"), "Origin"},
		{"Origin with a slash", with(sent(), "Origin", shop+"/"), "Origin"},
		{"Origin with a port", with(sent(), "Origin", shop+":443"), "Origin"},
		{"Origin over http", with(sent(), "Origin", "http://shop.example"), "Origin"},
		{"Origin of a sibling", with(sent(), "Origin", "https://x.shop.example"), "Origin"},
		{"two origins in one", with(sent(), "Origin", shop+" https://evil.example"), "Origin"},
		{"a page of nobody", with(sent(), "Sec-Fetch-Site", "none"), "Sec-Fetch-Site is none"},
		{"a fetch", with(sent(), "Sec-Fetch-Mode", "cors"), "Sec-Fetch-Mode"},
		{"no-cors", with(sent(), "Sec-Fetch-Mode", "no-cors"), "Sec-Fetch-Mode"},
		{"a frame", with(sent(), "Sec-Fetch-Dest", "iframe"), "Sec-Fetch-Dest"},
		{"Sec-Fetch-Dest twice", sent("Sec-Fetch-Dest", "document"), "Sec-Fetch-Dest"},
	} {
		a := k.ask(t, "POST", "/handoff", handoffForm(k.good(t).Compact()), c.headers...)
		a.wants(t, c.name, 403, "Nothing has happened.", c.says)
		k.reason(t, c.name, handoff.ReasonArgumentInvalid, browser)
		if len(a.Cookies()) != 0 {
			t.Errorf("%s: a cookie is set", c.name)
		}
	}
	// A browser without these headers is let pass, by its Origin.
	a := k.ask(t, "POST", "/handoff", handoffForm(k.good(t).Compact()), "Origin", shop, "Content-Type", formType)
	a.wants(t, "an old browser", 303)
}

// What a handoff can be refused for as it arrives, with its page.
func TestArrivalRefuses(t *testing.T) {
	k := newKit(t)
	foreign := k.good(t)
	foreign.Key = forge.NewKey(handoff.EdDSA)
	details := func(members ...forge.Member) forge.Token { return k.good(t).WithDetails(forge.Object(members)) }
	const payMethod = `["/handoff.server2.v1.InvoiceService/PayInvoice"]`
	for _, c := range []struct {
		name string
		raw  string
		code int
		want handoff.Reason
		says string
	}{
		{"nothing", "", 400, handoff.ReasonTokenInvalid, "not genuine"},
		{"no token", "x", 400, handoff.ReasonTokenInvalid, "not genuine"},
		{"markup", `"><script>alert(1)</script>`, 400, handoff.ReasonTokenInvalid, "not genuine"},
		{"another key", foreign.WithHeader("kid", forge.Quote(foreign.Key.Public.ID())).Compact(), 400, handoff.ReasonTokenInvalid, "not genuine"},
		{"too long", padded(t, k.good(t), 4097), 400, handoff.ReasonTokenInvalid, "not genuine"},
		{"J04 too large for a cookie", padded(t, k.good(t), 4042), 422, handoff.ReasonLimitExceeded, "too large"},
		{"expired", k.good(t).WithClaim("iat", "1").WithClaim("exp", "60").Compact(), 410, handoff.ReasonTokenExpired, "has expired"},
		{"another audience", k.good(t).WithClaim("aud", `"https://else.example"`).Compact(), 403, handoff.ReasonAudienceMismatch, "for another service"},
		{"an issuer whose users do not come by browser", k.good(t).WithClaim("iss", forge.Quote(other)).Compact(), 403, handoff.ReasonIssuerMismatch, "not trusted"},
		{"an issuer that nobody trusts", k.good(t).WithClaim("iss", `"https://evil.example"`).Compact(), 403, handoff.ReasonIssuerMismatch, "not trusted"},
		{"G17 bound to a client certificate", k.good(t).WithClaim("cnf", `{"x5t#S256":"`+strings.Repeat("A", 43)+`"}`).Compact(), 403, handoff.ReasonCertificateMismatch, "not for a browser"},
		{"a claim too many", k.good(t).WithClaim("x", "1").Compact(), 400, handoff.ReasonClaimsInvalid, "another form"},
		{
			"a digest only",
			details(forge.Member{Name: "type", Value: `"grpc_call"`}, forge.Member{Name: "actions", Value: payMethod}, forge.Member{Name: "fields_sha256", Value: forge.Quote(strings.Repeat("A", 43))}).Compact(),
			422, handoff.ReasonRequestUnbindable, "cannot be shown",
		},
		{
			"a method that is not there",
			details(forge.Member{Name: "type", Value: `"grpc_call"`}, forge.Member{Name: "actions", Value: `["/a.B/C"]`}, forge.Member{Name: "fields", Value: `{}`}).Compact(),
			403, handoff.ReasonRuleMissing, "cannot be handed off",
		},
		{
			"a method without a rule",
			details(forge.Member{Name: "type", Value: `"grpc_call"`}, forge.Member{Name: "actions", Value: `["/handoff.v1.HandoffService/IssueHandoff"]`}, forge.Member{Name: "fields", Value: `{}`}).Compact(),
			403, handoff.ReasonRuleMissing, "cannot be handed off",
		},
		{
			"a stream",
			details(forge.Member{Name: "type", Value: `"grpc_call"`}, forge.Member{Name: "actions", Value: `["/handoff.server2.v1.InvoiceService/ExportPayments"]`}, forge.Member{Name: "fields", Value: `{}`}).Compact(),
			422, handoff.ReasonRequestUnbindable, "cannot be shown",
		},
		{
			"a field that the request lacks",
			details(forge.Member{Name: "type", Value: `"grpc_call"`}, forge.Member{Name: "actions", Value: payMethod}, forge.Member{Name: "fields", Value: `{"tip":"1"}`}).Compact(),
			403, handoff.ReasonFieldMismatch, "does not fit",
		},
	} {
		a, set := k.arrive(t, c.raw)
		a.wants(t, c.name, c.code, c.says, "othing has happened.", `<a class="back" href="`+back)
		headers(t, a)
		e := k.reason(t, c.name, c.want, "")
		if set != nil {
			t.Errorf("%s: a cookie is set", c.name)
		}
		if len(c.raw) > 30 && (strings.Contains(a.body, c.raw) || strings.Contains(e.Refusal.Error(), c.raw)) {
			t.Errorf("%s: the token is shown", c.name)
		}
	}
	for _, c := range []struct {
		name             string
		revoked, storage error
		want             handoff.Reason
		code             int
	}{
		{"revoked", handoff.ErrRevoked, nil, handoff.ReasonTokenRevoked, 410},
		{"a stale list", errors.New("too old"), nil, handoff.ReasonTrustStale, 503},
	} {
		k.set(c.revoked, c.storage)
		a, _ := k.arrive(t, k.good(t).Compact())
		a.wants(t, c.name, c.code, "othing has happened.")
		k.reason(t, c.name, c.want, "")
		if (a.Header.Get("Retry-After") != "") != (c.code == 503) {
			t.Errorf("%s: Retry-After: %q", c.name, a.Header.Get("Retry-After"))
		}
	}
}

// J09: forms are bounded and answered, over HTTP/1.1 and HTTP/2.
func TestJ09Forms(t *testing.T) {
	k := newKit(t)
	raw := k.good(t).Compact()
	huge := "handoff=" + strings.Repeat("A", 1<<20)
	for _, protocol := range []string{"HTTP/2.0", "HTTP/1.1"} {
		if protocol == "HTTP/1.1" {
			transport := k.client.Transport.(*http.Transport).Clone()
			transport.ForceAttemptHTTP2, transport.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
			transport.Protocols = nil
			transport.TLSNextProto = nil
			k.client.Transport = transport
			t.Cleanup(transport.CloseIdleConnections)
		}
		for _, c := range []struct {
			name, body string
			headers    []string
			code       int
		}{
			{"good", handoffForm(raw), sent(), 303},
			{"with a charset", handoffForm(raw), with(sent(), "Content-Type", formType+"; charset=utf-8"), 303},
			{"no body", "", sent(), 404},
			{"no field", "a=b", sent(), 400},
			{"a field more", handoffForm(raw) + "&a=b", sent(), 400},
			{"the field twice", handoffForm(raw) + "&" + handoffForm(raw), sent(), 400},
			{"a semicolon", handoffForm(raw) + ";a=b", sent(), 400},
			{"bad escapes", "handoff=%zz", sent(), 400},
			{"multipart", "--x\r\nContent-Disposition: form-data; name=\"handoff\"\r\n\r\n" + raw + "\r\n--x--\r\n", with(sent(), "Content-Type", "multipart/form-data; boundary=x"), 400},
			{"plain text", "handoff=" + raw, with(sent(), "Content-Type", "text/plain"), 400},
			{"no type", handoffForm(raw), without(sent(), "Content-Type"), 400},
			{"two types", handoffForm(raw), sent("Content-Type", formType), 400},
			{"8 KiB", "handoff=" + strings.Repeat("A", 8<<10-8), sent(), 400},
			{"a megabyte", huge, sent(), 400},
		} {
			a := k.ask(t, "POST", "/handoff", c.body, c.headers...)
			a.wants(t, protocol+" "+c.name, c.code)
			if a.Proto != protocol {
				t.Fatalf("%s, want %s", a.Proto, protocol)
			}
		}
	}
}

// Other methods and addresses are answered, and do nothing.
func TestJ09Routes(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	for _, c := range []struct {
		method, path string
		code         int
		allow        string
	}{
		{"GET", "/handoff", 405, "POST"},
		{"HEAD", "/handoff", 405, "POST"},
		{"OPTIONS", "/handoff", 405, "POST"},
		{"PUT", "/handoff", 405, "POST"},
		{"OPTIONS", path, 405, "GET, HEAD, POST"},
		{"PUT", path, 405, "GET, HEAD, POST"},
		{"DELETE", path, 405, "GET, HEAD, POST"},
		{"TRACE", path, 405, "GET, HEAD, POST"},
		{"HEAD", path, 200, ""},
		{"GET", path + "?next=https://evil.example", 200, ""},
		{"GET", path + "/", 404, ""},
		{"GET", path + "/x", 404, ""},
		{"GET", path[:len(path)-1], 404, ""},
		{"GET", path + "A", 404, ""},
		{"GET", "/handoff/", 404, ""},
		{"POST", "/handoff/", 404, ""},
		{"GET", "/handoff/..%2f..%2fevil.example%2f%2f", 404, ""},
		{"GET", "/handoff//evil.example", 404, ""},
		{"GET", "/elsewhere", 404, ""},
	} {
		a := k.ask(t, c.method, c.path, "", append(without(k.here(), "Origin", "Content-Type"), cookie(held)...)...)
		a.wants(t, c.method+" "+c.path, c.code)
		if got := a.Header.Get("Allow"); got != c.allow {
			t.Errorf("%s %s: Allow: %q, want %q", c.method, c.path, got, c.allow)
		}
		if c.method == "HEAD" && a.body != "" {
			t.Errorf("HEAD %s has a body", c.path)
		}
		if a.Header.Get("Location") != "" || a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %v", c.method, c.path, a.Header)
		}
	}
	if k.invoices.payments() != 0 {
		t.Error("paid")
	}
}

// J02, J03, J05, H04: only the confirm page confirms, and the answer leads nowhere
// else.
func TestJ02J05Confirmation(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	for _, c := range []struct {
		name    string
		headers []string
	}{
		{"the issuer's page", with(with(k.here(), "Origin", shop), "Sec-Fetch-Site", "cross-site")},
		{"the issuer's page, in a browser that says only its Origin", without(with(k.here(), "Origin", shop), "Sec-Fetch-Site")},
		{"an attacker's page", with(with(k.here(), "Origin", "https://evil.example"), "Sec-Fetch-Site", "cross-site")},
		{"a sibling", with(with(k.here(), "Origin", "https://x.billing.example"), "Sec-Fetch-Site", "same-site")},
		{"Origin null", with(k.here(), "Origin", "null")},
		{"Origin null, and nothing else", []string{"Origin", "null", "Content-Type", formType}},
		{"Origin twice", k.here("Origin", shop)},
		{"no header that says where from", []string{"Content-Type", formType}},
		{"the same host over http, in a browser that says only its Origin", without(with(k.here(), "Origin", strings.Replace(k.web.URL, "https", "http", 1)), "Sec-Fetch-Site")},
		{"a fetch on the origin", with(with(k.here(), "Sec-Fetch-Mode", "cors"), "Sec-Fetch-Dest", "empty")},
		{"a fetch without CORS", with(with(k.here(), "Sec-Fetch-Mode", "no-cors"), "Sec-Fetch-Dest", "empty")},
		{"a frame", with(k.here(), "Sec-Fetch-Dest", "iframe")},
		{"an object", with(k.here(), "Sec-Fetch-Dest", "object")},
	} {
		a := k.ask(t, "POST", path, proven(held, ""), append(c.headers, cookie(held)...)...)
		a.wants(t, c.name, 403, "Nothing has happened.")
		k.reason(t, c.name, handoff.ReasonArgumentInvalid, "web.browser")
	}
	for name, headers := range map[string][]string{
		"a frame":    {"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Mode", "navigate"},
		"a fetch":    {"Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "cors"},
		"a prefetch": {"Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "no-cors", "Sec-Purpose", "prefetch"},
		"an image":   {"Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors"},
	} {
		a := k.ask(t, "GET", path, "", append(headers, cookie(held)...)...)
		a.wants(t, "looked at by "+name, 403)
		if strings.Contains(a.body, "INV-42") {
			t.Errorf("%s sees the handoff", name)
		}
	}
	if k.invoices.payments() != 0 {
		t.Fatal("paid")
	}
	// J05: no parameter leads anywhere.
	a := k.ask(t, "POST", path+"?return=https://evil.example&next=//evil.example", proven(held, ""), k.here(cookie(held)...)...)
	a.wants(t, "with an address", 303)
	if a.Header.Get("Location") != path {
		t.Errorf("Location: %s", a.Header.Get("Location"))
	}
	told := k.ask(t, "GET", path+"?return=https://evil.example", "", cookie(a.Cookies()[0])...)
	told.wants(t, "the outcome", 200, "Done.")
	if strings.Contains(told.body, "evil.example") {
		t.Error("the page leads elsewhere")
	}
}

// J06: a form that a script on this very origin posts, from a page without these pages'
// headers, confirms nothing: it lacks what only the page shows.
func TestJ06OnlyThePageConfirms(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	_, another := k.opened(t)
	proof := strings.TrimPrefix(proven(held, ""), "handoff-confirm=")
	for name, body := range map[string]string{
		"no field": "", "another field": "memo=x", "an empty one": "handoff-confirm=", "that of another handoff": proven(another, ""),
		"the id": "handoff-confirm=" + idIn(path), "its beginning": "handoff-confirm=" + proof[:42], "in capitals": "handoff-confirm=" + strings.ToUpper(proof),
		"the digest of the token alone": "handoff-confirm=" + digest(held.Value), "padded": "handoff-confirm=" + proof + "%3D",
	} {
		a := k.ask(t, "POST", path, body, k.here(cookie(held)...)...)
		a.wants(t, name, 403, "did not come the right way", "Nothing has happened.")
		k.reason(t, name, handoff.ReasonArgumentInvalid, "web.browser")
		headers(t, a)
	}
	k.ask(t, "POST", path, proven(held, "")+"&"+proven(held, ""), k.here(cookie(held)...)...).wants(t, "twice", 400, "Nothing has happened.")
	if k.invoices.payments() != 0 {
		t.Fatal("paid")
	}
	page := k.ask(t, "GET", path, "", cookie(held)...)
	page.wants(t, "the page", 200, `<input type="hidden" name="handoff-confirm" value="`+proof+`">`)
	k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...).wants(t, "the page's own form", 303)
}

// J06: pages of an adopter's whose form would be refused, or would show the field to
// another address, stop the start.
func TestJ06TemplatesHaveTheProof(t *testing.T) {
	const form = `<form method="post" action="{{.Action}}">`
	for name, c := range map[string]struct {
		confirm string
		good    bool
	}{
		"in its form":            {form + `{{range .Inputs}}<input name="{{.Path}}">{{end}}{{.Proof}}<button>{{.Confirm}}</button></form>`, true},
		"in the second form":     {`<form action="/x"></form>` + form + `{{.Proof}}</form>`, true},
		"forgotten":              {form + `<button>{{.Confirm}}</button></form>`, false},
		"outside of the form":    {form + `</form>{{.Proof}}`, false},
		"before the form":        {`{{.Proof}}` + form + `</form>`, false},
		"in another form":        {form + `</form><form action="https://evil.example">{{.Proof}}</form>`, false},
		"twice":                  {form + `{{.Proof}}{{.Proof}}</form>`, false},
		"only where it has rows": {form + `{{if .Rows}}{{.Proof}}{{end}}</form>`, false},
		"only without inputs":    {form + `{{if not .Inputs}}{{.Proof}}{{end}}</form>`, false},
		"in an attribute":        {form + `<input value="{{.Proof}}"></form>`, false},
		"in a comment":           {form + `<!-- {{.Proof}} --></form>`, false},
		"as text":                {form + `<textarea>{{.Proof}}</textarea></form>`, false},
		"not posted":             {`<form action="{{.Action}}">{{.Proof}}</form>`, false},
		"got":                    {`<form method="get" action="{{.Action}}">{{.Proof}}</form>`, false},
		"to another address":     {`<form method="post" action="/x" id="{{.Action}}">{{.Proof}}</form>`, false},
	} {
		templates := template.Must(template.New("").Parse(`{{define "confirm"}}` + c.confirm + `{{end}}{{define "outcome"}}{{.Text}}{{end}}{{define "refused"}}{{.Text}}{{end}}`))
		verifier, err := handoff.NewVerifier(handoff.VerifierConfig{Audience: billing, Issuers: map[string]handoff.KeySource{shop: &kit{}}, Store: &kit{}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = handoffweb.NewLanding(handoffweb.LandingConfig{
			Verifier: verifier, Server: noServer{}, From: map[string]handoffweb.Origin{shop: {Origin: shop, Return: back}},
			Pages: &handoffweb.Pages{Templates: templates},
		})
		var refused *handoff.ConfigError
		if (err == nil) != c.good || err != nil && (!errors.As(err, &refused) || refused.Field != "handoffweb.LandingConfig.Pages" || !strings.Contains(err.Error(), "{{.Proof}}")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A page that comes to lack the field only later is an error, and offers nothing.
func TestJ06AnAdoptersPageAtWork(t *testing.T) {
	templates := template.Must(template.New("").Parse(`{{define "confirm"}}<form method="post" action="{{.Action}}">{{if ne .Subject "user-1"}}{{.Proof}}{{end}}</form>{{end}}` +
		`{{define "outcome"}}{{.Text}}{{end}}{{define "refused"}}{{.Text}}{{end}}`))
	k := newKit(t, func(c *handoffweb.LandingConfig) { c.Pages = &handoffweb.Pages{Templates: templates} })
	path, held := k.opened(t)
	a := k.ask(t, "GET", path, "", cookie(held)...)
	a.wants(t, "the page", 500, "cannot be shown")
	if e := k.events.last(); e.Refusal == nil || strings.Contains(a.body, "<form") {
		t.Errorf("%+v\n%s", e, a.body)
	}
}

// J04, H05: the browser's cookies.
func TestJ04H05Cookies(t *testing.T) {
	k := newKit(t)
	// The longest: 4,078 bytes of name and value.
	_, longest := k.arrive(t, padded(t, k.good(t), 4041))
	if longest == nil || len(longest.Name)+len(longest.Value) != 4078 {
		t.Fatalf("the longest token is not kept: %v", longest)
	}
	path, held := k.opened(t)
	name, done := held.Name, strings.Replace(held.Name, "-handoff-", "-handoff-done-", 1)
	for _, c := range []struct {
		name, cookies string
		code          int
		want          handoff.Reason
	}{
		{"none", "a=b", 404, handoff.ReasonTokenMissing},
		{"under another name", "handoff=" + held.Value, 404, handoff.ReasonTokenMissing},
		{"without the prefix", strings.TrimPrefix(name, "__Host-") + "=" + held.Value, 404, handoff.ReasonTokenMissing},
		{"in capitals", strings.ToUpper(name) + "=" + held.Value, 404, handoff.ReasonTokenMissing},
		{"twice", name + "=" + held.Value + "; " + name + "=" + held.Value, 400, handoff.ReasonTokenInvalid},
		{"another handoff's", name + "=" + longest.Value, 400, handoff.ReasonTokenInvalid},
		{"empty", name + "=", 400, handoff.ReasonTokenInvalid},
		{"garbage", name + "=x", 400, handoff.ReasonTokenInvalid},
		{"a garbled outcome", done + "=~x", 400, handoff.ReasonTokenInvalid},
		{"an outcome of no state", done + "=e30", 400, handoff.ReasonTokenInvalid},
		{"two outcomes", done + "=e30; " + done + "=e30", 400, handoff.ReasonTokenInvalid},
	} {
		for _, method := range []string{"GET", "POST"} {
			a := k.ask(t, method, path, "", append(k.here(), "Cookie", c.cookies)...)
			a.wants(t, method+" with a cookie "+c.name, c.code)
			k.reason(t, c.name, c.want, "")
		}
	}
	if k.invoices.payments() != 0 {
		t.Fatal("paid")
	}

	// Four are open; a fifth is refused as its page is asked for, and forgotten. An arrival
	// brings no cookies.
	var jar, paths []string
	for range 5 {
		a, c := k.arrive(t, k.good(t).Compact())
		if c == nil {
			t.Fatal(a.body)
		}
		jar, paths = append(jar, c.Name+"="+c.Value), append(paths, a.Header.Get("Location"))
	}
	fifth := k.ask(t, "GET", paths[4], "", "Cookie", strings.Join(jar, "; "))
	fifth.wants(t, "a fifth", 429, "Too many requests are open", "Nothing has happened.")
	k.reason(t, "a fifth", handoff.ReasonLimitExceeded, "web.pending")
	if gone := fifth.Cookies(); len(gone) != 1 || gone[0].MaxAge >= 0 || !strings.HasPrefix(jar[4], gone[0].Name+"=") || fifth.Header.Get("Retry-After") == "" {
		t.Errorf("a fifth: cookies %v, Retry-After %q", gone, fifth.Header.Get("Retry-After"))
	}
	for _, path := range paths[:4] {
		k.ask(t, "GET", path, "", "Cookie", strings.Join(jar[:4], "; ")).wants(t, "one of four", 200)
	}
}

// The outcomes that a browser remembers are few, and the oldest goes first.
func TestOutcomesAreForgotten(t *testing.T) {
	k := newKit(t)
	var jar []string
	for i := range 6 {
		a, c := k.arrive(t, k.good(t).Compact())
		done := k.ask(t, "POST", a.Header.Get("Location"), proven(c, ""), k.here("Cookie", strings.Join(append(jar, c.Name+"="+c.Value), "; "))...)
		done.wants(t, "the confirmation", 303)
		for _, gone := range done.Cookies() {
			if gone.MaxAge < 0 {
				jar = slices.DeleteFunc(jar, func(s string) bool { return strings.HasPrefix(s, gone.Name+"=") })
			}
		}
		jar = append(jar, done.Cookies()[0].Name+"="+done.Cookies()[0].Value)
		if len(jar) != min(i+1, 4) {
			t.Fatalf("%d outcomes after %d handoffs", len(jar), i+1)
		}
	}
}

// What the guard or the handler answers, and what the person reads.
func TestConfirmationOutcomes(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  func(*kit)
		handler error
		code    int
		says    []string
		retry   bool
		payable bool // the same page works later
	}{
		{name: "revoked while reading", before: func(k *kit) { k.set(handoff.ErrRevoked, nil) }, code: 410, says: []string{"taken back", "Unless you confirmed it before, nothing has happened."}},
		{name: "expired while reading", before: func(k *kit) { k.clock.pass(61 * time.Second) }, code: 410, says: []string{"has expired", "Unless you confirmed it before, nothing has happened."}},
		{name: "a stale list", before: func(k *kit) { k.set(errors.New("old"), nil) }, code: 503, says: []string{"at the moment", "Unless you confirmed it before, nothing has happened.", "Try again"}, retry: true, payable: true},
		{name: "no store", before: func(k *kit) { k.set(nil, errDown) }, code: 503, says: []string{"at the moment", "Unless you confirmed it before, nothing has happened.", "Try again"}, retry: true, payable: true},
		{name: "a full store", before: func(k *kit) { k.set(nil, handoff.ErrStoreFull) }, code: 503, says: []string{"too much to do", "Unless you confirmed it before, nothing has happened."}, retry: true, payable: true},
		{name: "replayed", before: func(k *kit) { k.set(nil, handoff.ErrReplayed) }, code: 303, says: []string{"used before. Look whether"}},
		{name: "issued before the start", before: func(k *kit) { k.set(nil, handoff.ErrIssuedBeforeStart) }, code: 303, says: []string{"Look whether it was carried out"}},
		{name: "not her invoice", handler: status.Error(codes.NotFound, "the user has no such invoice"), code: 303, says: []string{"Nothing has happened.", "declined"}},
		{name: "a handler that fails", handler: errors.New("open /etc/secret: no"), code: 503, says: []string{"not known what happened", "It may have been carried out.", "not carried out twice"}, retry: true},
		{name: "a handler whose answer is too large, or that has used up a quota", handler: status.Error(codes.ResourceExhausted, "x"), code: 503, says: []string{"not known what happened"}, retry: true},
		{name: "a handler that is cut off", handler: status.Error(codes.Unavailable, "x"), code: 503, says: []string{"not known what happened"}, retry: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t)
			path, held := k.opened(t)
			if c.before != nil {
				c.before(k)
			}
			k.invoices.err = c.handler
			a := k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...)
			if c.code == 303 {
				a.wants(t, "the confirmation", 303)
				if a.Header.Get("Location") != path {
					t.Errorf("Location %s", a.Header.Get("Location"))
				}
				a = k.ask(t, "GET", path, "", cookie(a.Cookies()[0])...)
				a.wants(t, "the outcome", 200, c.says...)
			} else {
				a.wants(t, "the confirmation", c.code, c.says...)
			}
			headers(t, a)
			if (a.Header.Get("Retry-After") != "") != c.retry {
				t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
			}
			if !strings.Contains(a.body, `href="`+back+idIn(path)+`"`) {
				t.Errorf("no way back:\n%s", a.body)
			}
			if strings.Contains(a.body, "secret") {
				t.Error("the handler's text is shown")
			}
			if k.invoices.payments() != 0 {
				t.Error("paid")
			}
			k.set(nil, nil)
			if c.payable {
				k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...).wants(t, "later", 303)
				if k.invoices.payments() != 1 {
					t.Error("the page does not work later")
				}
			}
		})
	}
}

func idIn(path string) string { return strings.TrimPrefix(path, "/handoff/") }

// J02: a double click runs once, and both see the outcome.
func TestJ02DoubleClick(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	k.invoices.hold = make(chan struct{})
	var clicks sync.WaitGroup
	answers := make([]answer, 3)
	for i := range answers {
		clicks.Go(func() { answers[i] = k.ask(t, "POST", path, proven(held, "memo=x"), k.here(cookie(held)...)...) })
	}
	time.Sleep(50 * time.Millisecond)
	close(k.invoices.hold)
	clicks.Wait()
	for _, a := range answers {
		a.wants(t, "a click", 303)
		k.ask(t, "GET", path, "", cookie(a.Cookies()[0])...).wants(t, "the outcome", 200, "Done.")
	}
	if k.invoices.payments() != 1 {
		t.Errorf("%d payments", k.invoices.payments())
	}
}

// The call goes on when the browser has left, and the next confirmation waits for
// it.
func TestJ02TheBrowserLeaves(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	k.invoices.hold = make(chan struct{})
	impatient := *k.client
	impatient.Timeout = 50 * time.Millisecond
	r, _ := http.NewRequestWithContext(t.Context(), "POST", k.web.URL+path, strings.NewReader(proven(held, "")))
	for i, h := 0, k.here(cookie(held)...); i < len(h); i += 2 {
		r.Header.Set(h[i], h[i+1])
	}
	if response, err := impatient.Do(r); err == nil {
		response.Body.Close()
		t.Fatal("answered")
	}
	time.AfterFunc(50*time.Millisecond, func() { close(k.invoices.hold) })
	a := k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...)
	a.wants(t, "the second click", 303)
	k.ask(t, "GET", path, "", cookie(a.Cookies()[0])...).wants(t, "the outcome", 200, "Done.")
	if k.invoices.payments() != 1 {
		t.Errorf("%d payments", k.invoices.payments())
	}
}

// Free fields are inputs; nothing else can be set from the page.
func TestInputs(t *testing.T) {
	k := newKit(t)
	path, held := k.opened(t)
	for body, code := range map[string]int{
		"invoice_id=INV-43":                 400,
		"memo=a&memo=b":                     400,
		"amount.minor_units=1":              400,
		"memo=a&invoice_id=INV-42":          400,
		"memo=" + strings.Repeat("x", 9000): 400,
		"memo=%FF":                          400,
	} {
		k.ask(t, "POST", path, proven(held, body), k.here(cookie(held)...)...).wants(t, body[:min(len(body), 30)], code)
	}
	if k.invoices.payments() != 0 {
		t.Fatal("paid")
	}
	k.ask(t, "POST", path, proven(held, "memo=%3Cb%3E+%26"), k.here(cookie(held)...)...).wants(t, "a memo", 303)
	if got := k.invoices.paid[0].GetMemo(); got != "<b> &" {
		t.Errorf("memo %q", got)
	}
}

// What was signed is shown as it is: no markup, nothing invisible.
func TestSignedValuesAreShown(t *testing.T) {
	k := newKit(t)
	token := k.good(t)
	hostile := "</dd><script>alert(1)</script>\u202eEUR\u200b\nTotal: 1"
	token = token.WithDetails(forge.Object{
		{Name: "type", Value: `"grpc_call"`},
		{Name: "actions", Value: "[" + forge.Quote(server2v1.InvoiceService_PayInvoice_FullMethodName) + "]"},
		{Name: "fields", Value: `{"invoice_id":` + forge.Quote(hostile) + `}`},
	})
	a, held := k.arrive(t, token.Compact())
	a.wants(t, "arrival", 303)
	page := k.ask(t, "GET", a.Header.Get("Location"), "", cookie(held)...)
	page.wants(t, "the page", 200, `<bdi>&lt;/dd&gt;&lt;script&gt;alert(1)&lt;/script&gt;\u{202E}EUR\u{200B}\u{A}Total: 1</bdi>`)
	headers(t, page)
}

// An adopter's words and pages.
func TestDescribe(t *testing.T) {
	k := newKit(t, func(c *handoffweb.LandingConfig) {
		c.Describe = func(call handoffweb.Call) handoffweb.Words {
			req := call.Request.(*server2v1.PayInvoiceRequest)
			words := handoffweb.Words{Title: "Pay " + req.GetInvoiceId(), Confirm: "Pay now", Rows: []handoffweb.Row{{Name: "To pay", Value: "12.00 EUR"}}}
			if response, ok := call.Response.(*server2v1.PayInvoiceResponse); ok {
				words.Outcome = "Payment " + response.GetPayment().GetPaymentId() + "\u202e"
			}
			return words
		}
	})
	path, held := k.opened(t)
	k.ask(t, "GET", path, "", cookie(held)...).wants(t, "the page", 200, "<h1>Pay INV-42</h1>", "<button>Pay now</button>",
		"<dt>To pay</dt><dd><bdi>12.00 EUR</bdi></dd>", "Exactly what was signed", "<dt>Request id</dt>")
	a := k.ask(t, "POST", path, proven(held, ""), k.here(cookie(held)...)...)
	k.ask(t, "GET", path, "", cookie(a.Cookies()[0])...).wants(t, "the outcome", 200, `Payment P-1\u{202E}`)
}

func TestNewLandingRefuses(t *testing.T) {
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{shop: &kit{}}, Store: &kit{},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := func() handoffweb.LandingConfig {
		return handoffweb.LandingConfig{
			Verifier: verifier, Server: noServer{},
			From: map[string]handoffweb.Origin{shop: {Origin: shop, Return: back}},
		}
	}
	from := func(origin, back string) func(*handoffweb.LandingConfig) {
		return func(c *handoffweb.LandingConfig) {
			c.From = map[string]handoffweb.Origin{shop: {Origin: origin, Return: back}}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*handoffweb.LandingConfig)
		field  string
	}{
		{"good", func(*handoffweb.LandingConfig) {}, ""},
		{"a query to return to", from(shop, shop+"/back?handoff="), ""},
		{"no verifier", func(c *handoffweb.LandingConfig) { c.Verifier = nil }, "Verifier"},
		{"no server", func(c *handoffweb.LandingConfig) { c.Server = nil }, "Server"},
		{"nobody", func(c *handoffweb.LandingConfig) { c.From = nil }, "From"},
		{"no origin", from("", back), "Origin"},
		{"an origin with a path", from(shop+"/", back), "Origin"},
		{"plain http", from("http://shop.example", back), "Origin"},
		{"no way back", from(shop, ""), "Return"},
		{"a way back without path", from(shop, shop), "Return"},
		{"a way back over http", from(shop, "http://shop.example/"), "Return"},
		{"a way back that is relative", from(shop, "/orders/"), "Return"},
		{"a script", from(shop, "javascript:alert(1)//"), "Return"},
		{"a user", from(shop, "https://u@shop.example/"), "Return"},
		{"no templates", func(c *handoffweb.LandingConfig) { c.Pages = &handoffweb.Pages{Templates: emptyTemplates()} }, "Pages"},
	} {
		config := good()
		c.change(&config)
		landing, err := handoffweb.NewLanding(config)
		if (err == nil) != (c.field == "") || (landing == nil) != (err != nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v does not name %s", c.name, err, c.field)
		}
	}
}
