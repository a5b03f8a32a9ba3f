package browser

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// jar is the cookies, by host and name.
type jar map[string]map[string]kept

type kept struct {
	value  string
	strict bool      // SameSite=Strict
	ends   time.Time // zero: when the browser is closed
}

// maxCookie is the longest name and value that Chromium and Firefox keep, with the
// attributes that this project's cookies have. They drop a longer cookie silently.
const maxCookie = 4078

// take keeps the cookies of an answer that a browser would keep.
func (j jar) take(host string, lines []string, now time.Time) {
	for _, line := range lines {
		c, err := http.ParseSetCookie(line)
		if err != nil || len(c.Name)+len(c.Value) > maxCookie || c.Domain != "" {
			continue
		}
		if strings.HasPrefix(c.Name, "__Host-") && (!c.Secure || c.Path != "/") {
			continue
		}
		if j[host] == nil {
			j[host] = map[string]kept{}
		}
		k := kept{value: c.Value, strict: c.SameSite == http.SameSiteStrictMode}
		switch {
		case c.MaxAge < 0:
			delete(j[host], c.Name)
			continue
		case c.MaxAge > 0:
			k.ends = now.Add(time.Duration(c.MaxAge) * time.Second)
		}
		j[host][c.Name] = k
	}
}

// of returns the Cookie header for a host. Without lax, the request is a form from
// another site, and takes none: all of these are Lax, by default at least.
func (j jar) of(host string, lax bool, now time.Time) string {
	if !lax {
		return ""
	}
	var pairs []string
	for _, name := range j.names(host, now) {
		if !j[host][name].strict {
			pairs = append(pairs, name+"="+j[host][name].value)
		}
	}
	return strings.Join(pairs, "; ")
}

// names returns the names of a host's cookies, in order.
func (j jar) names(host string, now time.Time) []string {
	var names []string
	for name, k := range j[host] {
		if k.ends.IsZero() || now.Before(k.ends) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
