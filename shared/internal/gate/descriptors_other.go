//go:build !unix

package gate

import "math"

// OpenFiles returns no bound: this system has none of its kind.
func OpenFiles() uint64 { return math.MaxUint32 }
