package browser

import (
	"net/http"
	"net/url"
)

// relation is how the page that a request comes from stands to where it goes
// (Sec-Fetch-Site), the nearest first.
type relation int

const (
	typed relation = iota
	sameOrigin
	sameSite
	crossSite
)

func (r relation) String() string {
	return [...]string{"none", "same-origin", "same-site", "cross-site"}[r]
}

// siteOf compares a page with an address. Hosts are sites of their own: all are
// something.localhost, and what is directly beneath a top-level domain is.
func siteOf(from *Page, to *url.URL) relation {
	switch {
	case from == nil:
		return typed
	case origin(from.URL) == origin(to):
		return sameOrigin
	case from.URL.Scheme == to.Scheme && from.URL.Hostname() == to.Hostname():
		return sameSite
	}
	return crossSite
}

// origin is an address's origin as browsers write it.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// policy is the page's Referrer-Policy.
func (p *Page) policy() string {
	if policy := p.Header.Get("Referrer-Policy"); policy != "" {
		return policy
	}
	return "strict-origin-when-cross-origin"
}

// originOf is the Origin of a form that is sent: where it comes from, unless that page's
// policy forbids to say it (Fetch, "append a request Origin header").
func originOf(n navigation) string {
	if n.from == nil {
		return "null"
	}
	switch n.from.policy() {
	case "no-referrer":
		return "null"
	case "same-origin":
		if siteOf(n.from, n.url) != sameOrigin {
			return "null"
		}
	}
	return origin(n.from.URL)
}

// setReferrer sets the Referer that the page's policy allows.
func setReferrer(h http.Header, n navigation) {
	if n.from == nil {
		return
	}
	same := siteOf(n.from, n.url) == sameOrigin
	whole := *n.from.URL
	whole.Fragment = ""
	switch policy := n.from.policy(); {
	case policy == "no-referrer", policy == "same-origin" && !same:
	case policy == "strict-origin", !same:
		h.Set("Referer", origin(n.from.URL)+"/")
	default:
		h.Set("Referer", whole.String())
	}
}
