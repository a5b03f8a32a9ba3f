// Package app is SERVER2's single-page app: a visitor's invoices, and their payments as
// they are made. It holds no secret and decides nothing: it calls this server by
// handoffweb/rpc, with the visit that no script can read.
//
//	mux.Handle("/app/", app.Handler())
//
// dist/ is made from src/ and from proto/ by `make app`, and is committed, so that Go
// suffices to build the server.
//
// # Invariants
//
// No inline script, style or handler, nothing from another origin, and no text that is
// parsed as HTML: the Content-Security-Policy forbids each, and Trusted Types have no
// policy. The app writes nothing and pays nothing: a payment begins at SERVER1, and is
// confirmed on its page.
package app

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"strconv"
)

//go:embed dist
var dist embed.FS

// policy is the Content-Security-Policy of the app's page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'none'; form-action 'none'; " +
	"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// file is one of the app's files, as it is sent.
type file struct {
	kind, tag string
	body      []byte
}

// Handler returns the app: its page at /app/, and the two files that it loads.
func Handler() http.Handler {
	files := map[string]file{}
	for path, of := range map[string]struct{ name, kind string }{
		"/app/":        {"index.html", "text/html; charset=utf-8"},
		"/app/app.js":  {"app.js", "text/javascript; charset=utf-8"},
		"/app/app.css": {"app.css", "text/css; charset=utf-8"},
	} {
		body, err := dist.ReadFile("dist/" + of.name)
		if err != nil { // the compiler has embedded it
			panic(err)
		}
		sum := sha256.Sum256(body)
		files[path] = file{of.kind, `"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`, body}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin-allow-popups") // not the confirm page's own: a window with that page is out of reach
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache") // ask, by the tag, whether it is still the same
		found, ok := files[r.URL.Path]
		switch {
		case !ok:
			http.Error(w, "There is no such page.", http.StatusNotFound)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "This cannot be done here.", http.StatusMethodNotAllowed)
		case r.Header.Get("If-None-Match") == found.tag:
			h.Set("ETag", found.tag)
			w.WriteHeader(http.StatusNotModified)
		default:
			h.Set("ETag", found.tag)
			h.Set("Content-Type", found.kind)
			h.Set("Content-Length", strconv.Itoa(len(found.body)))
			_, _ = w.Write(found.body) // who has gone needs none
		}
	})
}
