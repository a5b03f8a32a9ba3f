// Package vectors finds other people's test vectors, for tests.
//
// They are data with licences of their own and are never copied into the
// project: they stand beside it, or where HANDOFF_VECTORS points.
package vectors

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Find returns the folder of the vectors, HANDOFF_VECTORS or ../shared/vectors
// from the root of the repository, and whether it is there.
func Find() (dir string, ok bool) {
	dir = os.Getenv("HANDOFF_VECTORS")
	if dir == "" {
		_, file, _, _ := runtime.Caller(0) // shared/internal/vectors/vectors.go
		dir = filepath.Join(filepath.Dir(file), "../../../../shared/vectors")
	}
	info, err := os.Stat(dir)
	return dir, err == nil && info.IsDir()
}

// Dir returns the folder of the vectors. Where there is none it skips the test
// with one line that says so; when HANDOFF_CI is set it fails it instead.
func Dir(t testing.TB) string {
	t.Helper()
	dir, ok := Find()
	if !ok && os.Getenv("HANDOFF_CI") != "" {
		t.Fatalf("no vectors at %s: set HANDOFF_VECTORS", dir)
	} else if !ok {
		t.Skipf("skipped: no vectors at %s (HANDOFF_VECTORS)", dir)
	}
	return dir
}

// Read returns one file of the vectors, named by its path below Dir.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(t), filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
