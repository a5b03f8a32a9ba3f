//go:build unix

package vetted_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// Public keys have the mode that the help says, under any umask: verify reads them.
func TestWriteNewUnderAnyUmask(t *testing.T) {
	for _, umask := range []int{0, 0o002, 0o022, 0o077} {
		before := syscall.Umask(umask)
		path := filepath.Join(t.TempDir(), "shop.jwks")
		err := vetted.WriteNew(path, []byte("{}\n"), 0o644)
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("umask %03o: %v, %v", umask, info, err)
		}
	}
}
