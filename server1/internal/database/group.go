package database

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
)

// group sends the questions of several callers to the database together: those that come
// while it answers others. So a question is sent after its caller asked it. PostgreSQL
// needs a message to and fro for each statement, and SQLite reads pages again after each
// commit; for many at once both do it once.
type group[Q, A any] struct {
	what string // the group does, for errors
	// ask returns an answer to each question, in their order. Its context is no caller's:
	// who gives up does not stop it.
	ask    func(ctx context.Context, all []Q) ([]A, error)
	asking chan struct{} // has a place for each ask that may go on at once
	reads  bool          // asking changes nothing: who gives up need not know what came of it

	mu      sync.Mutex
	waiting []*member[Q, A]
}

type member[Q, A any] struct {
	question Q
	taken    bool          // no longer waits; guarded by the group's mu
	answered chan struct{} // closed once what follows is known
	answer   A
	err      error
	panicked error // its caller panics with it; nil: there was none
}

func (m *member[Q, A]) outcome() (A, error) {
	if m.panicked != nil {
		panic(m.panicked)
	}
	return m.answer, m.err
}

// groupSize is how many questions are asked together at most.
const groupSize = 256

// answer asks a question, with those of others. When ctx ends it returns at once. It waits
// for the outcome where the question is being asked by then, and changes something.
func (g *group[Q, A]) answer(ctx context.Context, question Q) (none A, err error) {
	m := &member[Q, A]{question: question, answered: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	g.mu.Unlock()
	for {
		asking := g.asking
		if ctx.Err() != nil || !g.waits(m) {
			asking = nil // this caller needs no turn
		}
		select {
		case <-m.answered:
			return m.outcome()
		case asking <- struct{}{}:
			if g.waits(m) {
				runtime.Gosched() // those who are about to ask, ask now
			}
			if all := g.next(m); all != nil {
				go g.askAll(all)
			} else {
				<-g.asking
			}
		case <-ctx.Done():
			if g.withdraw(m) || g.reads {
				return none, wrap(g.what+": waiting for others", ctx.Err())
			}
			<-m.answered // it is being asked, and that ends
			return m.outcome()
		}
	}
}

func (g *group[Q, A]) waits(m *member[Q, A]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !m.taken
}

// next returns what is to be asked next, or nil if m no longer waits.
func (g *group[Q, A]) next(m *member[Q, A]) []*member[Q, A] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.taken {
		return nil
	}
	n := min(len(g.waiting), groupSize)
	all := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	for _, one := range all {
		one.taken = true
	}
	return all
}

// withdraw reports whether m was still waiting, and now is not.
func (g *group[Q, A]) withdraw(m *member[Q, A]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.taken {
		return false
	}
	m.taken = true
	i := slices.Index(g.waiting, m)
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// askAll asks some questions, and tells each its answer. Where asking panics, all callers
// are told so, and the first one panics too.
func (g *group[Q, A]) askAll(all []*member[Q, A]) {
	defer func() { <-g.asking }()
	var answers []A
	err := fmt.Errorf("database: %s: asking ended its goroutine", g.what)
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("database: %s: panic: %v\n%s", g.what, cause, debug.Stack())
			all[0].panicked = err
		}
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
// dead, another can have one that is not, where there are two.
const readers = 2

// reader returns a function that reads one of what read reads together, and returns
// ErrNotFound where there is none.
func reader[Q, A any](what string, read func(context.Context, []Q) ([]*A, error)) func(context.Context, Q) (A, error) {
	attempt := func(ctx context.Context, all []Q) ([]*A, error) {
		ctx, cancel := context.WithTimeout(ctx, patience/2)
		defer cancel()
		return read(ctx, all)
	}
	g := &group[Q, *A]{what: what, asking: make(chan struct{}, readers), reads: true}
	g.ask = func(ctx context.Context, all []Q) ([]*A, error) {
		found, err := attempt(ctx, all)
		if err != nil { // by a connection, perhaps, that has ended, or is dead
			found, err = attempt(ctx, all)
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
