//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package sqlite

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const (
	alone    = syscall.LOCK_EX
	shared   = syscall.LOCK_SH
	noFollow = syscall.O_NOFOLLOW
)

// tryLock locks a file for this descriptor, unless another one is in the way.
func tryLock(f *os.File, how int) (bool, error) {
	err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

func unlock(f *os.File) error {
	return os.NewSyscallError("flock", syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
}

// giveToOwner has root make the file as the database's owner would, as SQLite does
// with its journals: the server itself may not be root. It gives nobody a file that has
// another name as well, and may be somebody else's.
func giveToOwner(f *os.File, database string) error {
	info, err := os.Stat(database)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	lock, err := f.Stat()
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	own, known := lock.Sys().(*syscall.Stat_t)
	if !ok || !known {
		return nil
	}
	if !lock.Mode().IsRegular() || own.Nlink != 1 {
		return fmt.Errorf("%s is not a file of its own", f.Name())
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
