package postgres

import (
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// Over TLS the server must be vouched for, by name.
func TestPostgresOverTLS(t *testing.T) {
	ours, other := servingtest.NewAuthority(t), servingtest.NewAuthority(t)
	server, address := servingtest.StartPostgresTLS(t, ours)
	server.Database(t)
	base := "postgres://handoff@" + address + "/test1?"
	for query, accepted := range map[string]bool{
		"sslmode=verify-full&sslrootcert=" + ours.File:  true,
		"sslmode=verify-full&sslrootcert=" + other.File: false,
		"sslmode=verify-full":                           false, // the system's authorities
		"sslmode=disable":                               false, // the server refuses
	} {
		db, err := open(t, base+query)
		if (err == nil) != accepted {
			t.Errorf("%s: %v", query, err)
		}
		if err != nil {
			continue
		}
		var encrypted bool
		err = db.Read.QueryRowContext(t.Context(), `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&encrypted)
		if err != nil || !encrypted {
			t.Errorf("%s: over TLS: %t, %v", query, encrypted, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	byName := strings.Replace(base, "127.0.0.1", "localhost", 1) + "sslmode=verify-full&sslrootcert=" + ours.File
	if db, err := open(t, byName); err == nil {
		_ = db.Close()
		t.Error("a certificate for another name is accepted")
	}
}
