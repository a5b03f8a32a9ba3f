// Package measure says how much tests do of what is long by its nature: killing in
// rounds, waiting out real time limits, crowds.
//
//	rounds := measure.Of(2, 6, 100)
//
// `make test` does the least, in minutes; `.ci/run` does what a change must pass, and
// `make chaos` the most.
package measure

import (
	"os"
	"testing"
)

// Of returns least in `make test`, ci where HANDOFF_CI is set, as `.ci/run` does, and
// most where HANDOFF_LONG is set, as `make chaos` does.
func Of(least, ci, most int) int {
	switch {
	case os.Getenv("HANDOFF_LONG") != "":
		return most
	case os.Getenv("HANDOFF_CI") != "":
		return ci
	}
	return least
}

// InCI skips a test in `make test`: `.ci/run` and `make chaos` run it.
func InCI(t testing.TB) {
	t.Helper()
	if Of(0, 1, 1) == 0 {
		t.Skip("left to .ci/run, which sets HANDOFF_CI")
	}
}
