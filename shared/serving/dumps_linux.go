package serving

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// KeepMemory has no copy of the process's memory, and so of its keys and passwords, be
// written or read by another process of its user: it may leave no core file, for good,
// and is not dumpable (prctl(2), PR_SET_DUMPABLE; ptrace(2), access mode checks). Call
// it first in main. A system other than Linux leaves it to the operator.
func KeepMemory() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("having the system leave no core file: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("having the system not dump the memory: %w", err)
	}
	return nil
}
