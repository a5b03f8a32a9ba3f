package pair

import (
	"context"
	"errors"

	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// StartPostgres starts a PostgreSQL of one's own with a database for SERVER1 and one
// for SERVER2. errors.Is finds exec.ErrNotFound in the error where none is installed.
func StartPostgres(ctx context.Context) (*harness.Postgres, error) {
	p, err := harness.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.Create(ctx, "server1", "server2"); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}
