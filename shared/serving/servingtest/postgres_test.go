package servingtest

import (
	"database/sql"
	"os"
	"testing"
)

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func mustExec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestPostgres(t *testing.T) {
	var dir string
	t.Run("server", func(t *testing.T) {
		p := StartPostgres(t)
		dir = p.Dir()
		db := open(t, p.Database(t))
		mustExec(t, db, `CREATE TABLE kept (n INT)`)
		mustExec(t, db, `INSERT INTO kept VALUES (42)`)
		other := open(t, p.Database(t))
		mustExec(t, other, `CREATE TABLE kept (n INT)`) // another database

		p.Kill(t)
		if db.Ping() == nil {
			t.Error("it answers after kill -9")
		}
		p.Start(t)
		var n int
		if err := db.QueryRow(`SELECT n FROM kept`).Scan(&n); err != nil || n != 42 {
			t.Error("what was acknowledged before kill -9:", n, err)
		}
		for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
			var is string
			if err := db.QueryRow(`SELECT current_setting($1)`, setting).Scan(&is); err != nil || is != "on" {
				t.Error(setting, "is", is, err)
			}
		}
	})
	if dir == "" {
		t.Skip("there was no server")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("its folder is still there:", err)
	}
}

// Servers of different tests have nothing in common.
func TestPostgresTwice(t *testing.T) {
	for _, url := range []string{Postgres(t), Postgres(t)} {
		mustExec(t, open(t, url), `CREATE TABLE mine (n INT)`)
	}
}
