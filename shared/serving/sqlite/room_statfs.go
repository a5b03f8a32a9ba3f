//go:build darwin || linux

package sqlite

import (
	"os"
	"syscall"
)

// roomAt returns how many bytes the disk of a file has left for this process.
func roomAt(path string) (uint64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(path, &disk); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return disk.Bavail * uint64(disk.Bsize), nil
}
