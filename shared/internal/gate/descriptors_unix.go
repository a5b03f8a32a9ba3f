//go:build unix

package gate

import (
	"math"
	"syscall"
)

// OpenFiles returns how many descriptors the process may have. Package os has
// raised the soft limit to the hard one.
func OpenFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint32
	}
	return uint64(limit.Cur)
}
