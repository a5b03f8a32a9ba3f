package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/browser"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// visit returns a visit that lasts for so long; zero: as long as SERVER1 gives.
func (u *user) visit(t *testing.T, lifetime time.Duration) *handoffv1.IssueVisitResponse {
	t.Helper()
	request := &handoffv1.IssueVisitRequest{Audience: pair.Audience}
	if lifetime > 0 {
		request.Lifetime = durationpb.New(lifetime)
	}
	visit, err := u.Handoffs.IssueVisit(t.Context(), request, pair.Session(u.session))
	if err != nil {
		t.Fatal(err)
	}
	return visit
}

// until waits until an audience makes this of a token, for up to so long, and returns how
// long it took.
func (u *user) until(t *testing.T, audience int, token string, want handoff.Reason, most time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for reason := u.use(t.Context(), audience, token); reason != want; reason = u.use(t.Context(), audience, token) {
		if time.Since(began) > most {
			t.Fatalf("audience %d, after %s: %s, want %s", audience, time.Since(began), reason, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// A visit reads all that its user may see, for as long as it lasts, at an audience that
// holds nothing of it: not through a restart, and not while SERVER1 is gone. It ends within
// a second of what ends it, and pays nothing.
func TestVisit(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{Audiences: 2, Visits: time.Hour, Server2: []string{"--max-staleness", "5s"}})
	alice := signIn(t, p, "alice")
	visit := alice.visit(t, 0)
	if left := time.Until(visit.GetExpireTime().AsTime()); left < 14*time.Minute || left > 15*time.Minute {
		t.Errorf("a visit lasts %s", left)
	}
	token := handoffgrpc.Token(visit.GetToken())
	for audience := range alice.audiences {
		alice.until(t, audience, visit.GetToken(), 0, 10*time.Second)
	}
	for _, id := range []string{"INV-42", "INV-44"} {
		response, err := alice.Invoices.GetInvoice(t.Context(), &server2v1.GetInvoiceRequest{InvoiceId: id}, token)
		if err != nil || response.GetInvoice().GetInvoiceId() != id {
			t.Errorf("%s: %v, %v", id, response, err)
		}
	}
	if _, err := alice.Export(t.Context(), visit.GetToken(), &server2v1.ExportPaymentsRequest{}); err != nil {
		t.Error(err)
	}
	_, err := alice.Invoices.PayInvoice(t.Context(), &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: pair.NewRequestID(),
	}, token)
	if handoffgrpc.ReasonOf(err) != handoff.ReasonMethodMismatch {
		t.Errorf("paying with a visit: %v", err)
	}

	short := alice.visit(t, 2*time.Second)
	alice.until(t, 0, short.GetToken(), 0, time.Second)
	alice.until(t, 0, short.GetToken(), handoff.ReasonTokenExpired, 10*time.Second)

	revoked := alice.visit(t, 0)
	if _, err := alice.Handoffs.RevokeHandoff(t.Context(), &handoffv1.RevokeHandoffRequest{HandoffId: revoked.GetVisitId()}, pair.Session(alice.session)); err != nil {
		t.Fatal(err)
	}
	for audience := range alice.audiences {
		alice.until(t, audience, revoked.GetToken(), handoff.ReasonTokenRevoked, time.Second)
	}

	// SERVER2 restarts: nothing of the visit was in its memory.
	if err := p.Audiences[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.StartServer2(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	restarted := signIn(t, p, "alice")
	restarted.until(t, 0, visit.GetToken(), 0, 20*time.Second)
	restarted.until(t, 0, revoked.GetToken(), handoff.ReasonTokenRevoked, time.Second)

	// Signing out ends the session's visit within a second, and the other session's not.
	other := restarted.visit(t, 0)
	if _, err := alice.Sessions.SignOut(t.Context(), &server1v1.SignOutRequest{}, pair.Session(alice.session)); err != nil {
		t.Fatal(err)
	}
	for audience := range restarted.audiences {
		took := restarted.until(t, audience, visit.GetToken(), handoff.ReasonTokenRevoked, time.Second)
		t.Logf("audience %d refuses %s after the sign-out", audience, took.Round(time.Millisecond))
		if reason := restarted.use(t.Context(), audience, other.GetToken()); reason != 0 {
			t.Errorf("audience %d: the other session's visit: %s", audience, reason)
		}
	}

	// SERVER1 is gone: the visit goes on until the list is stale.
	if err := p.Server1.Kill(); err != nil {
		t.Fatal(err)
	}
	if reason := restarted.use(t.Context(), 0, other.GetToken()); reason != 0 {
		t.Errorf("just after SERVER1 was killed: %s", reason)
	}
	took := restarted.until(t, 0, other.GetToken(), handoff.ReasonTrustStale, 10*time.Second)
	t.Logf("refused %s after SERVER1 was killed", took.Round(time.Millisecond))
	if err := p.StartServer1(t.Context()); err != nil {
		t.Fatal(err)
	}
	restarted.until(t, 0, other.GetToken(), 0, 10*time.Second)
}

// fetch is a script's, in the page.
func (a *person) fetch(page *browser.Page, method, path string) *browser.Answer {
	a.Helper()
	answer, err := page.Fetch(a.Context(), method, path)
	if err != nil {
		a.Fatal(err)
	}
	return answer
}

// H01: a person opens billing from the shop. No address, log or answer has the visit, and
// signing out at the shop ends it at billing within a second; a handoff that is pending
// beside it still pays.
func TestH01OpenBilling(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{Visits: time.Hour, Server1: []string{"--log-level", "debug"}, Server2: []string{"--log-level", "debug"}})
	a := newPerson(t, p, "alice")
	sent := a.must(a.orders.Submit(t.Context(), "Open billing.localhost"))
	token := tokenInForm.FindStringSubmatch(sent.Body)[1]
	app := a.must(sent.Submit(t.Context(), "Continue"))
	if app.URL.Path != "/app/" || !slices.Contains(a.browser.Cookies("billing.localhost"), "__Host-visit") {
		t.Fatalf("at %s with %q", app.URL, a.browser.Cookies("billing.localhost"))
	}
	told := a.fetch(app, http.MethodGet, "/visit")
	if told.Status != http.StatusOK || !strings.Contains(told.Body, `"subject":"`+p.Users["alice"].ID+`"`) || !strings.Contains(told.Body, `"renew":"`+p.Shop()+`/visit"`) {
		t.Errorf("%d %s", told.Status, told.Body)
	}
	if foreign := a.fetch(a.orders, http.MethodGet, p.Billing()+"/visit"); foreign.Status != http.StatusForbidden || strings.Contains(foreign.Body, "subject") {
		t.Errorf("the shop's script is told %d %s", foreign.Status, foreign.Body)
	}

	_, confirm := a.click("INV-42")
	a.want(a.must(confirm.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-42 is paid")

	// Renewed by a navigation through the shop, where the person is still signed in.
	renew := a.must(a.browser.Open(t.Context(), p.Shop()+"/visit"))
	renewed := a.must(renew.Submit(t.Context(), "Open billing.localhost"))
	again := tokenInForm.FindStringSubmatch(renewed.Body)[1]
	app = a.must(renewed.Submit(t.Context(), "Continue"))
	if again == token || a.fetch(app, http.MethodGet, "/visit").Status != http.StatusOK {
		t.Error("the visit was not renewed")
	}
	a.must(a.orders.Submit(t.Context(), "Sign out"))
	began := time.Now()
	for a.fetch(app, http.MethodGet, "/visit").Status == http.StatusOK {
		if time.Since(began) > time.Second {
			t.Fatal("a second after the sign-out, the visit goes on")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("signed out %s after the shop's answer", time.Since(began).Round(time.Millisecond))
	if gone := a.browser.Cookies("billing.localhost"); slices.Contains(gone, "__Host-visit") {
		t.Errorf("the browser keeps %q", gone)
	}

	for _, visited := range slices.Concat(sent.Visited, app.Visited, renewed.Visited) {
		if strings.Contains(visited, "eyJ") {
			t.Errorf("an address has a token: %s", visited)
		}
	}
	for _, process := range slices.Concat(p.Issuers, p.Audiences) {
		log, err := os.ReadFile(process.Log)
		if err != nil || len(log) == 0 || strings.Contains(string(log), "eyJ") {
			t.Errorf("%s: %v, a log of %d bytes, with a token: %t", process.Name, err, len(log), strings.Contains(string(log), "eyJ"))
		}
	}
}

// called is what a call of the app's is answered.
type called struct {
	status int
	text   string
	reason string // of google.rpc.ErrorInfo; empty: none
}

// call is a unary call by a script of the page. headers are what no browser would send
// so.
func (a *person) call(page *browser.Page, method, message string, headers map[string]string) called {
	a.Helper()
	response, err := page.Call(a.Context(), "/rpc"+method, "application/json", message, headers)
	if err != nil {
		a.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		a.Fatal(err)
	}
	if strings.Contains(string(text), "eyJ") || response.Header.Get("Access-Control-Allow-Origin") != "" {
		a.Errorf("%s: answered with a token, or for other origins: %v", method, response.Header)
	}
	return called{response.StatusCode, string(text), reasonIn(text)}
}

// reasonIn returns the reason of an error of the Connect protocol's.
func reasonIn(text []byte) string {
	type failure struct {
		Details []struct{ Debug struct{ Reason string } }
	}
	var answer struct {
		failure
		Error failure // at the end of a stream
	}
	_ = json.Unmarshal(text, &answer)
	for _, detail := range append(answer.Details, answer.Error.Details...) {
		if detail.Debug.Reason != "" {
			return detail.Debug.Reason
		}
	}
	return ""
}

// frames are the messages of a stream of the Connect protocol, and its end.
type frames struct{ io.ReadCloser }

func (f frames) next(t *testing.T) (ends bool, text []byte) {
	t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		t.Fatal(err)
	}
	text = make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(f, text); err != nil {
		t.Fatal(err)
	}
	return head[0]&2 != 0, text
}

// J07, J06: the app's calls between the real processes. It reads, and sees a payment as it
// is made; it pays nothing; and signing out at the shop ends its stream and refuses its
// next call.
func TestJ07J06TheAppsCalls(t *testing.T) {
	p := trusting(t, pair.Config{Visits: time.Hour})
	a := newPerson(t, p, "alice")
	app := a.must(a.must(a.orders.Submit(t.Context(), "Open billing.localhost")).Submit(t.Context(), "Continue"))
	const list, export, pays = server2v1.InvoiceService_ListInvoices_FullMethodName, server2v1.InvoiceService_ExportPayments_FullMethodName, server2v1.InvoiceService_PayInvoice_FullMethodName
	if got := a.call(app, list, `{}`, nil); got.status != http.StatusOK || !strings.Contains(got.text, `"INV-42"`) || strings.Contains(got.text, `"INV-43"`) {
		t.Errorf("her invoices: %+v", got)
	}
	for name, c := range map[string]struct {
		method  string
		headers map[string]string
		status  int
		reason  handoff.Reason
	}{
		"a call that pays":             {pays, nil, http.StatusForbidden, handoff.ReasonMethodMismatch},
		"with Authorization as well":   {list, map[string]string{"Authorization": "Bearer x.y.z"}, http.StatusUnauthorized, handoff.ReasonTokenInvalid},
		"with Authorization only":      {list, map[string]string{"Authorization": "Bearer x.y.z", "Cookie": ""}, http.StatusUnauthorized, handoff.ReasonTokenInvalid},
		"without its cookie":           {list, map[string]string{"Cookie": ""}, http.StatusUnauthorized, handoff.ReasonTokenMissing},
		"by another origin":            {list, map[string]string{"Origin": "https://evil.localhost", "Sec-Fetch-Site": "cross-site"}, http.StatusBadRequest, handoff.ReasonArgumentInvalid},
		"by another origin that lies":  {list, map[string]string{"Origin": "https://evil.localhost", "Sec-Fetch-Site": ""}, http.StatusBadRequest, handoff.ReasonArgumentInvalid},
		"by a sibling":                 {list, map[string]string{"Origin": "https://x.billing.localhost", "Sec-Fetch-Site": "same-site"}, http.StatusBadRequest, handoff.ReasonArgumentInvalid},
		"as a form":                    {list, map[string]string{"Content-Type": "text/plain"}, http.StatusBadRequest, handoff.ReasonArgumentInvalid},
		"of a method that has no rule": {"/grpc.health.v1.Health/Check", nil, http.StatusForbidden, handoff.ReasonRuleMissing},
	} {
		if got := a.call(app, c.method, `{}`, c.headers); got.status != c.status || got.reason != c.reason.String() {
			t.Errorf("%s: %+v, want %d %s", name, got, c.status, c.reason)
		}
	}
	shops, err := a.orders.Call(t.Context(), p.Billing()+"/rpc"+list, "application/json", `{}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	shops.Body.Close()
	if shops.StatusCode != http.StatusBadRequest {
		t.Errorf("a script of the shop's: %d", shops.StatusCode)
	}

	const follow = `{"follow":true}`
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(follow))), follow...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, first := a.click("INV-46") // the answer begins with the first payment
	a.want(a.must(first.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-46 is paid")
	response, err := app.Call(ctx, "/rpc"+export, "application/connect+json", string(message), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	stream := frames{response.Body}
	_, confirm := a.click("INV-44")
	a.want(a.must(confirm.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-44 is paid")
	for seen := false; !seen; {
		ends, text := stream.next(t)
		if ends {
			t.Fatalf("the stream has ended: %s", text)
		}
		seen = strings.Contains(string(text), `"INV-44"`)
	}
	a.must(a.orders.Submit(t.Context(), "Sign out"))
	began := time.Now()
	ends, text := stream.next(t)
	for ; !ends; ends, text = stream.next(t) {
	}
	t.Logf("the stream ended %s after the shop's answer", time.Since(began).Round(time.Millisecond))
	if reason := reasonIn(text); reason != handoff.ReasonTokenRevoked.String() {
		t.Errorf("the stream's end: %s", text)
	}
	if got := a.call(app, list, `{}`, nil); got.status != http.StatusUnauthorized || got.reason != handoff.ReasonTokenRevoked.String() {
		t.Errorf("the next call: %+v", got)
	}
}
