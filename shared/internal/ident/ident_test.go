package ident_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/ident"
)

func TestName(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		want := c > ' ' && c < 0x7f && c != '"' && c != '\\'
		if got := ident.Name("a" + string([]byte{byte(c)})); got != want {
			t.Errorf("%q: %t, want %t", byte(c), got, want)
		}
	}
	for length, want := range map[int]bool{0: false, 1: true, 255: true, 256: false} {
		if got := ident.Name(strings.Repeat("x", length)); got != want {
			t.Errorf("%d bytes: %t, want %t", length, got, want)
		}
	}
}

// Each text of 22 bytes is an id exactly when it decodes and is what encoding gives again.
func TestID(t *testing.T) {
	t.Parallel()
	const id = "AAECAwQFBgcICQoLDA0ODw"
	if ident.ID(id[:21]) || ident.ID(id+"A") || ident.ID("") {
		t.Error("another length is an id")
	}
	for at := range len(id) {
		for c := range 256 {
			s := id[:at] + string([]byte{byte(c)}) + id[at+1:]
			decoded, err := base64.RawURLEncoding.DecodeString(s)
			if want := err == nil && base64.RawURLEncoding.EncodeToString(decoded) == s; ident.ID(s) != want {
				t.Errorf("%q: %t, want %t", s, !want, want)
			}
		}
	}
}
