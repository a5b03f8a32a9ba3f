package server1

import (
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// H11: no copy of SERVER1's memory is left to others.
func TestNoDumps(t *testing.T) {
	t.Parallel()
	servingtest.NoDumps(t, asMain, []string{"user", "add", "--database=unused.db", "--name=alice"})
}
