package redisreplay

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/replay/internal/remote"
)

// Config says which Redis, and what is accepted of it.
type Config struct {
	// URL names the server: redis://[user]:password@host:port/db, or rediss:// for
	// TLS, which every host but a loopback address needs. Required.
	URL string
	// RootCAs are the authorities that vouch for the server. Nil: the system's.
	RootCAs *x509.CertPool
	// Certificates are shown to a server that asks for one.
	Certificates []tls.Certificate
	// Prefix begins every key: the same for all replicas. Empty: "handoff:".
	Prefix string
	// Skew is the largest skew of a verifier that uses the store, and of the clocks
	// of replicas and Redis; at most 60 s. Zero: 5 s.
	Skew time.Duration
	// Timeout is how long a redemption may take, 10 ms to 5 s; then it is refused.
	// It should be well under the deadline of the call. Zero: 150 ms.
	Timeout time.Duration
	// WaitReplicas is how many of the server's replicas must have a redemption
	// before it succeeds (WAIT). It must make a majority with the server itself.
	// Zero, for a server that has no replicas.
	WaitReplicas int
	// AppendFsync states the server's appendfsync and with it that
	// no-appendfsync-on-rewrite is no, where the server does not show them because
	// CONFIG is forbidden. Empty, where it does.
	AppendFsync string
	// AcceptLastSecondLoss accepts a server whose appendfsync is everysec: when its
	// machine crashes, redemptions of the last second can be accepted again.
	AcceptLastSecondLoss bool
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Observe is told when the store starts over (replay.StartedOver), starts to
	// refuse (replay.Failed), at the first doubt and once more when a check has
	// found what is wrong, and goes on (replay.Resumed). It must return soon. Nil:
	// nobody.
	Observe func(replay.Event)
}

const (
	defaultTimeout = 150 * time.Millisecond
	maxTimeout     = 5 * time.Second
	defaultPrefix  = "handoff:"
)

// complete fills in what is not set, and names what cannot be.
func (c Config) complete() (Config, error) {
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	c.Skew = cmp.Or(c.Skew, handoff.DefaultSkew)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(replay.Event) {}
	}
	switch {
	case c.Skew < 0 || c.Skew > handoff.MaxSkew:
		return c, refused("Skew", "is %s: it must be at most %s, and not negative", c.Skew, handoff.MaxSkew)
	case c.Timeout < 10*time.Millisecond || c.Timeout > maxTimeout:
		return c, refused("Timeout", "is %s: it must be 10ms to %s", c.Timeout, maxTimeout)
	case c.WaitReplicas < 0:
		return c, refused("WaitReplicas", "is negative")
	}
	switch c.AppendFsync {
	case "", "always", "everysec":
		return c, nil
	}
	return c, refused("AppendFsync", `must be "always" or "everysec", as the server has it, or empty`)
}

// refused names a field of Config.
func refused(field, problem string, args ...any) error {
	return &handoff.ConfigError{Field: "redisreplay.Config." + field, Problem: fmt.Sprintf(problem, args...)}
}

// An UnfitError says why a Redis cannot keep redemptions. Each of Problems is a
// *handoff.ConfigError if a field of Config could be at fault, or else names what
// must be changed at the Redis.
type UnfitError struct{ Problems []error }

// Error lists the problems.
func (e *UnfitError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		texts[i] = problem.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the problems.
func (e *UnfitError) Unwrap() []error { return e.Problems }

// Store is a handoff.Store for several replicas, in one Redis. It is safe for
// concurrent use.
type Store struct {
	config Config
	server server
	calls  chan *call

	status atomic.Pointer[status]
	doubts chan struct{}

	checking sync.Mutex // of what follows
	lossy    bool       // the server may have lost marks since the epoch began
	seen     report     // the last

	answering sync.Mutex // of what follows
	progress  progress   // of the Redis, by its latest answer

	closed  chan struct{}
	close   func() // once
	stopped sync.WaitGroup
}

// Open connects to the Redis, checks how it is set up, and returns an error that
// names what must be changed. ctx bounds only the opening.
func Open(ctx context.Context, c Config) (*Store, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	server, err := newServer(c)
	if err != nil {
		return nil, err
	}
	s := &Store{
		config: c, server: server,
		calls: make(chan *call, maxWaiting), doubts: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	s.close = sync.OnceFunc(func() { close(s.closed) })
	l, err := s.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the Redis: %w", err)
	}
	s.status.Store(&status{epoch: l.epoch})
	s.stopped.Go(func() { s.watch(l) })
	for range workers {
		s.stopped.Go((&worker{Store: s}).work)
	}
	return s, nil
}

// Close ends the store: redemptions that wait are refused. The marks stay.
func (s *Store) Close() error {
	s.close()
	s.stopped.Wait()
	return nil
}

// Skew returns the skew that the store covers. NewVerifier refuses a larger one.
func (s *Store) Skew() time.Duration { return s.config.Skew }

// Ready returns from when on tokens are issued that the store accepts. It lies in
// the past, except for a Redis that has started over.
func (s *Store) Ready() time.Time {
	return s.bounds().Ready(s.status.Load().epoch.began)
}

// Healthy returns nil if the store can accept redemptions now, or why not.
func (s *Store) Healthy() error {
	status := s.status.Load()
	return s.bounds().Healthy(status.epoch.began, status.err)
}

func (s *Store) bounds() remote.Bounds {
	return remote.Bounds{Server: "Redis", Skew: s.config.Skew, Now: s.config.Now}
}
