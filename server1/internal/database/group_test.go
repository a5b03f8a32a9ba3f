package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// waitUntil waits until so many questions of a group wait.
func waitUntil[Q, A any](t *testing.T, g *group[Q, A], n int) {
	t.Helper()
	waiting := -1
	for range 30_000 {
		g.mu.Lock()
		waiting = len(g.waiting)
		g.mu.Unlock()
		if waiting == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d questions wait, want %d", waiting, n)
}

// Questions that come while others are asked are asked together, after that. Each has its
// own answer, and nobody asks for one who has given up.
func TestGroup(t *testing.T) {
	var calls [][]int // each by the one who asks
	begun, goOn := make(chan struct{}), make(chan struct{})
	g := &group[int, string]{asking: make(chan struct{}, 1)}
	g.ask = func(_ context.Context, all []int) (answers []string, err error) {
		calls = append(calls, slices.Clone(all))
		if len(calls) == 1 {
			close(begun)
			<-goOn
		}
		for _, n := range all {
			answers = append(answers, strconv.Itoa(n))
		}
		return answers, nil
	}
	var wg sync.WaitGroup
	ask := func(n int) {
		wg.Go(func() {
			if got, err := g.answer(t.Context(), n); got != strconv.Itoa(n) || err != nil {
				t.Errorf("%d is answered by %q, %v", n, got, err)
			}
		})
	}
	ask(0)
	<-begun
	for n := range groupSize + 10 {
		ask(1 + n)
	}
	given, giveUp := context.WithCancel(t.Context())
	wg.Go(func() {
		if got, err := g.answer(given, -1); !errors.Is(err, context.Canceled) || got != "" {
			t.Errorf("who gives up: %q, %v", got, err)
		}
	})
	waitUntil(t, g, groupSize+11)
	giveUp()
	waitUntil(t, g, groupSize+10)
	close(goOn)
	wg.Wait()
	var sizes []int
	for _, all := range calls {
		sizes = append(sizes, len(all))
	}
	if all := slices.Concat(calls...); !slices.Equal(sizes, []int{1, groupSize, 10}) || slices.Contains(all, -1) {
		t.Errorf("asked in groups of %v", sizes)
	}
}

// Who gives up while their question is asked is told at once where asking changes nothing,
// and otherwise what came of it.
func TestGroupIsLeft(t *testing.T) {
	for _, reads := range []bool{true, false} {
		begun, goOn := make(chan struct{}), make(chan struct{})
		g := &group[int, int]{asking: make(chan struct{}, 1), reads: reads}
		g.ask = func(_ context.Context, all []int) ([]int, error) {
			close(begun)
			<-goOn
			return all, nil
		}
		g.asking <- struct{}{}
		ctx, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				got, err := g.answer(ctx, 1)
				if left := got == 0 && errors.Is(err, context.Canceled); left != reads || !reads && (got != 1 || err != nil) {
					t.Errorf("reads %t: got %d, %v", reads, got, err)
				}
			})
		}
		waitUntil(t, g, 2)
		<-g.asking
		<-begun
		giveUp()
		if reads {
			wg.Wait() // nobody waits for what comes now
		}
		close(goOn)
		wg.Wait()
	}
}

// A question that is asked already gives nobody a turn to ask those of others.
func TestGroupTurns(t *testing.T) {
	g := &group[int, int]{}
	first, second := &member[int, int]{}, &member[int, int]{}
	g.waiting = []*member[int, int]{first}
	if all := g.next(first); len(all) != 1 || all[0] != first || g.waits(first) {
		t.Errorf("%d are asked", len(all))
	}
	g.waiting = append(g.waiting, second)
	if all := g.next(first); all != nil || !g.waits(second) {
		t.Errorf("%d more are asked", len(all))
	}
	if g.withdraw(first) || !g.withdraw(second) || g.withdraw(second) || len(g.waiting) != 0 {
		t.Error("who waits withdraws, once")
	}
}

// A group that fails, panics or answers too few answers nobody, and the next one is asked.
func TestGroupFails(t *testing.T) {
	failure := errors.New("no database")
	var ask func() error
	g := &group[int, int]{asking: make(chan struct{}, 1)}
	g.ask = func(_ context.Context, all []int) ([]int, error) {
		if err := ask(); err != errShort {
			return all, err
		}
		return nil, nil
	}
	for name, of := range map[string]struct {
		ask    func() error
		panics int32
	}{
		"a failure": {func() error { return failure }, 0},
		"a panic":   {func() error { panic("asked badly") }, 1},
		"too few":   {func() error { return errShort }, 0},
	} {
		ask = of.ask
		g.asking <- struct{}{}
		var wg sync.WaitGroup
		var panics atomic.Int32
		for range 3 {
			wg.Go(func() {
				defer func() {
					if cause := recover(); cause != nil && strings.Contains(fmt.Sprint(cause), "panic: asked badly") {
						panics.Add(1)
					}
				}()
				if got, err := g.answer(t.Context(), 1); err == nil || got != 0 {
					t.Errorf("%s: %d, %v", name, got, err)
				}
			})
		}
		waitUntil(t, g, 3)
		<-g.asking
		wg.Wait()
		if panics.Load() != of.panics {
			t.Errorf("%s: %d of the callers panicked, want %d", name, panics.Load(), of.panics)
		}
		ask = func() error { return nil }
		if got, err := g.answer(t.Context(), 2); got != 2 || err != nil {
			t.Errorf("after %s: %d, %v", name, got, err)
		}
	}
}

// What cannot be read is read once more, with the time that is left.
func TestReader(t *testing.T) {
	failure := errors.New("the connection has ended")
	for name, of := range map[string]struct {
		outcome []error // of each attempt; nil: there is one
		want    error
	}{
		"at once": {[]error{nil}, nil}, "then": {[]error{failure, nil}, nil}, "never": {[]error{failure, failure}, failure},
		"none": {[]error{ErrNotFound}, ErrNotFound}, "dead": {[]error{context.DeadlineExceeded, nil}, nil},
	} {
		attempts := 0
		read := reader("reading", func(ctx context.Context, all []int) ([]*int, error) {
			err := of.outcome[attempts]
			attempts++
			switch {
			case errors.Is(err, ErrNotFound):
				return make([]*int, len(all)), nil
			case errors.Is(err, context.DeadlineExceeded):
				<-ctx.Done()
				return nil, ctx.Err()
			case err != nil:
				return nil, err
			}
			return []*int{&all[0]}, nil
		})
		if got, err := read(t.Context(), 7); !errors.Is(err, of.want) || err == nil && got != 7 || attempts != len(of.outcome) {
			t.Errorf("%s: %d, %v after %d attempts", name, got, err, attempts)
		}
	}
}

// errShort has a group's ask answer nothing.
var errShort = errors.New("too few answers")

// Each of many readers reads its own session or client, or that there is none.
func testReadByMany(t *testing.T, e engine) {
	db, _ := e.open(t)
	type reader struct {
		session Session
		client  Client
		over    bool
	}
	var readers []reader
	for n := range 8 {
		r := reader{over: n%4 == 3}
		r.session = startSession(t, db, addUser(t, db, fmt.Sprintf("user-%d", n)))
		r.client = Client{User: User{ID: handoff.NewID(), Name: fmt.Sprintf("client-%d", n), Created: start}, Keys: []ClientKey{{ID: fmt.Sprintf("key-%d", n), JWK: fmt.Sprintf("jwk-%d", n), Added: start}}}
		if err := db.AddClient(t.Context(), r.client); err != nil {
			t.Fatal(err)
		}
		if r.over {
			if err := errors.Join(db.EndSession(t.Context(), r.session, start), db.DisableClient(t.Context(), r.client.Name, start)); err != nil {
				t.Fatal(err)
			}
		}
		readers = append(readers, r)
	}
	var wg sync.WaitGroup
	for n := range 64 {
		r := readers[n%len(readers)]
		wg.Go(func() {
			for range 10 {
				s, err := db.LiveSession(t.Context(), r.session.IDSHA256, start)
				if found := err == nil && s.User.ID == r.session.User.ID && s.HandoffID == r.session.HandoffID; found == r.over || r.over && !errors.Is(err, ErrNotFound) {
					t.Errorf("the session of %s, over %t, is read as %s's, %v", r.session.User.Name, r.over, s.User.Name, err)
				}
				client, key, err := db.ClientByKey(t.Context(), r.client.Keys[0].ID)
				if found := err == nil && client.ID == r.client.ID && key.ID == r.client.Keys[0].ID && key.JWK == r.client.Keys[0].JWK; found == r.over || r.over && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s, disabled %t, is read as %s, %v", r.client.Name, r.over, client.Name, err)
				}
			}
		})
	}
	wg.Wait()
}

// What is read for many is what was asked for, each at its own time.
func testReadAtOnce(t *testing.T, e engine) {
	db, _ := e.open(t)
	alice := addUser(t, db, "alice")
	s, ended, disabled := startSession(t, db, alice), startSession(t, db, alice), startSession(t, db, addUser(t, db, "bob"))
	if err := errors.Join(db.EndSession(t.Context(), ended, start), db.DisableUser(t.Context(), "bob", start)); err != nil {
		t.Fatal(err)
	}
	read := db.asked(selectAllLive)
	if db.together == nil {
		statement, err := db.read.PrepareContext(t.Context(), selectEachLive)
		if err != nil {
			t.Fatal(err)
		}
		defer statement.Close()
		read = each(statement)
	}
	last := s.IdleExpires.Add(-time.Millisecond)
	asked := []sessionAt{{"unknown", start}, {s.IDSHA256, last}, {ended.IDSHA256, start}, {s.IDSHA256, s.IdleExpires}, {disabled.IDSHA256, start}, {s.IDSHA256, start}}
	live, err := read.sessions(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, false, false, true} {
		if (live[i] != nil) != want || want && (live[i].HandoffID != s.HandoffID || live[i].User.ID != alice.ID) {
			t.Errorf("number %d is %+v, want one: %t", i, live[i], want)
		}
	}
}

// On tables of which PostgreSQL knows nothing, as on those of a new database that fills,
// each row is found by its key.
func TestPostgresPlans(t *testing.T) {
	db := openAt(t, servingtest.StartPostgres(t).Database(t))
	conn, err := db.read.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, of := range map[string]struct {
		statement  string
		parameters int
		tables     []string
	}{
		"sessions": {selectAllLive, 1, []string{"sessions", "users"}},
		"clients":  {selectAllClients, 1, []string{"client_keys", "users"}},
		"held":     {holdUsers, 1, []string{"users"}},
		"audit":    {recordHandoffs, 15, []string{"sessions", "client_keys", "grants", "users"}},
	} {
		explain := `EXPLAIN EXECUTE ` + name + ` (NULL` + strings.Repeat(`, NULL`, of.parameters-1) + `)`
		for _, statement := range []string{`SET plan_cache_mode = force_generic_plan`, `PREPARE ` + name + ` AS ` + of.statement} {
			if _, err := conn.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(name, err)
			}
		}
		lines, err := texts(conn.QueryContext(t.Context(), explain))
		if err != nil {
			t.Fatal(name, err)
		}
		plan := strings.Join(lines, "\n")
		for _, table := range of.tables {
			if name != "audit" && strings.Contains(plan, "Merge Join") || !strings.Contains(plan, table+"_pkey on "+table) && !strings.Contains(plan, "on "+table+"_pkey") || strings.Contains(plan, "Seq Scan on "+table) {
				t.Errorf("%s: %s is not read by its key:\n%s", name, table, plan)
			}
		}
	}
}

// On SQLite, too, each row is found by its key, in that order.
func TestSQLitePlans(t *testing.T) {
	db, _ := sqliteEngine().open(t)
	for statement, tables := range map[string][]string{
		selectEachLive:   {"sessions", "users"},
		selectEachClient: {"client_keys", "users"},
	} {
		rows, err := db.read.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+statement, `[]`)
		steps, err := serving.Rows(rows, err, func() (step string, err error) {
			var id, parent, unused int
			err = rows.Scan(&id, &parent, &unused, &step)
			return step, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(steps) != 3 || !strings.HasPrefix(steps[0], "SCAN asked") {
			t.Fatalf("%q", steps)
		}
		for i, table := range tables {
			if !strings.HasPrefix(steps[1+i], "SEARCH "+table+" USING INDEX sqlite_autoindex_"+table+"_1 ") {
				t.Errorf("%q: %s is not read by its key", steps, table)
			}
		}
	}
}
