package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// A command whose output is lost does not end well.
func TestOutputThatIsLost(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	key := newKeyFile(t)
	for _, args := range [][]string{
		{"--help"},
		{"--version"},
		{"public", "--key", key},
		{"issue", "--key", key, "--issuer", "https://shop.example", "--audience", "https://billing.example", "--subject", "u", "--method", "/a.B/C"},
		{"inspect"},
		{"trust", "inspect"},
	} {
		var complaint bytes.Buffer
		p := &program{in: strings.NewReader("e30.e30.AAAA"), out: full, err: &complaint, now: time.Now}
		if status := run(args, p); status != exitUsage || !strings.HasPrefix(complaint.String(), "handoff: standard output: write ") || !strings.HasSuffix(complaint.String(), ": no space left on device\n") {
			t.Errorf("%q: status %d, %s", args, status, &complaint)
		}
	}
}

// Zero is not the default, here as in every other duration.
func TestIssueRefusesLifetimes(t *testing.T) {
	key := newKeyFile(t)
	for _, lifetime := range []string{"0s", "0", "-1s", "1500ms", "301s", "500ms", ""} {
		status, out, complaint := invoke(t, "", "issue", "--lifetime="+lifetime, "--key", key, "--issuer", "https://shop.example",
			"--audience", "https://billing.example", "--subject", "u", "--method", "/a.B/C")
		if status != exitUsage || out != "" || !strings.Contains(complaint, "--lifetime") {
			t.Errorf("--lifetime=%s: status %d, %q, %s", lifetime, status, out, complaint)
		}
	}
}

func newKeyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.key")
	key, err := signkey.Generate(handoff.EdDSA)
	if err == nil {
		err = key.Save(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
