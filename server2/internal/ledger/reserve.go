package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// place is what a call has reserved. It is used by the call's goroutine only.
type place struct {
	conn *sql.Conn // nil: nothing, or used
}

type placeKey struct{}

// WithPlace returns a context in which Reserve can reserve something for a call,
// and what gives it back at the call's end.
func WithPlace(ctx context.Context) (context.Context, func()) {
	p := &place{}
	return context.WithValue(ctx, placeKey{}, p), func() { giveBack(p.take()) }
}

// errNoPlace is a fault of the program: the call is refused.
var errNoPlace = errors.New("ledger: the call's context is not one of WithPlace")

// Reserve has a call wait until the database takes a change, before anything is
// spent on that. The next change with ctx then waits for no other: of PostgreSQL, it
// has a connection, which the server has said can write; of a file, the one writer
// was free a moment ago, and takes all changes that wait together.
func (db *DB) Reserve(ctx context.Context) error {
	p, ok := ctx.Value(placeKey{}).(*place)
	if !ok {
		return errNoPlace
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := db.engine.reserve(ctx)
	if err != nil {
		return failed("waiting for a connection", err)
	}
	giveBack(p.take())
	p.conn = conn
	return nil
}

// reserved returns the connection that is reserved for the call, once; nil: there is none.
func reserved(ctx context.Context) *sql.Conn {
	p, ok := ctx.Value(placeKey{}).(*place)
	if !ok {
		return nil
	}
	return p.take()
}

func (p *place) take() *sql.Conn {
	conn := p.conn
	p.conn = nil
	return conn
}

func giveBack(conn *sql.Conn) {
	if conn != nil {
		_ = conn.Close() // it goes back to the pool, or is broken and gone
	}
}

// tooManyConnections is PostgreSQL's answer where it has no more for the role, the
// database or all.
const tooManyConnections = "53300"

// reserve waits for a connection, also where the server has fewer than the pool
// would open: then one that others give back will do.
func (p postgreSQL) reserve(ctx context.Context) (*sql.Conn, error) {
	for {
		conn, err := p.Write.Conn(ctx)
		var answer *pgconn.PgError
		if err == nil || !errors.As(err, &answer) || answer.Code != tooManyConnections {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(again):
		}
	}
}

// reserve makes a change that changes nothing: a file that is locked or cannot be
// written refuses that.
func (f file) reserve(ctx context.Context) (*sql.Conn, error) {
	return nil, f.Change(ctx, func(ctx context.Context, tx *sql.Tx) error { return nil })
}
