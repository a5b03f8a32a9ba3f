//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package sqlite

import "os"

const (
	alone    = 0
	shared   = 0
	noFollow = 0
)

// tryLock always succeeds: processes have SQLite's own lock only, which has no queue.
func tryLock(*os.File, int) (bool, error) { return true, nil }

func unlock(*os.File) error { return nil }

func giveToOwner(*os.File, string) error { return nil }
