//go:build !unix

package serving

import "math"

// openFiles returns no bound: this system has none of its kind.
func openFiles() uint64 { return math.MaxUint32 }
