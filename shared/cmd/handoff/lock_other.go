//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lock fails: of two steps at once, one would be lost.
func lock(*os.File) error {
	return fmt.Errorf("keys change under a lock that %s has not (%w)", runtime.GOOS, errors.ErrUnsupported)
}
