package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres is the engine of a server. Its transactions run side by side; where
// two of them would break a constraint, one fails and is tried again.
type postgres struct{}

// SQLSTATEs of a change that another one came between.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)

func (postgres) transaction() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead}
}

func (postgres) conflicts(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case uniqueViolation, serializationFailure, deadlockDetected:
		return true
	}
	return false
}

// uncertain is false where the server says that it has not committed, and where
// it was never asked to. pgconn.SafeToRetry does not tell: with pgx 5.12 it is
// true when the connection breaks after the commit was sent.
func (postgres) uncertain(err error) bool {
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer):
		return answer.SeverityUnlocalized != "ERROR" // else the session ended with it
	case errors.Is(err, pgx.ErrTxCommitRollback), errors.Is(err, sql.ErrTxDone):
		return false
	}
	return err != context.DeadlineExceeded && err != context.Canceled // bare: database/sql has not called the driver
}

// openPostgres opens the database at a URL.
func openPostgres(ctx context.Context, databaseURL string) (*DB, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil { // its text can contain the password
		var file *fs.PathError
		if errors.As(err, &file) {
			return nil, file
		}
		return nil, errors.New("must be postgres://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	if err := checkTransport(config, databaseURL); err != nil {
		return nil, err
	}
	// A statement that the server gives up has a certain answer; one that we give up
	// has not.
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt((patience * 2 / 3).Milliseconds(), 10)
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "handoff-server2"
	}
	pool := stdlib.OpenDB(*config)
	connections := max(8, 4*runtime.GOMAXPROCS(0))
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	if err := checkDurable(ctx, pool); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &DB{read: pool, write: pool, engine: postgres{}}, nil
}

// checkTransport refuses a connection that somebody on the network could read or
// answer in the server's place.
func checkTransport(config *pgx.ConnConfig, databaseURL string) error {
	u, err := url.Parse(databaseURL)
	if err == nil && u.Query().Get("sslmode") == "verify-full" {
		return nil
	}
	hosts := []string{config.Host}
	for _, other := range config.Fallbacks {
		hosts = append(hosts, other.Host)
	}
	for _, host := range hosts {
		if socket := strings.HasPrefix(host, "/"); !socket && host != "localhost" && !net.ParseIP(host).IsLoopback() {
			return errors.New("is not on a loopback address: the URL must have sslmode=verify-full")
		}
	}
	return nil
}

// checkDurable refuses a server that is set up to lose what it has acknowledged.
func checkDurable(ctx context.Context, pool *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := pool.QueryRowContext(ctx, `SELECT current_setting($1)`, setting).Scan(&value); err != nil {
			return failed("connecting", err)
		}
		if value == "off" {
			return fmt.Errorf("the server loses payments in a crash: %s must not be off", setting)
		}
	}
	return nil
}
