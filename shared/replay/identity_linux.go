package replay

import (
	"os"

	"golang.org/x/sys/unix"
)

// identity tells a file from its copies, also from one that has been given the
// number of a file that is gone. A file system that does not know when a file was
// made says zero.
type identity struct {
	device, inode uint64
	born          int64 // nanoseconds
}

func identify(f *os.File) (identity, error) {
	var s unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &s)
	if err != nil {
		return identity{}, os.NewSyscallError("statx", err)
	}
	id := identity{device: unix.Mkdev(s.Dev_major, s.Dev_minor), inode: s.Ino}
	if s.Mask&unix.STATX_BTIME != 0 {
		id.born = s.Btime.Sec*1e9 + int64(s.Btime.Nsec)
	}
	return id, nil
}
