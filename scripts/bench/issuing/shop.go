// Package issuing measures SERVER1: how fast it issues, by its database, its users and
// its API clients, and what becomes of that when the database has grown.
package issuing

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of PostgreSQL
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/scripts/bench/wire"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving/harness"
	"github.com/handoff-auth/handoff/shared/serving/sqlite"
)

const callers = 64

// shop is a running pair whose SERVER1 has many users.
type shop struct {
	*pair.Pair
	database string // what it is called in the table
	dir      string
	client   *pair.Client
	postgres *harness.Postgres // nil: SQLite
	sessions []string          // of the users, one each
	request  *handoffv1.IssueHandoffRequest
}

// shopOf is how a shop is to be.
type shopOf struct {
	postgres bool
	users    int
	server1  []string // flags
}

// openShop starts a pair in a folder of its own.
func openShop(ctx context.Context, s measure.Settings, name string, of shopOf) (_ *shop, err error) {
	shop := &shop{database: "SQLite", dir: filepath.Join(s.Dir, name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, shop.close())
		}
	}()
	if of.postgres {
		shop.database = "PostgreSQL"
		if shop.postgres, err = pair.StartPostgres(ctx); err != nil {
			return nil, err
		}
	}
	shop.Pair, err = pair.Start(ctx, pair.Config{
		Bin: s.Bin, Dir: shop.dir, Trust: true, Postgres: shop.postgres, Server1: append(wire.Unbounded(), of.server1...),
	})
	if err != nil {
		return nil, fmt.Errorf("make build comes first: %w", err)
	}
	if err := shop.dial(ctx); err != nil {
		return nil, err
	}
	packed, err := anypb.New(wire.Invoice())
	if err != nil {
		return nil, err
	}
	shop.request = &handoffv1.IssueHandoffRequest{Audience: pair.Audience, Method: raced.PayMethod, Request: packed}
	if _, err := shop.client.SignIn(ctx, "alice", pair.Password); err != nil {
		return nil, err
	}
	return shop, shop.fill(ctx, of.users)
}

func (s *shop) close() error {
	if s.client != nil {
		s.client.Close()
	}
	var failures []error
	if s.Pair != nil {
		failures = append(failures, s.Stop())
	}
	if s.postgres != nil {
		failures = append(failures, s.postgres.Stop())
	}
	return errors.Join(failures...)
}

// dial waits for the servers.
func (s *shop) dial(ctx context.Context) (err error) {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	if s.client != nil {
		s.client.Close()
	}
	s.client, err = s.Dial()
	return err
}

// open opens the database, for statements of the bench's own.
func (s *shop) open(pragmas ...string) (*sql.DB, error) {
	if s.postgres != nil {
		return sql.Open("pgx", s.postgres.URL("server1"))
	}
	db, err := sql.Open("sqlite", sqlite.Source(filepath.Join(s.dir, "server1", "server1.db"), "immediate", pragmas...))
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
}

// fill adds users who are signed in, as alice is: to hash a password for each, and to check
// it, would take minutes.
func (s *shop) fill(ctx context.Context, users int) error {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for i := range users {
		id, session := handoff.NewID(), handoff.NewID()+handoff.NewID()
		digest := sha256.Sum256([]byte(session))
		for _, statement := range []struct {
			text string
			args []any
		}{
			{
				`INSERT INTO users (id, name, password_hash, roles, created_at)
				SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), password_hash, roles, created_at FROM users WHERE name = 'alice'`,
				[]any{id, fmt.Sprintf("user-%d", i)},
			},
			{
				`INSERT INTO sessions (id_sha256, handoff_id, user_id, created_at, idle_expires_at, expires_at)
				SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), created_at, idle_expires_at, expires_at
				FROM sessions WHERE user_id = (SELECT id FROM users WHERE name = 'alice') LIMIT 1`,
				[]any{base64.RawURLEncoding.EncodeToString(digest[:]), handoff.NewID(), id},
			},
		} {
			if _, err := tx.ExecContext(ctx, statement.text, statement.args...); err != nil {
				return fmt.Errorf("adding users: %w", err)
			}
		}
		s.sessions = append(s.sessions, session)
	}
	return tx.Commit()
}

// issue returns a call that asks for a handoff, by the first users' sessions in turns.
func (s *shop) issue(users int) measure.Call {
	return s.issueAs(func(i int) grpc.CallOption { return pair.Session(s.sessions[i%users]) })
}

func (s *shop) issueAs(as func(i int) grpc.CallOption) measure.Call {
	return func(ctx context.Context, i int) error {
		_, err := s.client.Handoffs.IssueHandoff(ctx, s.request, as(i))
		return err
	}
}
