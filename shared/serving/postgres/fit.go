package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// recheck is how long the last answer of a connection that only reads is good for.
const recheck = 100 * time.Millisecond

// connector makes connections that are fit for their work, and has each asked again
// when it is taken from the pool.
type connector struct {
	driver.Connector
}

// newConnector returns one whose connections are asked when they are taken and the
// last answer is older than good.
func newConnector(config *pgx.ConnConfig, good time.Duration) connector {
	own := *config
	asked := own.ValidateConnect // by target_session_attrs; nil: none
	own.ValidateConnect = func(ctx context.Context, c *pgconn.PgConn) error {
		if asked != nil {
			if err := asked(ctx, c); err != nil {
				return err
			}
		}
		return checkFit(ctx, c) // which closes it, and tries the URL's next host
	}
	return connector{stdlib.GetConnector(own,
		stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false }),
		stdlib.OptionResetSession(func(ctx context.Context, c *pgx.Conn) error {
			if last, ok := c.PgConn().CustomData()[lastAsked].(time.Time); ok && time.Since(last) < good {
				return nil
			}
			if checkFit(ctx, c.PgConn()) != nil {
				return driver.ErrBadConn // the pool closes it, and a new one says why
			}
			return nil
		}))}
}

// Connect returns a connection that is fit for its work.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, &connectError{err}
	}
	return conn, nil
}

// lastAsked is when a connection was found fit.
const lastAsked = "handoff: asked"

const askFit = `SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only'),
	current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')`

// checkFit returns why a connection cannot do its work, or does not keep what it
// acknowledges.
func checkFit(ctx context.Context, c *pgconn.PgConn) error {
	results, err := c.Exec(ctx, askFit).ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return errors.New("this PostgreSQL does not say how it is set up")
	}
	var said []string
	for _, value := range results[0].Rows[0] {
		said = append(said, string(value))
	}
	if reason := unfit(said, c.PID()); reason != "" {
		return unfitError(reason)
	}
	c.CustomData()[lastAsked] = time.Now()
	return nil
}

// unfitError is why a connection is refused.
type unfitError string

func (e unfitError) Error() string { return string(e) }

// unfit returns why what a connection has said is not good enough, or an empty text.
func unfit(said []string, pid uint32) string {
	const loses = " off: it can lose what it has acknowledged"
	switch {
	case said[0] != strconv.FormatUint(uint64(pid), 10):
		return pooled
	case said[1] == "t":
		return "this PostgreSQL is a standby: it takes no changes"
	case said[2] != "off":
		return "this PostgreSQL is read-only (default_transaction_read_only): it takes no changes"
	}
	for i, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if said[3+i] == "off" {
			return "this PostgreSQL has " + setting + loses
		}
	}
	return ""
}

// pooled is why a server with something like PgBouncer in front is refused.
const pooled = "this is a pooler such as PgBouncer, and not PostgreSQL itself: name the server's own address " +
	"(this program keeps a pool of its own: --database-connections)"

// connectError is why there is no connection.
type connectError struct{ err error }

// Unwrap returns the driver's error.
func (e *connectError) Unwrap() error { return e.err }

// Error says each thing once: the driver tries with TLS and without, and at each of
// a name's addresses.
func (e *connectError) Error() string {
	var failed *pgconn.ConnectError
	if !errors.As(e.err, &failed) {
		return "no connection to PostgreSQL: " + e.err.Error()
	}
	tries := []error{failed.Unwrap()}
	if joined, ok := tries[0].(interface{ Unwrap() []error }); ok {
		tries = joined.Unwrap()
	}
	var told []string
	late := false
	for _, try := range tries {
		if errors.Is(try, context.DeadlineExceeded) {
			if late { // the time was up before: it was not tried at all
				continue
			}
			late = true
		}
		if text := tell(try); !slices.Contains(told, text) {
			told = append(told, text)
		}
	}
	return "no connection to PostgreSQL: " + strings.Join(told, "; ")
}

// tell says what one try has met.
func tell(err error) string {
	const protocolViolation = "08P01"
	if reason, ok := errors.AsType[unfitError](err); ok {
		return reason.Error()
	}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		if answer.Code == protocolViolation && strings.Contains(answer.Message, "startup parameter") {
			return pooled
		}
		return answer.Error()
	}
	if met, ok := errors.AsType[*net.OpError](err); ok {
		once := *met
		once.Source = nil // a port of ours, another with each try
		return once.Error()
	}
	return err.Error()
}
