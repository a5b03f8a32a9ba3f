package replay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/handoff-auth/handoff/shared/vetted"
)

// folder is a journal's, locked for this process. Its files are reached through
// the folder itself, never through its path: what is put in its place later is
// another folder.
type folder struct {
	*os.Root
	path   string   // absolute
	handle *os.File // holds the lock
	info   fs.FileInfo
	identity
}

var (
	errInUse = errors.New("it is in use by another process")
	errMoved = errors.New("the journal's folder is no longer at its path: another process may be using what is there")
)

// openFolder opens and locks a journal's folder. It refuses one that others can
// write.
func openFolder(path string) (*folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() { // before it is opened: a pipe would block
		return nil, fmt.Errorf("%s: not a folder", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	f := &folder{Root: root, path: path}
	if err := f.take(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// take looks at the folder and locks it.
func (f *folder) take() (err error) {
	if f.handle, err = f.Root.Open("."); err != nil {
		return err
	}
	if f.info, err = f.handle.Stat(); err != nil {
		return err
	}
	if err := vet(f.path, f.info); err != nil {
		return err
	}
	if f.identity, err = identify(f.handle); err != nil {
		return err
	}
	if err := lock(f.handle); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

func (f *folder) close() error {
	err := f.Root.Close()
	if f.handle != nil {
		err = errors.Join(err, f.handle.Close())
	}
	return err
}

// standing returns errMoved unless the path leads to the folder. A process that
// finds another folder there cannot see the lock of this one.
func (f *folder) standing() error {
	if info, err := os.Stat(f.path); err != nil || !os.SameFile(info, f.info) {
		return errMoved
	}
	return nil
}

// openFile opens a file for reading, unless others can write it.
func (f *folder) openFile(name string) (*os.File, error) {
	if info, err := f.Lstat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() { // before it is opened: a pipe would block
		return nil, fmt.Errorf("%s: not a regular file", filepath.Join(f.path, name))
	}
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = vet(filepath.Join(f.path, name), info)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// vet refuses what others can write, or own.
func vet(path string, info fs.FileInfo) error {
	if err := vetted.Kept(info, "have redemptions forgotten"); err != nil {
		return fmt.Errorf("%s: %w; or make another journal, if somebody may have", path, err)
	}
	return nil
}
