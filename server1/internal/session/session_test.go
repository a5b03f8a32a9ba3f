package session

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
)

const password = "correct horse"

// clock is a clock that stands until it is moved.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time       { return start.Add(time.Duration(c.ms.Load()) * time.Millisecond) }
func (c *clock) move(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// bench is a service with its database and its clock.
type bench struct {
	*Service
	guard *Guard
	clock *clock
	path  string
}

func newBench(t *testing.T, idle, lifetime time.Duration) *bench {
	t.Helper()
	b := &bench{clock: &clock{}, path: filepath.Join(t.TempDir(), "server1.db")}
	db, err := database.Open(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keeper, err := NewKeeper(KeeperConfig{
		DB: db, Idle: idle, Lifetime: lifetime, Log: slog.New(slog.DiscardHandler), Now: b.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	users := account.NewDirectory(db, account.NewHasher(), b.clock.now)
	if _, err := users.Add(t.Context(), "alice", []string{"payer"}, password); err != nil {
		t.Fatal(err)
	}
	if b.Service, err = NewService(ServiceConfig{Keeper: keeper, Users: users, Attempts: 1000, Record: audit.New(io.Discard)}); err != nil {
		t.Fatal(err)
	}
	b.guard = NewGuard(keeper, server1v1.SessionService_SignIn_FullMethodName, "/grpc.health.v1.Health/")
	return b
}

// signIn returns the id of a new session.
func (b *bench) signIn(t *testing.T) string {
	t.Helper()
	resp, err := b.SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSession()
}

// get calls GetSession through the guard.
func (b *bench) get(ctx context.Context, id string) (*server1v1.Session, error) {
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+id))
	info := &grpc.UnaryServerInfo{FullMethod: server1v1.SessionService_GetSession_FullMethodName}
	resp, err := b.guard.Unary(ctx, nil, info, func(ctx context.Context, _ any) (any, error) {
		return b.GetSession(ctx, nil)
	})
	if err != nil {
		return nil, err
	}
	return resp.(*server1v1.GetSessionResponse).GetDetails(), nil
}

func (b *bench) wantLive(t *testing.T, what, id string) {
	t.Helper()
	if _, err := b.get(t.Context(), id); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func (b *bench) wantOver(t *testing.T, what, id string) {
	t.Helper()
	if _, err := b.get(t.Context(), id); handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
		t.Errorf("%s: got %v, want SESSION_INVALID", what, err)
	}
}

func TestIdleExpiry(t *testing.T) {
	b := newBench(t, 10*time.Minute, time.Hour)
	id := b.signIn(t)
	for range 5 {
		b.clock.move(9 * time.Minute)
		b.wantLive(t, "in use", id)
	}
	b.clock.move(10*time.Minute - time.Millisecond)
	b.wantLive(t, "just before it is idle too long", id) // at 54:59.999
	b.clock.move(5*time.Minute + time.Millisecond)
	b.wantOver(t, "at its absolute expiry, though in use", id)

	id = b.signIn(t)
	b.clock.move(10 * time.Minute)
	b.wantOver(t, "idle too long", id)
	b.clock.move(-10 * time.Minute)
	b.wantLive(t, "a clock that goes back", id)
}

func TestDetails(t *testing.T) {
	b := newBench(t, 10*time.Minute, time.Hour)
	id := b.signIn(t)
	b.clock.move(55 * time.Second)
	about := func() *server1v1.Session {
		s, err := b.get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := about()
	if s.GetUserName() != "alice" || len(s.GetUserId()) != 22 || !s.GetCreateTime().AsTime().Equal(start) ||
		!s.GetExpireTime().AsTime().Equal(start.Add(time.Hour)) {
		t.Errorf("got %v", s)
	}
	if got := s.GetIdleExpireTime().AsTime(); !got.Equal(start.Add(10 * time.Minute)) {
		t.Errorf("used within a minute: ends idle at %s, want what was written", got)
	}
	b.clock.move(5 * time.Second)
	if got := about().GetIdleExpireTime().AsTime(); !got.Equal(start.Add(11 * time.Minute)) {
		t.Errorf("used after a minute: ends idle at %s", got)
	}
	b.clock.move(9 * time.Minute)
	about()
	for range 5 {
		b.clock.move(9 * time.Minute)
		s = about()
	}
	if got := s.GetIdleExpireTime().AsTime(); !got.Equal(s.GetExpireTime().AsTime()) {
		t.Errorf("ends idle at %s, after %s", got, s.GetExpireTime().AsTime())
	}
}

// Reads do not write but once a minute, and one that cannot write still reads.
func TestUseWritesOnceAMinute(t *testing.T) {
	b := newBench(t, 10*time.Minute, time.Hour)
	id := b.signIn(t)
	other, err := sql.Open("sqlite", "file:"+b.path+"?_txlock=immediate&_pragma=busy_timeout(1000)")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetMaxOpenConns(1)
	version := func() (v int) { // changes with each commit of somebody else
		if err := other.QueryRow(`PRAGMA data_version`).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := version()
	for range 59 {
		b.clock.move(time.Second)
		b.wantLive(t, "within a minute", id)
	}
	if version() != before {
		t.Error("a use within a minute was written down")
	}
	b.clock.move(time.Second)
	b.wantLive(t, "after a minute", id)
	if version() == before {
		t.Error("a use after a minute was not written down")
	}

	lock, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	b.clock.move(time.Minute)
	s, err := b.get(t.Context(), id)
	if err != nil {
		t.Errorf("a use that cannot be written down: %v", err)
	}
	if got := s.GetIdleExpireTime().AsTime(); !got.Equal(start.Add(11 * time.Minute)) {
		t.Errorf("ends idle at %s, which is not written down", got)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
}

func TestG12GuardIsClosedByDefault(t *testing.T) {
	b := newBench(t, time.Minute, time.Hour)
	ran := false
	handler := func(context.Context, any) (any, error) { ran = true; return nil, nil }
	for method, open := range map[string]bool{
		server1v1.SessionService_SignIn_FullMethodName:        true,
		server1v1.SessionService_SignIn_FullMethodName + "2":  false,
		"/grpc.health.v1.Health/Check":                        true,
		"/grpc.health.v1.Health2/Check":                       false,
		"/grpc.health.v1.Health":                              false,
		"":                                                    false,
		"/handoff.v1.HandoffService/AMethodThatWasAddedLater": false,
	} {
		ran = false
		_, err := b.guard.Unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, handler)
		if ran != open || (err == nil) != open {
			t.Errorf("%q: ran %v, %v; want open %v", method, ran, err, open)
		}
		ran = false
		err = b.guard.Stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method},
			func(any, grpc.ServerStream) error { ran = true; return nil })
		if ran != open || (err == nil) != open {
			t.Errorf("%q as a stream: ran %v, %v; want open %v", method, ran, err, open)
		}
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func TestStreamHasTheSession(t *testing.T) {
	b := newBench(t, time.Minute, time.Hour)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+b.signIn(t)))
	err := b.guard.Stream(nil, stream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: "/a.B/C"}, func(_ any, s grpc.ServerStream) error {
		if got, ok := FromContext(s.Context()); !ok || got.User.Name != "alice" {
			t.Errorf("got %v, %v", got.User.Name, ok)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A handler that is reached without the guard gives nothing away.
func TestHandlersWithoutGuard(t *testing.T) {
	b := newBench(t, time.Minute, time.Hour)
	_, err := b.SignOut(t.Context(), nil)
	if handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
		t.Errorf("SignOut: got %v", err)
	}
	if _, err = b.GetSession(t.Context(), nil); handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
		t.Errorf("GetSession: got %v", err)
	}
}

func TestConcurrentSessions(t *testing.T) {
	b := newBench(t, time.Minute, time.Hour)
	var wg sync.WaitGroup
	ids := make(chan string, 12)
	for range 4 {
		wg.Go(func() {
			for range 3 {
				resp, err := b.SignIn(t.Context(), &server1v1.SignInRequest{UserName: "alice", Password: password})
				if err != nil {
					t.Error(err)
					return
				}
				b.clock.move(time.Second)
				b.wantLive(t, "its own session", resp.GetSession())
				ids <- resp.GetSession()
			}
		})
	}
	wg.Wait()
	close(ids)
	seen := map[string]bool{}
	for id := range ids {
		if seen[id] {
			t.Error("one session id was given twice")
		}
		seen[id] = true
	}
}

func TestConstructorsRefuse(t *testing.T) {
	b := newBench(t, time.Minute, time.Hour)
	good := b.keeper.config
	for name, change := range map[string]func(*KeeperConfig){
		"DB":              func(c *KeeperConfig) { c.DB = nil },
		"Log":             func(c *KeeperConfig) { c.Log = nil },
		"Now":             func(c *KeeperConfig) { c.Now = nil },
		"Idle":            func(c *KeeperConfig) { c.Idle = 0 },
		"Idle > Lifetime": func(c *KeeperConfig) { c.Idle = c.Lifetime + 1 },
	} {
		config := good
		change(&config)
		if _, err := NewKeeper(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	service := ServiceConfig{Keeper: b.keeper, Users: b.users, Attempts: 1, Record: b.record}
	for name, change := range map[string]func(*ServiceConfig){
		"Keeper":   func(c *ServiceConfig) { c.Keeper = nil },
		"Users":    func(c *ServiceConfig) { c.Users = nil },
		"Attempts": func(c *ServiceConfig) { c.Attempts = 0 },
		"Record":   func(c *ServiceConfig) { c.Record = nil },
	} {
		config := service
		change(&config)
		if _, err := NewService(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
