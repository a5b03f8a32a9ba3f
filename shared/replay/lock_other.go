//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package replay

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lock fails: two processes with one journal would each accept a token.
func lock(*os.File) error {
	return fmt.Errorf("a journal needs a lock that %s has not: keep redemptions in memory, a Redis or a PostgreSQL (%w)", runtime.GOOS, errors.ErrUnsupported)
}
