// Package browser is a client that behaves towards servers as a person's browser does:
// it keeps cookies by their rules, follows redirects, sends forms as they stand in
// pages, and says in Origin, Referer and Sec-Fetch-* where a request comes from. It runs
// no scripts, so that what works here works without them.
//
//	b, err := browser.New(ca, map[string]string{"shop.localhost:8443": "127.0.0.1:8443"})
//	page, err := b.Open(ctx, "https://shop.localhost:8443/orders")
//	page, err = page.Submit(ctx, "Sign in", "user_name", "alice", "password", "…")
//
// It follows the Fetch standard and RFC 6265bis as far as this project's pages need
// them: all cookies are for one host.
package browser

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// Browser is one person's browser, with one cookie jar. It is for one goroutine.
type Browser struct {
	client  *http.Client
	cookies jar
}

// New returns a browser that trusts the authority in the file ca, and reaches each
// host:port where hosts says; any other it resolves.
func New(ca string, hosts map[string]string) (*Browser, error) {
	roots, err := vetted.File{Path: ca, Max: 1 << 20}.Roots()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if to, ok := hosts[address]; ok {
				address = to
			}
			return dialer.DialContext(ctx, network, address)
		},
	}
	return &Browser{cookies: jar{}, client: &http.Client{
		Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes the browser's connections.
func (b *Browser) Close() { b.client.CloseIdleConnections() }

// Cookies returns the names of the cookies that the browser has of a host.
func (b *Browser) Cookies(host string) []string { return b.cookies.names(host, time.Now()) }

// Values returns the values of all cookies, by host and name.
func (b *Browser) Values() map[string]string {
	all := map[string]string{}
	for host, cookies := range b.cookies {
		for name, k := range cookies {
			all[host+" "+name] = k.value
		}
	}
	return all
}

// Page is what stands in a tab.
type Page struct {
	URL    *url.URL
	Status int
	Header http.Header
	Body   string
	// Visited are the addresses that led here, redirects included, the page's own last.
	Visited []string

	browser *Browser
	asked   navigation // for Reload
}

// navigation is what a tab is told to load.
type navigation struct {
	method string
	url    *url.URL
	body   string
	from   *Page             // nil: the address was typed
	forged map[string]string // headers that no browser would send so; empty: left out
}

// Open loads an address that somebody has typed.
func (b *Browser) Open(ctx context.Context, address string) (*Page, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	return b.navigate(ctx, navigation{method: http.MethodGet, url: u})
}

// Reload loads a page's address again, as the reload button and the way Back do with a
// page that is not to be kept.
func (p *Page) Reload(ctx context.Context) (*Page, error) {
	return p.browser.navigate(ctx, navigation{method: http.MethodGet, url: p.URL, from: p.asked.from})
}

// Click follows the page's link that shows the text.
func (p *Page) Click(ctx context.Context, text string) (*Page, error) {
	href, err := p.link(text)
	if err != nil {
		return nil, err
	}
	return p.browser.navigate(ctx, navigation{method: http.MethodGet, url: p.URL.ResolveReference(href), from: p})
}

// Submit presses the page's first button whose text begins so, after filling fields of its form:
// names and values in turn.
func (p *Page) Submit(ctx context.Context, button string, fields ...string) (*Page, error) {
	return p.SubmitForged(ctx, nil, button, fields...)
}

// SubmitForged is Submit with headers that the browser would not send so; one that is
// empty is left out.
func (p *Page) SubmitForged(ctx context.Context, headers map[string]string, button string, fields ...string) (*Page, error) {
	form, err := p.form(button)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(fields); i += 2 {
		if !form.values.Has(fields[i]) {
			return nil, fmt.Errorf("the form of %q has no field %q", button, fields[i])
		}
		form.values.Set(fields[i], fields[i+1])
	}
	to := p.URL.ResolveReference(form.action)
	next := navigation{method: form.method, url: to, from: p, forged: headers}
	if form.method == http.MethodPost {
		next.body = form.values.Encode()
	}
	return p.browser.navigate(ctx, next)
}

// From returns a page of another site with the same forms: what an attacker would lead
// somebody to.
func (p *Page) From(address string) (*Page, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	forged := *p
	forged.Body = strings.ReplaceAll(p.Body, `action="/`, `action="`+origin(p.URL)+`/`)
	forged.URL, forged.Header = u, http.Header{}
	return &forged, nil
}

// In returns the page as it stands in another browser that was led to it.
func (p *Page) In(b *Browser) *Page {
	led := *p
	led.browser = b
	return &led
}

const maxRedirects = 10

// navigate loads what it is told to, and where that leads.
func (b *Browser) navigate(ctx context.Context, n navigation) (*Page, error) {
	site := siteOf(n.from, n.url)
	var visited []string
	for range maxRedirects {
		visited = append(visited, n.url.String())
		response, body, err := b.send(ctx, n, site)
		if err != nil {
			return nil, err
		}
		location := response.Header.Get("Location")
		if response.StatusCode < 300 || response.StatusCode > 399 || location == "" {
			return &Page{
				URL: n.url, Status: response.StatusCode, Header: response.Header, Body: body, Visited: visited, browser: b, asked: n,
			}, nil
		}
		to, err := n.url.Parse(location)
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusSeeOther {
			return nil, fmt.Errorf("%s redirects with %s, which sends a form on", n.url, response.Status)
		}
		// What comes from elsewhere stays so, however it is redirected.
		site = max(site, siteOf(&Page{URL: n.url}, to))
		n.method, n.url, n.body, n.forged = http.MethodGet, to, "", nil
	}
	return nil, errors.New("too many redirects")
}

// send makes one request.
func (b *Browser) send(ctx context.Context, n navigation, site relation) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, n.method, n.url.String(), strings.NewReader(n.body))
	if err != nil {
		return nil, "", err
	}
	h := request.Header
	h.Set("Sec-Fetch-Site", site.String())
	h.Set("Sec-Fetch-Mode", "navigate")
	h.Set("Sec-Fetch-Dest", "document")
	h.Set("Sec-Fetch-User", "?1")
	h.Set("Accept", "text/html")
	setReferrer(h, n)
	if n.method == http.MethodPost {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
		h.Set("Origin", originOf(n))
	}
	lax := n.method != http.MethodPost || site < crossSite
	if cookies := b.cookies.of(n.url.Hostname(), lax, time.Now()); cookies != "" {
		h.Set("Cookie", cookies)
	}
	for name, value := range n.forged {
		h.Del(name)
		if value != "" {
			h.Set(name, value)
		}
	}
	response, err := b.client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	b.cookies.take(n.url.Hostname(), response.Header.Values("Set-Cookie"), time.Now())
	return response, string(body), err
}
