//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package replay

import (
	"errors"
	"os"
)

// lock fails: two processes with one journal would each accept a token.
func lock(*os.File) error { return errors.ErrUnsupported }
