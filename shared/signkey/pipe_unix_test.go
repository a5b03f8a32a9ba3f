//go:build unix

package signkey_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/handoff-auth/handoff/shared/signkey"
)

// A pipe is refused, and nobody waits for what it may say.
func TestLoadRefusesAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := signkey.Load(pipe); err == nil || !strings.Contains(err.Error(), pipe) {
		t.Errorf("a pipe: %v", err)
	}
}
