package sqlreplay

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/internal/remote"
)

// Config says which PostgreSQL, and what is accepted of it.
type Config struct {
	// DB is the database, which all replicas share. It must not lead to a standby.
	// Required.
	DB *sql.DB
	// Table is the table of the redemptions, with its schema or without: the same for
	// all replicas. Empty: "handoff_redemptions".
	Table string
	// Skew is the largest skew of a verifier that uses the store, and of the clocks
	// of replicas and PostgreSQL; at most 60 s. Zero: 5 s.
	Skew time.Duration
	// Timeout is how long a redemption may take, with its wait for a connection,
	// 10 ms to 5 s; then it is refused. It should be well under the deadline of the
	// call. Zero: 1 s.
	Timeout time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Observe is told when the store starts over (replay.StartedOver), starts to refuse
	// (replay.Failed), goes on (replay.Resumed), and cannot remove marks
	// (replay.Overdue). It must return soon. Nil: nobody.
	Observe func(replay.Event)
}

const (
	defaultTable   = "handoff_redemptions"
	defaultTimeout = time.Second
	maxTimeout     = 5 * time.Second
)

// tableName is a name that PostgreSQL takes without quotes.
var tableName = regexp.MustCompile(`^([a-z_][a-z0-9_]{0,50}\.)?[a-z_][a-z0-9_]{0,50}$`)

// complete fills in what is not set, and names what cannot be.
func (c Config) complete() (Config, error) {
	c.Table = cmp.Or(c.Table, defaultTable)
	c.Skew = cmp.Or(c.Skew, handoff.DefaultSkew)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(replay.Event) {}
	}
	switch {
	case c.DB == nil:
		return c, refused("DB", "is required")
	case !tableName.MatchString(c.Table):
		return c, refused("Table", "must be lower-case letters, digits and underscores, with a schema and a point before it or without")
	case c.Skew < 0 || c.Skew > handoff.MaxSkew:
		return c, refused("Skew", "is %s: it must be at most %s, and not negative", c.Skew, handoff.MaxSkew)
	case c.Timeout < 10*time.Millisecond || c.Timeout > maxTimeout:
		return c, refused("Timeout", "is %s: it must be 10ms to %s", c.Timeout, maxTimeout)
	}
	return c, nil
}

// refused names a field of Config.
func refused(field, problem string, args ...any) error {
	return &handoff.ConfigError{Field: "sqlreplay.Config." + field, Problem: fmt.Sprintf(problem, args...)}
}

// An UnfitError says why a PostgreSQL cannot keep redemptions: what must be changed
// there.
type UnfitError struct{ Problems []string }

// Error lists the problems.
func (e *UnfitError) Error() string { return strings.Join(e.Problems, "; ") }

// Store is a handoff.Store for several replicas, in one PostgreSQL. It is safe for
// concurrent use.
type Store struct {
	config    Config
	statement string // redeems

	status  atomic.Pointer[status]
	doubts  chan struct{}
	expired chan int64 // up to when marks are to be removed
	seen    report     // watch's: the last
	lossy   bool       // watch's: the server may have lost marks since the epoch began

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// status is whether the database takes redemptions, as the last check has found.
type status struct {
	began time.Time // the epoch
	err   error     // nil if it does
}

// Create makes the table, unless it is there.
func Create(ctx context.Context, c Config) error {
	c, err := c.complete()
	if err != nil {
		return err
	}
	for _, statement := range []string{schemaTable, schemaIndex} {
		if _, err := c.DB.ExecContext(ctx, inTable(statement, c.Table)); err != nil {
			return fmt.Errorf("making the table of redemptions: %w", err)
		}
	}
	return nil
}

// Open checks how the PostgreSQL is set up, and returns an error that says what must
// be changed. ctx bounds only the opening.
func Open(ctx context.Context, c Config) (*Store, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	s := &Store{
		config: c, statement: inTable(redeem, c.Table), doubts: make(chan struct{}, 1), expired: make(chan int64, 1),
	}
	s.status.Store(&status{})
	if err := s.check(ctx); err != nil {
		return nil, fmt.Errorf("opening the record of redemptions: %w", err)
	}
	running, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.stopped.Go(func() { s.watch(running) })
	s.stopped.Go(func() { s.clean(running) })
	return s, nil
}

// Close ends the store's own work. The marks stay, and the database is open.
func (s *Store) Close() error {
	s.stop()
	s.stopped.Wait()
	return nil
}

// Skew returns the skew that the store covers. NewVerifier refuses a larger one.
func (s *Store) Skew() time.Duration { return s.config.Skew }

// Ready returns from when on tokens are issued that the store accepts. It lies in
// the past, except for a PostgreSQL that has started over.
func (s *Store) Ready() time.Time {
	return s.bounds().Ready(s.status.Load().began)
}

// Healthy returns nil if the store can accept redemptions now, or why not.
func (s *Store) Healthy() error {
	status := s.status.Load()
	return s.bounds().Healthy(status.began, status.err)
}

func (s *Store) bounds() remote.Bounds {
	return remote.Bounds{Server: "PostgreSQL", Skew: s.config.Skew, Now: s.config.Now}
}

// inTable is a statement about the table.
func inTable(statement, table string) string {
	name := table[strings.IndexByte(table, '.')+1:]
	return strings.NewReplacer("{table}", table, "{name}", name).Replace(statement)
}
