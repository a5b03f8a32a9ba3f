package pages

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/grants"
	"github.com/handoff-auth/handoff/server1/internal/issue"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
)

// What the pages do is tried in package main, over TLS and with everything real; here
// is what happens when something is wrong.

const password = "correct horse"

const paid = `{"audiences": {"https://billing.example": {"target": "billing.example:443", "web": "https://billing.example",
	"methods": {"/handoff.server2.v1.InvoiceService/PayInvoice": {"roles": ["payer"]}}}}}`

// bench is pages with their database and their log.
type bench struct {
	*Site
	db  *database.DB
	log *strings.Builder
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{log: &strings.Builder{}}
	var err error
	if b.db, err = database.Open(t.Context(), filepath.Join(t.TempDir(), "server1.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	log, record := slog.New(slog.NewTextHandler(b.log, nil)), audit.New(io.Discard)
	keeper, err := session.NewKeeper(session.KeeperConfig{DB: b.db, Idle: time.Hour, Lifetime: time.Hour, Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(paid), 0o600); err != nil {
		t.Fatal(err)
	}
	users := account.NewDirectory(b.db, account.NewHasher(), time.Now)
	if _, err := users.Add(t.Context(), "alice", []string{"payer"}, password); err != nil {
		t.Fatal(err)
	}
	sessions, err := session.NewService(session.ServiceConfig{Keeper: keeper, Users: users, Attempts: 1000, Record: record})
	if err != nil {
		t.Fatal(err)
	}
	permitted, err := policy.Load(file, rule.Linked(), policy.Limits{Handoff: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	handoffs, err := issue.NewService(issue.Config{
		Issuer: &handoff.Issuer{}, Lifetime: time.Minute, Policy: permitted, DB: b.db, Quota: 1000, MaxVisits: 50, Record: record, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	granted, err := grants.NewService(grants.Config{DB: b.db, Policy: permitted, Most: 1, Longest: time.Hour, Record: record, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	b.Site, err = New(Config{
		Keeper: keeper, Sessions: sessions, Handoffs: handoffs, Grants: granted, DB: b.db, Log: log, Now: time.Now,
		Policy: permitted,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask sends one request over HTTP/1.1.
func (b *bench) ask(t *testing.T, method, path, cookie string, form url.Values) (*http.Response, string) {
	t.Helper()
	server := httptest.NewServer(b.Site)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Cookie", cookie)
	request.Header.Set("Sec-Fetch-Site", "same-origin")
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := (&http.Transport{}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// A database that does not answer is the shop's fault, and no session is given up for it.
func TestPagesWithoutDatabase(t *testing.T) {
	b := newBench(t)
	signedIn, _ := b.ask(t, http.MethodPost, "/sign-in", "", url.Values{"user_name": {"alice"}, "password": {password}})
	if signedIn.StatusCode != http.StatusSeeOther {
		t.Fatal(signedIn.Status)
	}
	cookie := signedIn.Cookies()[0].Name + "=" + signedIn.Cookies()[0].Value
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		form         url.Values
		status       int
	}{
		{http.MethodGet, "/orders", nil, http.StatusServiceUnavailable},
		{http.MethodGet, "/orders/AAAAAAAAAAAAAAAAAAAAAA", nil, http.StatusServiceUnavailable},
		{http.MethodPost, "/orders/INV-42/pay", url.Values{"audience": {"https://billing.example"}}, http.StatusServiceUnavailable},
		{http.MethodPost, "/sign-out", nil, http.StatusServiceUnavailable},
		{http.MethodPost, "/sign-in", url.Values{"user_name": {"alice"}, "password": {password}}, http.StatusServiceUnavailable},
		{http.MethodGet, "/sign-in", nil, http.StatusOK},
		{http.MethodGet, "/nothing", nil, http.StatusNotFound},
	} {
		response, body := b.ask(t, c.method, c.path, cookie, c.form)
		if response.StatusCode != c.status || len(response.Cookies()) > 0 {
			t.Errorf("%s %s: %d with cookies %v, want %d", c.method, c.path, response.StatusCode, response.Cookies(), c.status)
		}
		if strings.Contains(body, "closed") || c.status == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: Retry-After %q\n%s", c.method, c.path, response.Header.Get("Retry-After"), body)
		}
	}
	if !strings.Contains(b.log.String(), "closed") || strings.Contains(b.log.String(), signedIn.Cookies()[0].Value) {
		t.Errorf("the log lacks the cause, or has the session:\n%s", b.log)
	}
}

// A page that panics is one answer, and the next request is served.
func TestPagePanics(t *testing.T) {
	b := newBench(t)
	b.config.Keeper = nil
	response, body := b.ask(t, http.MethodGet, "/orders", cookieName+"=x", nil)
	if response.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "Something went wrong here") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	if !strings.Contains(b.log.String(), "recovered from a panic") {
		t.Errorf("the log: %s", b.log)
	}
	if response, _ := b.ask(t, http.MethodGet, "/sign-in", "", nil); response.StatusCode != http.StatusOK {
		t.Error(response.Status)
	}
}

func TestNewRefuses(t *testing.T) {
	good := newBench(t).config
	for field, change := range map[string]func(*Config){
		"Keeper":   func(c *Config) { c.Keeper = nil },
		"Sessions": func(c *Config) { c.Sessions = nil },
		"Handoffs": func(c *Config) { c.Handoffs = nil },
		"Policy":   func(c *Config) { c.Policy = nil },
		"DB":       func(c *Config) { c.DB = nil },
		"Log":      func(c *Config) { c.Log = nil },
		"Now":      func(c *Config) { c.Now = nil },
	} {
		broken := good
		change(&broken)
		if _, err := New(broken); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

// H02, J05: any wanted page leads to one of the pages' own paths.
func FuzzWanted(f *testing.F) {
	for _, text := range []string{"", "/orders", "//evil.example", "/orders/AAAAAAAAAAAAAAAAAAAAAA", "/orders/..//evil.example", "/orders/AAAAAAAAAAAAAAAAAAAAAA\n"} {
		f.Add(text)
	}
	own := regexp.MustCompile(`\A/orders(/[A-Za-z0-9_-]{22})?\z`)
	f.Fuzz(func(t *testing.T, text string) {
		if got := wanted(text); !own.MatchString(got) || got != text && got != ordersPath {
			t.Errorf("%q leads to %q", text, got)
		}
	})
}

// Each order has a request id of its own, for each user.
func TestRequestIDs(t *testing.T) {
	orders, err := readOrders()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name, all := range orders {
		for _, o := range all {
			for _, user := range []string{name, name + "2"} {
				id := o.payment(user).GetRequestId()
				if seen[id] {
					t.Errorf("%s of %s has another's request id", o.ID, user)
				}
				seen[id] = true
			}
			if o.ID == "" || o.What == "" || o.MinorUnits <= 0 || len(o.CurrencyCode) != 3 {
				t.Errorf("%+v", o)
			}
		}
	}
}

// A database that is lost in the middle may have done what was asked for: no page says
// that it has not.
func TestALostDatabaseIsNotNothing(t *testing.T) {
	told := explain(answer.Refused(handoff.ReasonIssuerUnavailable, errors.New("lost while committing")))
	if told.status != http.StatusServiceUnavailable || strings.Contains(told.text, "Nothing was done") {
		t.Errorf("%d %s", told.status, told.text)
	}
}
