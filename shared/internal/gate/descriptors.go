package gate

import "fmt"

const (
	// rooms is how many Connections a process has at most that a stranger can fill: of
	// gRPC, and of pages.
	rooms = 2
	// reserved is how many descriptors are left to files, stores and the calls that the
	// program makes.
	reserved = 256
)

// Fit returns how many connections there can be: so many, or what a process's limit of
// open files (RLIMIT_NOFILE) leaves of them. It is an error if that is too little to
// serve at all.
func Fit(most int, limit uint64) (int, error) {
	if limit < reserved+rooms*16 {
		return 0, fmt.Errorf("cannot be held: the process may open %d files, and needs %d besides its connections (ulimit -n)", limit, reserved)
	}
	return int(min(uint64(most), (limit-reserved)/rooms)), nil
}
