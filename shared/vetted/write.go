package vetted

import (
	"errors"
	"os"
)

// WriteNew writes a new file with this mode, though the umask says another, and leaves
// none if it cannot be written whole. It refuses a path that exists.
func WriteNew(path string, text []byte, mode os.FileMode) error {
	return writeNew(path, text, mode, func(*os.File, string) error { return nil })
}

// WriteOwned is WriteNew in a folder that a server keeps: what root writes there for an
// operator belongs to the folder's owner, as the server itself may not be root.
func WriteOwned(path string, text []byte, mode os.FileMode) error {
	return writeNew(path, text, mode, giveToOwner)
}

func writeNew(path string, text []byte, mode os.FileMode, give func(*os.File, string) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = give(f, path)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// SyncFolder has what was made, renamed or removed in a folder reach the disk.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
