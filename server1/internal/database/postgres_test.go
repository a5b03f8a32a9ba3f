package database

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestPostgresURL(t *testing.T) {
	for location, accepted := range map[string]bool{
		"postgres://u:p@127.0.0.1/shop":                                          true,
		"postgres://u:p@[::1]:5433/shop":                                         true,
		"postgresql://u:p@localhost/shop?sslmode=disable":                        true,
		"postgres://u@/shop?host=/run/postgresql":                                true,
		"postgres://u:p@db.example/shop?sslmode=verify-full":                     true,
		"postgres://u:p@db.example/shop":                                         false,
		"postgres://u:p@10.0.0.1/shop?sslmode=require":                           false,
		"postgres://u:p@db.example/shop?sslmode=verify-ca":                       false,
		"postgres://u:p@db.example/shop?sslmode=disable&sslmode=verify-full":     false,
		"postgres://u:p@127.0.0.1,db.example/shop":                               false,
		"postgres://u:p@127.0.0.1,db.example/shop?sslmode=verify-full":           true,
		"postgres://u:horse@127.0.0.1:horse/shop":                                false,
		"postgres://u:correct horse@127.0.0.1/shop":                              false,
		"postgres://u:horse@127.0.0.1/shop?sslmode=sometimes":                    false,
		"postgres://u:horse@127.0.0.1/shop?sslmode=verify-full&sslcert=/missing": false,
	} {
		config, err := postgresConfig(location)
		if (err == nil) != accepted {
			t.Errorf("%s: %v", location, err)
		}
		if err != nil && (strings.Contains(err.Error(), "horse") || strings.Contains(err.Error(), "db.example")) {
			t.Errorf("the error repeats the URL: %v", err)
		}
		if err == nil && config.RuntimeParams["idle_in_transaction_session_timeout"] == "" {
			t.Errorf("%s: a process that stops can stop the others", location)
		}
	}
}

func TestPostgresThatForgets(t *testing.T) {
	url := servingtest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for commit, accepted := range map[string]bool{"off": false, "local": true, "on": true} {
		if _, err := conn.Exec(t.Context(), `ALTER DATABASE test1 SET synchronous_commit TO `+commit); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), url)
		if (err == nil) != accepted {
			t.Errorf("synchronous_commit %s: %v", commit, err)
		}
		if err == nil {
			db.Close()
		}
	}
	if _, err := Open(t.Context(), strings.Replace(url, "test1", "nothing", 1)); err == nil {
		t.Error("a database that is not there is opened")
	}
}

// PostgreSQL is killed under load: nothing that was acknowledged is lost, and the
// processes go on when it is back.
func TestF04PostgresKilled(t *testing.T) {
	server := servingtest.StartPostgres(t)
	url := server.Database(t)
	e := engine{func(testing.TB) string { return url }}
	first := e.issuing(t)
	sessions := make([]Session, 100) // a user cannot take back as much as follows
	for i := range sessions {
		sessions[i] = startSession(t, first, addUser(t, first, fmt.Sprintf("user-%d", i)))
	}
	var mu sync.Mutex
	var acknowledged []string
	total := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, db := range []*DB{first, openAt(t, url), first, openAt(t, url)} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c, s := claims(), sessions[i%len(sessions)]
				if db.RecordHandoff(t.Context(), s, c, start) != nil ||
					db.RevokeHandoff(t.Context(), s.User.ID, c.ID, start) != nil {
					continue
				}
				mu.Lock()
				acknowledged = append(acknowledged, c.ID)
				mu.Unlock()
			}
		})
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		server.Kill(t)
		if err := first.Ready(t.Context()); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("without a database: %v", err)
		}
		before := total()
		server.Start(t)
		began := time.Now()
		for total() == before {
			if time.Since(began) > 5*time.Second {
				t.Fatal("nothing is acknowledged 5 s after its return")
			}
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	state, err := first.Trust(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, entry := range state.Revoked {
		listed = append(listed, entry.ID)
	}
	slices.Sort(listed)
	lost := 0
	for _, id := range acknowledged {
		if _, found := slices.BinarySearch(listed, id); !found {
			lost++
		}
	}
	t.Logf("%d revocations acknowledged, %d listed", len(acknowledged), len(listed))
	if lost > 0 || len(acknowledged) == 0 {
		t.Errorf("%d of %d acknowledged revocations are lost", lost, len(acknowledged))
	}
}
