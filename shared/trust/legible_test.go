package trust

import (
	"strings"
	"testing"
)

// What a server says becomes one short line that nothing has to escape.
func TestLegible(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"plain": "plain",
		`connection error: desc = "transport: authentication handshake failed: tls: \"x\""`: "transport: authentication handshake failed: tls: x",
		"two\nlines\x1b[31m":      "two lines [31m",
		"\xff":                    "\uFFFD",
		strings.Repeat("é", 1000): strings.Repeat("é", 300) + "…",
	} {
		if got := legible(message); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
