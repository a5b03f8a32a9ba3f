package app

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func ask(t *testing.T, method, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

// J06: no page of the app runs anything but its own file, posts a form, is framed, or
// parses text as HTML; and the page has nothing that the policy forbids.
func TestJ06Policy(t *testing.T) {
	for _, path := range []string{"/app/", "/app/app.js", "/app/app.css", "/app/none"} {
		h := ask(t, "GET", path).Header()
		for name, want := range map[string]string{
			"Content-Security-Policy":      policy,
			"Cross-Origin-Opener-Policy":   "same-origin-allow-popups",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "same-origin",
			"X-Content-Type-Options":       "nosniff",
		} {
			if got := h.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Error(policy)
	}
	page := ask(t, "GET", "/app/").Body.String()
	if found := regexp.MustCompile(`<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:|https?:`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, loaded := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if w := ask(t, "GET", loaded[1]); w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d", loaded[1], w.Code)
		}
	}
	if found := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`).FindString(ask(t, "GET", "/app/app.js").Body.String()); found != "" {
		t.Errorf("the script has %s", found)
	}
}

func TestHandler(t *testing.T) {
	w := ask(t, "GET", "/app/")
	tag := w.Header().Get("ETag")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" || tag == "" || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask(t, "GET", "/app/", "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("unchanged: %d", w.Code)
	}
	for path, want := range map[string]int{"/app/none": 404, "/app/../app/": 404, "/app/dist/app.js": 404, "/app/app.js/": 404, "/app": 404} {
		if w := ask(t, "GET", path); w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := ask(t, "POST", "/app/"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", w.Code)
	}
}
