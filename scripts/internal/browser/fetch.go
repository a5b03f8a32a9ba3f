package browser

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is what a script is given.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Call is fetch() of a script that makes a call by the Connect protocol. Its answer is
// open: a stream is read as it comes. headers are what no browser would send so; one
// that is empty is left out. The answer's body must be closed.
func (p *Page) Call(ctx context.Context, path, kind, body string, headers map[string]string) (*http.Response, error) {
	to, err := p.URL.Parse(path)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	h, site := request.Header, siteOf(p, to)
	for name, value := range map[string]string{
		"Sec-Fetch-Site": site.String(), "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Origin": origin(p.URL), "Content-Type": kind,
		"Cookie": p.browser.cookies.of(to.Hostname(), site < crossSite, time.Now()),
	} {
		h.Set(name, value)
	}
	for name, value := range headers {
		h.Set(name, value)
	}
	for name := range h {
		if h.Get(name) == "" {
			h.Del(name)
		}
	}
	client := *p.browser.client
	client.Timeout = 0 // a stream stays open: ctx ends it
	return client.Do(request)
}

// Fetch is fetch() of a script in the page, with credentials: 'include'. The script can
// neither say where it comes from nor see the cookies that go with it. What another origin
// answers is returned as well, though a browser would keep it from the script.
func (p *Page) Fetch(ctx context.Context, method, path string) (*Answer, error) {
	to, err := p.URL.Parse(path)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, to.String(), strings.NewReader(""))
	if err != nil {
		return nil, err
	}
	h, b := request.Header, p.browser
	site := siteOf(p, to)
	h.Set("Sec-Fetch-Site", site.String())
	h.Set("Sec-Fetch-Mode", "cors")
	h.Set("Sec-Fetch-Dest", "empty")
	if method != http.MethodGet || site != sameOrigin {
		h.Set("Origin", origin(p.URL))
	}
	if cookies := b.cookies.of(to.Hostname(), site < crossSite, time.Now()); cookies != "" {
		h.Set("Cookie", cookies)
	}
	response, err := b.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	b.cookies.take(to.Hostname(), response.Header.Values("Set-Cookie"), time.Now())
	return &Answer{response.StatusCode, response.Header, string(body)}, err
}
