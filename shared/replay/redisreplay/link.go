package redisreplay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/replay"
)

const (
	leastToConnect = time.Second            // to make a connection and check its server
	checkEvery     = 2 * time.Second        // while all is well
	retryEvery     = 100 * time.Millisecond // while it is not
	maxIdle        = 10 * time.Second       // then a new link is made: something on the way may have given it up
)

// connectTimeout is how long it may take to make a connection and check its server:
// a second, or more where a redemption may take more.
func (c *Config) connectTimeout() time.Duration { return max(leastToConnect, c.Timeout) }

// link is a connection whose server was checked after it was made. One goroutine
// uses it.
type link struct {
	*connection
	keys  keys
	epoch epoch
	count int64 // that the last answer told
	round int   // the status's when it was made
	used  time.Time
}

// status is whether the Redis takes redemptions. Each change begins a round, for
// which every link is replaced.
type status struct {
	round int
	epoch epoch
	err   error // nil if it does
	doubt bool  // err is a redemption's, and no check's
}

// connect makes a connection and checks the server at its other end.
func (s *Store) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.connectTimeout())
	defer cancel()
	c, err := s.server.dial()
	if err != nil {
		return nil, err
	}
	e, err := s.check(ctx, c)
	if err != nil {
		c.close()
		if errors.Is(err, context.DeadlineExceeded) && s.server.option.TLSConfig != nil {
			err = fmt.Errorf("%w: does the port speak TLS?", err)
		}
		return nil, err
	}
	return &link{connection: c, keys: s.keys(), epoch: e}, nil
}

func (s *Store) keys() keys { return keys(s.config.Prefix) }

// check returns the epoch of the server at the other end of c, if it keeps marks.
// Where it may have lost some, that begins a new one.
func (s *Store) check(ctx context.Context, c *connection) (epoch, error) {
	s.checking.Lock()
	defer s.checking.Unlock()
	r, err := inspect(ctx, c.client)
	if err != nil {
		return epoch{}, err
	}
	now := s.config.Now()
	loses, unfit := r.loses(&s.config), r.unfit(&s.config, now)
	if len(loses) > 0 || r.run == s.seen.run && r.evicted > s.seen.evicted {
		s.lossy = true
	}
	if problems := append(loses, unfit...); len(problems) > 0 {
		return epoch{}, &UnfitError{problems}
	}
	p, begun, err := checkEpoch(ctx, c.client, s.keys(), r, s.lossy, s.reached(), now, s.config.Skew)
	if err != nil {
		return epoch{}, err
	}
	s.lossy, s.seen = false, r
	if !begun {
		s.see(p)
	} else {
		s.begin(p)
		s.config.Observe(replay.Event{Kind: replay.StartedOver, Err: errBegun})
	}
	return p.epoch, nil
}

// reached returns how far the Redis had come by its latest answer.
func (s *Store) reached() progress {
	s.answering.Lock()
	defer s.answering.Unlock()
	return s.progress
}

// see notes how far the Redis has come. Answers may arrive in another order than they
// were given in.
func (s *Store) see(p progress) {
	s.answering.Lock()
	defer s.answering.Unlock()
	if s.progress.before(p) {
		s.progress = p
	}
}

// begin is see for an epoch that this store has begun, though it be an earlier one.
func (s *Store) begin(p progress) {
	s.answering.Lock()
	defer s.answering.Unlock()
	s.progress = p
}

// watch checks the server every so often, on a connection of its own, and when a
// redemption meets with doubt.
func (s *Store) watch(l *link) {
	tick := time.NewTimer(checkEvery)
	defer tick.Stop()
	checked := time.Now()
	for {
		select {
		case <-s.closed:
			if l != nil {
				l.close()
			}
			return
		case <-tick.C:
		case <-s.doubts:
			if wait := retryEvery - time.Since(checked); wait > 0 {
				tick.Reset(wait)
				continue
			}
		}
		var err error
		if l, err = s.checkAgain(l); err != nil {
			tick.Reset(retryEvery)
		} else {
			tick.Reset(checkEvery)
		}
		checked = time.Now()
	}
}

// checkAgain makes known what a check finds. It returns no link after an error.
func (s *Store) checkAgain(l *link) (*link, error) {
	var err error
	if l == nil {
		l, err = s.connect(context.Background())
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), s.config.connectTimeout())
		defer cancel()
		if l.epoch, err = s.check(ctx, l.connection); err != nil {
			l.close()
			l = nil
		}
	}
	found := status{err: err}
	if err == nil {
		found.epoch = l.epoch
	}
	s.become(found)
	return l, err
}

// become begins a round with another status, unless nothing changes.
func (s *Store) become(now status) {
	was := s.status.Load()
	for {
		if now.doubt && was.err != nil || now.err == nil && was.err == nil && now.epoch == was.epoch {
			return
		}
		now.round = was.round + 1
		if now.err != nil {
			now.epoch = was.epoch
		}
		if s.status.CompareAndSwap(was, &now) {
			break
		}
		was = s.status.Load()
	}
	switch {
	case now.err != nil && (was.err == nil || was.doubt):
		s.config.Observe(replay.Event{Kind: replay.Failed, Err: now.err})
	case now.err == nil && was.err != nil:
		s.config.Observe(replay.Event{Kind: replay.Resumed})
	}
}

// suspect refuses every redemption until the server has been checked, which is
// done now.
func (s *Store) suspect(err error) {
	s.become(status{err: err, doubt: true})
	s.look()
}

// look has the server checked now.
func (s *Store) look() {
	select {
	case s.doubts <- struct{}{}:
	default:
	}
}

// worker sends redemptions over a link of its own.
type worker struct {
	*Store
	link *link // nil while there is none
}

// linked returns a link of this round.
func (w *worker) linked() (*link, error) {
	now := w.status.Load()
	if now.err != nil {
		return nil, fmt.Errorf("the Redis cannot be used: %w", now.err)
	}
	if w.link != nil && (w.link.round != now.round || time.Since(w.link.used) > maxIdle) {
		w.drop()
	}
	if w.link != nil {
		w.link.used = time.Now()
		return w.link, nil
	}
	l, err := w.connect(context.Background())
	if err != nil {
		w.suspect(err)
		return nil, err
	}
	l.round, l.used = now.round, time.Now()
	w.link = l
	return l, nil
}

// drop gives the link up: the next redemption makes another.
func (w *worker) drop() {
	if w.link != nil {
		w.link.close()
		w.link = nil
	}
}
