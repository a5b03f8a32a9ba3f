package trust

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
)

// F09: what a URL can do wrong.
func TestF09URL(t *testing.T) {
	trustKey, key := forge.NewKey(handoff.EdDSA), newSigner()
	good := goodList(trustKey, time.Now(), key.Key()).Compact()
	endless := func(w http.ResponseWriter) {
		block := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	redirected := false
	answers := map[string]func(w http.ResponseWriter, r *http.Request){
		"/good":     func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, good) },
		"/redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/target", http.StatusFound) },
		"/target":   func(w http.ResponseWriter, r *http.Request) { redirected = true; io.WriteString(w, good) },
		"/404":      http.NotFound,
		"/204":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
		"/206":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(206); io.WriteString(w, good) },
		"/304":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) },
		"/500":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); io.WriteString(w, good) },
		"/empty":    func(w http.ResponseWriter, r *http.Request) {},
		"/endless":  func(w http.ResponseWriter, r *http.Request) { endless(w) },
		"/truncated": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(good)))
			io.WriteString(w, good[:len(good)/2])
			panic(http.ErrAbortHandler)
		},
		"/gzip": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				t.Error("compressed lists are asked for")
			}
			io.WriteString(w, good)
		},
	}
	web, roots := serveHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers[r.URL.Path](w, r) }))
	enough := errors.New("enough")
	for path := range answers {
		feed, err := NewHTTPSFeed(web.URL+path, roots, 0)
		if err != nil {
			t.Fatal(err)
		}
		delivered := ""
		err = feed.Follow(t.Context(), "", func(raw string, _ Fetch) error {
			delivered = raw
			return enough
		})
		switch path {
		case "/good", "/target", "/gzip":
			if delivered != good {
				t.Errorf("control %s: %v", path, err)
			}
			redirected = false
		case "/empty":
			if delivered != "" || !errors.Is(err, enough) {
				t.Errorf("%s: %v", path, err)
			}
		case "/endless":
			if len(delivered) != profile.MaxLength+1 {
				t.Errorf("%s: read %d bytes", path, len(delivered))
			}
		default:
			if delivered != "" || err == nil || redirected {
				t.Errorf("%s: delivered %d bytes, %v", path, len(delivered), err)
			}
		}
	}
	for _, bad := range []string{
		"", "http://shop.example/t", "http://127.0.0.1/t", "https:///t", "https://u:p@shop.example/t",
		"https://shop.example/t#x", "ftp://shop.example/t", "shop.example", "https://shop.example:x/t",
	} {
		if _, err := NewHTTPSFeed(bad, nil, 0); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	stranger, err := NewHTTPSFeed(web.URL+"/good", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Follow(t.Context(), "", func(string, Fetch) error { return nil }); err == nil {
		t.Error("a server that no root vouches for is read")
	}
}

// The URL is asked with the last ETag, and says no more than 304 until there is
// something new.
func TestConditionalGet(t *testing.T) {
	lists := []string{"one", "two"}
	var asked []string
	web, roots := serveHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("If-None-Match"))
		n := min(len(asked)/3, 1)
		w.Header().Set("ETag", `"`+lists[n]+`"`)
		if r.Header.Get("If-None-Match") == `"`+lists[n]+`"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, lists[n])
	}))
	feed, err := NewHTTPSFeed(web.URL, roots, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var delivered []string
	_ = feed.Follow(ctx, "", func(raw string, _ Fetch) error {
		delivered = append(delivered, raw)
		if len(delivered) == 2 {
			cancel()
		}
		return nil
	})
	if strings.Join(delivered, " ") != "one two" || strings.Join(asked, " ") != ` "one" "one"` {
		t.Errorf("delivered %q, asked %q", delivered, asked)
	}
}

func TestFileFeed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trust.jwt")
	feed, err := NewFileFeed(path, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	take := func(n int, then func(i int)) (delivered []string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err = feed.Follow(ctx, "", func(raw string, _ Fetch) error {
			delivered = append(delivered, raw)
			if len(delivered) == n {
				return enough
			}
			then(len(delivered))
			return nil
		})
		return delivered, err
	}
	if got, err := take(1, nil); !errors.Is(err, os.ErrNotExist) || got != nil {
		t.Errorf("no file: %q %v", got, err)
	}
	if err := replaceFile(path, "one", 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := take(3, func(i int) {
		if err := replaceFile(path, []string{"", "two", "six\n"}[i], 0o644); err != nil {
			t.Error(err)
		}
	})
	if strings.Join(got, " ") != "one two six" || !errors.Is(err, enough) {
		t.Errorf("read %q, %v", got, err)
	}
	if got, err := take(2, func(int) { os.Remove(path) }); len(got) != 1 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file goes: %q, %v", got, err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := take(1, nil); err == nil || got != nil {
		t.Errorf("a folder: %q, %v", got, err)
	}
	if _, err := NewFileFeed("", 0); err == nil {
		t.Error("no name is accepted")
	}
	if _, err := NewFileFeed(path, time.Millisecond); err == nil {
		t.Error("a poll of 1 ms is accepted")
	}
}

func TestStreamFeedRefuses(t *testing.T) {
	if _, err := NewStreamFeed("passthrough:///shop"); err == nil {
		t.Error("no credentials are accepted")
	}
}
