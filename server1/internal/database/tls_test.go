package database

import (
	"context"
	"database/sql"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestPostgresOverTLS(t *testing.T) {
	servingtest.PostgresOverTLS(t, func(ctx context.Context, url string) (*sql.DB, func() error, error) {
		db, err := Open(ctx, url)
		if err != nil {
			return nil, nil, err
		}
		return db.read, db.Close, nil
	})
}
