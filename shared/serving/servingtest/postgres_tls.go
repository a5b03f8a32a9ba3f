package servingtest

import (
	"context"
	"database/sql"
	"strings"
	"testing"
)

// PostgresOverTLS tests how a program opens a PostgreSQL at a URL: over TLS, the
// server must be vouched for, by name. open returns the database and what closes it.
func PostgresOverTLS(t *testing.T, open func(ctx context.Context, url string) (*sql.DB, func() error, error)) {
	t.Helper()
	ours, other := NewAuthority(t), NewAuthority(t)
	server, address := StartPostgresTLS(t, ours)
	server.Database(t)
	base := "postgres://handoff@" + address + "/test1?"
	for query, accepted := range map[string]bool{
		"sslmode=verify-full&sslrootcert=" + ours.File:  true,
		"sslmode=verify-full&sslrootcert=" + other.File: false,
		"sslmode=verify-full":                           false, // the system's authorities
		"sslmode=disable":                               false, // the server refuses
	} {
		db, closed, err := open(t.Context(), base+query)
		if (err == nil) != accepted {
			t.Errorf("%s: %v", query, err)
		}
		if err != nil {
			continue
		}
		var encrypted bool
		err = db.QueryRowContext(t.Context(), `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&encrypted)
		if err != nil || !encrypted {
			t.Errorf("%s: over TLS: %t, %v", query, encrypted, err)
		}
		if err := closed(); err != nil {
			t.Error(err)
		}
	}
	byName := strings.Replace(base, "127.0.0.1", "localhost", 1) + "sslmode=verify-full&sslrootcert=" + ours.File
	if _, closed, err := open(t.Context(), byName); err == nil {
		_ = closed()
		t.Error("a certificate for another name is accepted")
	}
}
