package signing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// Folder is a folder of private keys, a file each, which the key's id names. It
// belongs to its owner alone.
type Folder string

// OpenFolder returns the folder at a path. It makes one where there is none, and
// refuses one that others can change.
func OpenFolder(path string) (Folder, error) {
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("%s is not a folder", path)
	case info.Mode().Perm()&0o022 != 0:
		return "", fmt.Errorf("%s has mode %#o: others can put keys there (chmod 700)", path, info.Mode().Perm())
	}
	return Folder(path), nil
}

func (f Folder) path(kid string) string { return filepath.Join(string(f), kid+".key") }

// make makes a key and keeps it.
func (f Folder) make(algorithm handoff.Algorithm) (*signkey.Key, error) {
	key, err := signkey.Generate(algorithm)
	if err != nil {
		return nil, err
	}
	return key, key.Save(f.path(key.Key().ID()))
}

// load returns the key with this id.
func (f Folder) load(kid string) (*signkey.Key, error) {
	key, err := signkey.Load(f.path(kid))
	if err == nil && key.Key().ID() != kid {
		err = fmt.Errorf("%s has another key than its name says", f.path(kid))
	}
	return key, err
}

// forget removes a key that will not sign again. One that is not there is fine.
func (f Folder) forget(kid string) error {
	if f == "" {
		return nil
	}
	if err := os.Remove(f.path(kid)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
