package signkey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// Folder is the path of a folder of keys. Each is in a file of its own, KID.key,
// that is named by the key's id. Only the folder's owner may be able to put files
// there. What root makes there belongs to the folder's owner. Its methods may be called
// by several processes at once.
type Folder string

// OpenFolder returns the folder at a path. It makes one if there is none, and
// refuses one as Check does.
func OpenFolder(path string) (Folder, error) {
	if err := vetted.NoURI(path); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return Folder(path), Folder(path).Check()
}

// Check refuses what is not a folder, or one in which others can put files.
func (f Folder) Check() error {
	info, err := os.Stat(string(f))
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", f)
	}
	if err := vetted.Closed(info, "put keys there"); err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	return nil
}

// Path returns the path of a key's file.
func (f Folder) Path(kid string) string { return filepath.Join(string(f), kid+".key") }

// Make generates a key and saves it.
func (f Folder) Make(algorithm handoff.Algorithm) (*Key, error) {
	key, err := Generate(algorithm)
	if err != nil {
		return nil, err
	}
	return key, key.save(f.Path(key.Key().ID()), vetted.WriteOwned)
}

// Load loads a key by its id, as the function Load does.
func (f Folder) Load(kid string) (*Key, error) {
	key, err := Load(f.Path(kid))
	if err == nil && key.Key().ID() != kid {
		return nil, fmt.Errorf("%s has another key than its name says", f.Path(kid))
	}
	return key, err
}

// Remove removes keys for good. It is no error if one is not there.
func (f Folder) Remove(kids ...string) error {
	removed := false
	for _, kid := range kids {
		switch err := os.Remove(f.Path(kid)); {
		case err == nil:
			removed = true
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if !removed {
		return nil
	}
	return vetted.SyncFolder(string(f))
}
