//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package replay

import (
	"os"
	"syscall"
)

// lock takes the journal for this process. The kernel gives it back with the
// last descriptor, however the process ends.
func lock(dir *os.File) error {
	return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
