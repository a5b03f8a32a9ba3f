package database

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// group sends the questions of several callers to the database together: those that come
// while it answers others. So a question is sent after its caller asked it. PostgreSQL
// needs a message to and fro for each statement, and SQLite reads pages again after each
// commit; for many at once both do it once.
type group[Q, A any] struct {
	what string // is asked for
	// ask returns an answer to each question, in their order. Its context is no caller's:
	// who gives up does not stop it.
	ask    func(ctx context.Context, all []Q) ([]A, error)
	asking chan struct{} // held by each who asks; it has room for as many as can at once
	reads  bool          // asking changes nothing: who gives up need not know what came of it

	mu      sync.Mutex
	waiting []*member[Q, A]
}

type member[Q, A any] struct {
	question Q
	answer   A
	err      error
	answered chan struct{} // closed once answer and err are known
}

// groupSize is how many questions are asked together at most.
const groupSize = 256

// answer asks a question, with those of others.
func (g *group[Q, A]) answer(ctx context.Context, question Q) (none A, err error) {
	m := &member[Q, A]{question: question, answered: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	g.mu.Unlock()
	defer g.withdraw(m)
	asking := g.asking // nil once the question is being asked
	for {
		select {
		case <-m.answered:
			return m.answer, m.err
		case asking <- struct{}{}:
			runtime.Gosched() // those who are about to ask, ask now
			if ctx.Err() == nil {
				if all := g.next(m); all != nil {
					g.askAll(all)
					continue
				}
			}
			<-asking // others can ask theirs
			asking = nil
		case <-ctx.Done():
			if g.withdraw(m) || g.reads {
				return none, wrap("waiting for "+g.what, ctx.Err())
			}
			<-m.answered // it is being asked, and that ends
			return m.answer, m.err
		}
	}
}

// next returns what is to be asked next, or nil if m no longer waits.
func (g *group[Q, A]) next(m *member[Q, A]) []*member[Q, A] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.waiting, m) {
		return nil
	}
	n := min(len(g.waiting), groupSize)
	taken := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return taken
}

func (g *group[Q, A]) withdraw(m *member[Q, A]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, m)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// askAll asks some questions, and tells each its answer.
func (g *group[Q, A]) askAll(all []*member[Q, A]) {
	defer func() { <-g.asking }()
	var answers []A
	err := fmt.Errorf("database: %s: asking panicked", g.what)
	defer func() {
		if err == nil && len(answers) != len(all) {
			err = fmt.Errorf("database: %s: %d questions have %d answers", g.what, len(all), len(answers))
		}
		for i, m := range all {
			if m.err = err; err == nil {
				m.answer = answers[i]
			}
			close(m.answered)
		}
	}()
	questions := make([]Q, len(all))
	for i, m := range all {
		questions[i] = m.question
	}
	answers, err = g.ask(context.Background(), questions)
}

// readers are how many groups are read at once: while one waits for a connection that is
// dead, another can have one that is not.
const readers = 2

// reader returns a function that reads one of what read reads together, and returns
// ErrNotFound where there is none.
func reader[Q, A any](what string, read func(context.Context, []Q) ([]*A, error)) func(context.Context, Q) (A, error) {
	g := &group[Q, *A]{what: what, asking: make(chan struct{}, readers), reads: true}
	g.ask = func(ctx context.Context, all []Q) (found []*A, err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for range 2 { // a connection that has ended since it was last used fails nobody
			if found, err = read(ctx, all); err == nil || ctx.Err() != nil || errors.As(err, new(*pgconn.PgError)) {
				break
			}
		}
		return found, err
	}
	return func(ctx context.Context, question Q) (one A, err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		found, err := g.answer(ctx, question)
		switch {
		case err != nil:
			return one, err
		case found == nil:
			return one, ErrNotFound
		}
		return *found, nil
	}
}
