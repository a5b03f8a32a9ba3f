//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package main

import (
	"errors"
	"os"
)

// lock fails: of two steps at once, one would be lost.
func lock(*os.File) error { return errors.ErrUnsupported }
