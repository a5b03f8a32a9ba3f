package signkey_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// A folder has one file for each key, by its id; what is removed is gone.
func TestFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	folder, err := signkey.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	key, err := folder.Make(handoff.ES256)
	if err != nil {
		t.Fatal(err)
	}
	kid := key.Key().ID()
	again, err := signkey.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if loaded, err := again.Load(kid); err != nil || loaded.Key().ID() != kid || loaded.Key().Algorithm() != handoff.ES256 {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := folder.Remove(kid, strings.Repeat("A", 43)); err != nil {
			t.Error(err)
		}
	}
	if _, err := folder.Load(kid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that was removed: %v", err)
	}
}

// A folder that others can change is refused, and so is a key in another's file.
func TestFolderRefuses(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o720); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{open, filepath.Join(dir, "missing", "keys"), "/dev/null"} {
		if _, err := signkey.OpenFolder(path); err == nil {
			t.Errorf("%s is opened", path)
		}
	}
	folder := signkey.Folder(t.TempDir())
	key, err := folder.Make(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("A", 43)
	if err := os.Rename(folder.Path(key.Key().ID()), folder.Path(other)); err != nil {
		t.Fatal(err)
	}
	if key, err := folder.Load(other); err == nil || key != nil {
		t.Error("a key under another's name is loaded")
	}
}
