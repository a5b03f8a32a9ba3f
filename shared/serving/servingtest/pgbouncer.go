package servingtest

import (
	"context"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// StartPgBouncer starts a PgBouncer in front of the server of a database, and returns
// the URL of the database through it. settings are lines of its configuration, such
// as "pool_mode=transaction".
func StartPgBouncer(t testing.TB, database string, settings ...string) (through string) {
	t.Helper()
	through, stop, err := harness.StartPgBouncer(context.Background(), database, settings...)
	started(t, err)
	t.Cleanup(func() { ended(t, stop) })
	return through
}
