package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/scripts/internal/browser"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
)

// person is somebody with a browser, who is signed in at the shop.
type person struct {
	*testing.T
	browser *browser.Browser
	orders  *browser.Page
}

func newPerson(t *testing.T, p *pair.Pair, name string) *person {
	t.Helper()
	b, err := p.Browser()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	a := &person{T: t, browser: b}
	page := a.must(b.Open(t.Context(), p.Shop()))
	a.orders = a.must(page.Submit(t.Context(), "Sign in", "user_name", name, "password", pair.Password))
	a.want(a.orders, http.StatusOK, "Signed in as "+name)
	return a
}

func (a *person) must(page *browser.Page, err error) *browser.Page {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
	return page
}

func (a *person) want(page *browser.Page, status int, text string) {
	a.Helper()
	if page.Status != status || !strings.Contains(page.Text(), text) {
		a.Errorf("%s: got %d, want %d with %q: %s", page.URL.Path, page.Status, status, text, page.Text())
	}
}

// click clicks on "Pay", and returns the shop's page that sends and billing's page that asks.
func (a *person) click(order string) (sent, confirm *browser.Page) {
	a.Helper()
	sent = a.must(a.orders.Submit(a.Context(), "Pay at billing.localhost: "+order))
	return sent, a.must(sent.Submit(a.Context(), "Continue"))
}

var tokenInForm = regexp.MustCompile(`name="handoff" value="([^"]+)"`)

// H01: every order that the shop offers can be paid at billing, and afterwards no log, no
// address and no Referer has a token, a session or a password.
func TestH01EveryOrderByBrowser(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{Server1: []string{"--log-level", "debug"}, Server2: []string{"--log-level", "debug"}})
	secrets := map[string]string{"the password": pair.Password, "any token": "eyJ"}
	var visited []string
	paid := 0
	for _, name := range []string{"alice", "bob"} {
		a := newPerson(t, p, name)
		for _, order := range regexp.MustCompile(`INV-\d+/pay`).FindAllString(a.orders.Body, -1) {
			order = strings.TrimSuffix(order, "/pay")
			sent, confirm := a.click(order)
			secrets["the token of "+order] = tokenInForm.FindStringSubmatch(sent.Body)[1]
			outcome := a.must(confirm.Submit(t.Context(), "Pay "))
			a.want(outcome, http.StatusOK, "Invoice "+order+" is paid")
			back := a.must(outcome.Click(t.Context(), "Back to"))
			a.want(back, http.StatusOK, "Back from billing.localhost")
			for _, page := range []*browser.Page{sent, confirm, outcome, back} {
				visited = append(visited, page.Visited...)
			}
			paid++
		}
		for host, value := range a.browser.Values() {
			secrets["a cookie of "+host] = value
		}
	}
	if paid != 8 {
		t.Errorf("%d orders were paid, want 8", paid)
	}
	for _, process := range slices.Concat(p.Issuers, p.Audiences) {
		log, err := os.ReadFile(process.Log)
		if err != nil || len(log) == 0 {
			t.Fatalf("%s: %v, a log of %d bytes", process.Name, err, len(log))
		}
		for what, secret := range secrets {
			if strings.Contains(string(log), secret) {
				t.Errorf("%s's log has %s", process.Name, what)
			}
		}
	}
	for _, address := range visited {
		for what, secret := range secrets {
			if strings.Contains(address, secret) {
				t.Errorf("an address has %s: %s", what, address)
			}
		}
	}
}

// J02: two tabs with a handoff each, in any order; a tab that is opened again; and what
// the pages do while SERVER1 is gone.
func TestJ02Tabs(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{})
	a := newPerson(t, p, "alice")
	_, one := a.click("INV-42")
	_, two := a.click("INV-44")
	a.want(one, http.StatusOK, "Pay invoice INV-42: 12.00 EUR")
	a.want(two, http.StatusOK, "Pay invoice INV-44: 5.00 EUR")
	a.want(a.must(two.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-44 is paid")
	a.want(a.must(a.browser.Open(t.Context(), one.URL.String())), http.StatusOK, "Pay invoice INV-42: 12.00 EUR")
	a.want(a.must(one.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-42 is paid")
	a.want(a.must(two.Reload(t.Context())), http.StatusOK, "Invoice INV-44 is paid")

	// The same order by another handoff pays nothing more.
	_, again := a.click("INV-42")
	a.want(a.must(again.Submit(t.Context(), "Pay ")), http.StatusOK, "not again")

	_, open := a.click("INV-46")
	if err := p.Server1.Stop(); err != nil {
		t.Fatal(err)
	}
	a.want(a.must(open.Submit(t.Context(), "Pay ")), http.StatusOK, "Invoice INV-46 is paid")
	if err := p.StartServer1(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// J01, J03: what other sites can have somebody's browser do at either service.
func TestJ01OtherSites(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{})
	a, mallory := newPerson(t, p, "alice"), newPerson(t, p, "bob")
	theirs, _ := mallory.click("INV-45")
	cookies := fmt.Sprint(a.browser.Cookies("billing.localhost"))
	for _, evil := range []string{"https://evil.localhost", "https://shop.localhost", "https://billing.localhost", p.Billing(), "http" + strings.TrimPrefix(p.Shop(), "https")} {
		planted := a.must(theirs.From(evil)).In(a.browser)
		a.want(a.must(planted.Submit(t.Context(), "Continue")), http.StatusForbidden, "Nothing has happened")
	}
	planted := theirs.In(a.browser)
	for _, header := range []string{"null", "", "https://shop.localhost.evil.localhost"} {
		page := a.must(planted.SubmitForged(t.Context(), map[string]string{"Origin": header}, "Continue"))
		a.want(page, http.StatusForbidden, "Nothing has happened")
	}
	if got := fmt.Sprint(a.browser.Cookies("billing.localhost")); got != cookies {
		t.Errorf("a handoff was planted: %s", got)
	}
	_, confirm := a.click("INV-47")
	for _, evil := range []string{"https://evil.localhost", p.Shop()} {
		page := a.must(a.must(confirm.From(evil)).Submit(t.Context(), "Pay "))
		if page.Status != http.StatusForbidden {
			t.Errorf("%s confirms: %d %s", evil, page.Status, page.Text())
		}
		page = a.must(a.must(a.orders.From(evil)).Submit(t.Context(), "Pay at billing.localhost: INV-47"))
		if evil != p.Shop() && page.Status != http.StatusForbidden {
			t.Errorf("%s clicks: %d %s", evil, page.Status, page.Text())
		}
	}
	a.want(a.must(confirm.Reload(t.Context())), http.StatusOK, "Pay invoice INV-47")
}

// What `make run` prints is a shop that somebody can sign in to.
func wantShop(ctx context.Context, t *testing.T, printed string) {
	t.Helper()
	shop := regexp.MustCompile(`https://shop\.localhost:(\d+)`).FindStringSubmatch(printed)
	ca := regexp.MustCompile(`\S*ca\.pem`).FindString(printed)
	if shop == nil || ca == "" {
		t.Fatalf("no shop, or no authority:\n%s", printed)
	}
	b, err := browser.New(ca, map[string]string{"shop.localhost:" + shop[1]: "127.0.0.1:" + shop[1]})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	page, err := b.Open(ctx, shop[0])
	if err == nil {
		page, err = page.Submit(ctx, "Sign in", "user_name", "alice", "password", pair.Password)
	}
	if err != nil || page.Title() != "Your orders" {
		t.Errorf("signing in at the shop: %v, %+v", err, page)
	}
}
