package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// I13: what others have told libpq of their server changes nothing: the URL says where,
// and the environment at most who.
func TestI13Environment(t *testing.T) {
	for _, name := range ignored {
		t.Setenv(name, "horse")
	}
	t.Setenv("PGUSER", "alice")
	t.Setenv("PGPASSWORD", "battery")
	for _, location := range []string{"postgres://127.0.0.1/shop", "postgres://db.example/shop?sslmode=verify-full", "postgres:///shop"} {
		u, err := url.Parse(location)
		if err != nil {
			t.Fatal(err)
		}
		config, err := parse(u, "test")
		if err != nil {
			t.Errorf("I13: %s: %v", location, err)
			continue
		}
		if config.User != "alice" || config.Password != "battery" || config.Database != "shop" || config.Port != 5432 {
			t.Errorf("I13: %s is %s@%s:%d/%s", location, config.User, config.Host, config.Port, config.Database)
		}
		if strings.Contains(fmt.Sprint(config.Host, config.RuntimeParams), "horse") {
			t.Errorf("I13: %s has %s, %v", location, config.Host, config.RuntimeParams)
		}
	}
}

// I10: a URL is exactly one that is supported, with what is needed to know the
// server off this machine.
func TestI10PostgresURL(t *testing.T) {
	file := func(mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "text")
		if err := errors.Join(os.WriteFile(path, []byte("no certificate"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text, legible, open := file(0o600), file(0o644), file(0o666)
	const away = "postgres://u:horse@db.example/shop?sslmode=verify-full"
	for location, want := range map[string]string{
		"postgres://u:p@127.0.0.1/shop":                                                    "",
		"postgres://u:p@[::1]:5433/shop":                                                   "",
		"postgresql://u:p@localhost/shop?sslmode=disable":                                  "",
		"postgres://u@/shop?host=/run/postgresql":                                          "",
		"postgres://u:p@db.example/shop?sslmode=verify-full":                               "",
		"postgres://u:p@db.example/shop?sslmode=verify-full&sslrootcert=system":            "",
		"postgres://u:p@127.0.0.1,db.example/shop?sslmode=verify-full":                     "",
		"postgres://u:horse@db.example/shop":                                               "sslmode=verify-full",
		"postgres://u:horse@10.0.0.1/shop?sslmode=require":                                 "sslmode=verify-full",
		"postgres://u:horse@db.example/shop?sslmode=verify-ca":                             "sslmode=verify-full",
		"postgres://u:horse@127.0.0.1,db.example/shop":                                     "sslmode=verify-full",
		"postgres://u:horse@/shop?host=db.example":                                         "sslmode=verify-full",
		"postgres://u:horse@127.0.0.1/shop?host=db.example":                                "sslmode=verify-full",
		"postgres://u:horse@db.example/shop?sslmode=disable&sslmode=verify-full":           "twice",
		"postgres://u:horse@db.example/shop?sslmod=verify-full":                            "cannot have",
		"postgres://u@127.0.0.1/shop?password=horse":                                       "cannot have",
		"postgres://u@127.0.0.1/shop?default_query_exec_mode=exec":                         "cannot have",
		"postgres://u@127.0.0.1/shop?service=other":                                        "cannot have",
		"postgres://u:horse@127.0.0.1/shop?horse":                                          "cannot have",
		"postgres://u:horse@127.0.0.1/shop?host=%zz":                                       "cannot have",
		"postgres://u:horse@127.0.0.1":                                                     "must be",
		"postgres://u:horse@127.0.0.1/":                                                    "must be",
		"postgres://u:p@127.0.0.1/shop%26a%3Db":                                            "",
		"postgres://u@127.0.0.1/shop&sslmode=horse":                                        "question mark",
		"postgres://u@127.0.0.1/horse=shop?sslmode=disable":                                "question mark",
		"postgres://u@127.0.0.1&sslpassword=horse/shop":                                    "question mark",
		"postgres://u:horse@127.0.0.1/shop/horse":                                          "must be",
		"postgres://u:horse@127.0.0.1/shop?sslmode=sometimes":                              "must be",
		"postgres://u:horse@127.0.0.1/shop?target_session_attrs=horse":                     "must be",
		away + "&sslrootcert=/horse/ca.pem":                                                "sslrootcert cannot be read: no such file or directory",
		away + "&sslrootcert=" + url.QueryEscape(text):                                     "sslrootcert has no certificate in PEM",
		away + "&sslrootcert=" + url.QueryEscape(filepath.Dir(text)):                       "sslrootcert cannot be read: not a regular file",
		away + "&sslrootcert=" + url.QueryEscape(open):                                     "sslrootcert cannot be read: others can write it",
		away + "&sslcert=" + url.QueryEscape(text) + "&sslkey=" + url.QueryEscape(legible): "sslkey cannot be read: others can use it",
		away + "&sslcert=/horse/c.pem&sslkey=" + url.QueryEscape(text):                     "sslcert cannot be read",
		away + "&sslkey=/horse/k.pem&sslcert=" + url.QueryEscape(text):                     "sslkey cannot be read",
		away + "&sslcert=" + url.QueryEscape(text):                                         "each needs the other",
		away + "&sslcert=" + url.QueryEscape(text) + "&sslkey=" + url.QueryEscape(text):    "must be",
	} {
		u, err := url.Parse(location)
		if err != nil {
			t.Fatal(err)
		}
		config, err := parse(u, "test")
		switch {
		case err == nil && want != "":
			t.Errorf("%s: accepted", location)
		case err == nil:
			for _, name := range []string{"idle_in_transaction_session_timeout", "statement_timeout", "application_name"} {
				if config.RuntimeParams[name] == "" {
					t.Errorf("%s: no %s", location, name)
				}
			}
		case want == "" || !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v; want %s", location, err, want)
		case strings.Contains(err.Error(), "horse") || strings.Contains(err.Error(), "db.example"):
			t.Errorf("the error repeats the URL: %v", err)
		}
	}
}

// TestServerThatIsNone has something else answer, or nothing: what was met is said once,
// though it is tried with TLS and without, and at each of two names.
func TestServerThatIsNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"says nothing": {func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "deadline exceeded"},
		"resets":       {func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) }, "reset by peer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						_, _ = conn.Read(make([]byte, 1))
						c.answer(conn)
					}()
				}
			}()
			_, port, _ := net.SplitHostPort(listener.Addr().String())
			for _, query := range []string{"sslmode=disable", "sslmode=prefer", "sslmode=disable&host=127.0.0.1,127.0.0.1&port=" + port + "," + port} {
				u, err := url.Parse("postgres://u:horse@" + listener.Addr().String() + "/shop?" + query)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				_, err = Open(ctx, u, "test")
				cancel()
				if err == nil || strings.Count(err.Error(), c.want) != 1 {
					t.Errorf("%s: got %v; want once: %s", query, err, c.want)
				}
			}
		})
	}
}

// An error says each thing once, and which setting of a server it is about.
func testNoConnection(t *testing.T, database string) {
	for location, want := range map[string]string{
		"postgres://u:horse@127.0.0.1:1/shop":                         "dial tcp 127.0.0.1:1: connect: connection refused",
		"postgres://u:horse@/shop?host=/nowhere":                      "dial unix /nowhere/.s.PGSQL.5432: connect: no such file or directory",
		strings.Replace(database, "/test", "/none-", 1):               `" does not exist`,
		database + "&options=-c%20synchronous_commit%3Doff":           "synchronous_commit off",
		database + "&options=-c%20default_transaction_read_only%3Don": "read-only",
		database + "&target_session_attrs=standby":                    "not in hot standby mode",
	} {
		_, err := open(t, location)
		if err == nil || strings.Count(err.Error(), want) != 1 || !strings.HasPrefix(err.Error(), "no connection to PostgreSQL: ") {
			t.Errorf("got %v; want once: %s", err, want)
			continue
		}
		if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, "horse") {
			t.Errorf("got %q", text)
		}
	}
}
