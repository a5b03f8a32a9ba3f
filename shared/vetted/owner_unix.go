//go:build unix

package vetted

import (
	"os"
	"path/filepath"
	"syscall"
)

// modesTell says that a file's mode tells who can read and write it.
const modesTell = true

func ownerOf(info os.FileInfo) owner {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(stat.Uid) == os.Geteuid():
		return ours
	case ok && stat.Uid == 0:
		return roots
	}
	return others
}

// ownedWithFolder reports whether the process is root's, and the file at a path belongs
// to the owner of its folder. A link to a folder does not count: another
// user can have made it.
func ownedWithFolder(info os.FileInfo, path string) bool {
	if os.Geteuid() != 0 {
		return false
	}
	folder, err := os.Lstat(filepath.Dir(path))
	if err != nil || !folder.IsDir() {
		return false
	}
	own, ok := info.Sys().(*syscall.Stat_t)
	of, known := folder.Sys().(*syscall.Stat_t)
	return ok && known && own.Uid == of.Uid
}

// giveToOwner has root make the file at a path as the owner of its folder would. It
// changes the open file: another can stand at the path by now, where the folder is not
// root's.
func giveToOwner(f *os.File, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	owner, ok := folder.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 { // root's already; not every root may change owners
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
