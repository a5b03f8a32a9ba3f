//go:build unix

package serving

import (
	"math"
	"syscall"
)

// openFiles returns how many descriptors the process may have. Package os has
// raised the soft limit to the hard one.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint32
	}
	return uint64(limit.Cur)
}
