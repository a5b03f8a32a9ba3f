package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Source is the issuer's store, of any kind, as a publisher reads it.
// Implementations are safe for concurrent use.
//
// A Source that several publishers share, or whose publisher may start again after
// its clock was set back, should also implement Sequencer.
type Source interface {
	// State returns all that is recorded, at one moment: at least everything whose
	// recording had been acknowledged before the call. Never a part of it: where
	// anything is in doubt, an error, and nothing is signed.
	State(ctx context.Context) (State, error)
}

// Sequencer is implemented by a Source that keeps the lists' numbers, so that no two
// lists ever have the same, even with several signers or wrong clocks.
type Sequencer interface {
	// NextSeq returns a number that it has never returned before and greater than
	// all those: the greater of atLeast and the last one plus 1. In SQL:
	//
	//	UPDATE trust SET seq = max(seq + 1, ?) RETURNING seq
	//
	// A store that has a clock of its own should refuse what is further ahead of it
	// than Terms.Skew: one publisher with a wrong clock would use up the numbers of
	// all, until the time has come that its clock said.
	NextSeq(ctx context.Context, atLeast int64) (int64, error)
}

// PublisherConfig says what a publisher signs.
type PublisherConfig struct {
	// Terms are the issuer's. Terms.Issuer is required.
	Terms Terms
	// Key is the trust key, which signs lists and nothing else. Required.
	Key handoff.SignerSource
	// Source is what the lists state. Required.
	Source Source
	// Refresh is how long a list stays the newest where nothing changes, at most
	// half of Terms.ListLifetime. A follower that tolerates lists of an age of 10 s
	// should get one every 2 s or so. Zero: 2 s, or that half where it is less.
	Refresh time.Duration
	// File is where the newest list is kept as well, replaced atomically, for
	// followers that read files or for a web server. Empty: nowhere.
	File string
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Report, if not nil, is told by Run why no list could be signed or written,
	// each cause once, and nil when one can again. It must not block.
	Report func(error)
}

// DefaultRefresh is how often a list is signed where nothing changes.
const DefaultRefresh = 2 * time.Second

// Publisher signs the trust list and hands it out. It is safe for concurrent
// use.
type Publisher struct {
	config  PublisherConfig
	changed chan struct{}
	stopped chan struct{}
	stop    func()
	current atomic.Pointer[edition]
	archive archive

	begun   atomic.Int64 // how many lists have been begun
	mu      sync.Mutex   // held while a list is made
	seq     int64        // of the newest
	draft   draft
	failure atomic.Pointer[error]

	reported map[string]bool // causes; Run's alone
}

// edition is a list that has been signed. It is immutable.
type edition struct {
	begun      int64  // its place among those that were begun
	raw        string // the statement
	keys       []byte // the JWK Set
	seq        int64
	expires    time.Time
	digest     string // of the entries, base64url
	status     Status
	superseded chan struct{} // closed when there is a newer one
}

// NewPublisher returns a publisher, or an error that names the field of config
// that it refuses. It hands out nothing until Run or Publish has signed.
func NewPublisher(config PublisherConfig) (*Publisher, error) {
	terms, err := config.Terms.check()
	if err != nil {
		return nil, err
	}
	config.Terms = terms
	switch {
	case config.Key == nil:
		return nil, refused("PublisherConfig.Key", "is required: it is the trust key")
	case config.Source == nil:
		return nil, refused("PublisherConfig.Source", "is required")
	}
	config.Refresh = cmp.Or(config.Refresh, min(DefaultRefresh, terms.ListLifetime/2))
	if config.Refresh < 0 || config.Refresh > terms.ListLifetime/2 {
		return nil, refused("PublisherConfig.Refresh", "is %s: it must be at most half of Terms.ListLifetime, %s, and not negative", config.Refresh, terms.ListLifetime/2)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	p := &Publisher{
		config:   config,
		changed:  make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		reported: map[string]bool{},
	}
	p.stop = sync.OnceFunc(func() { close(p.stopped) })
	notYet := errors.New("no trust list has been signed yet")
	p.failure.Store(&notYet)
	return p, nil
}

// Changed says that the store has something new, after it has become durable and
// before it is acknowledged. Run then signs a list within a moment, not only at
// the next refresh. It does not block; where others write to the same store, call
// it when they have.
func (p *Publisher) Changed() {
	select {
	case p.changed <- struct{}{}:
	default: // a signal that is still waiting covers this change too
	}
}

// Published says that the store has something new, as Changed, and waits until a list
// has been signed whose state was read after the call: until what the caller has
// recorded is in force at the audiences that have heard of it. It needs Run.
func (p *Publisher) Published(ctx context.Context) error {
	after := p.begun.Load()
	p.Changed()
	for {
		e := p.current.Load()
		if e != nil && e.begun > after {
			return nil
		}
		var next <-chan struct{}
		retry := 10 * time.Millisecond // before the first list
		if e != nil {
			next, retry = e.superseded, time.Minute
		}
		select {
		case <-next:
		case <-time.After(retry):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for a trust list: %w", ctx.Err())
		}
	}
}

// Run keeps the newest list fresh until ctx ends. Then the watchers' streams end
// too, so that a server can stop. Call Run once.
//
// While the store fails, the last list is handed out until it expires, and no
// other is made up.
func (p *Publisher) Run(ctx context.Context) {
	defer p.stop()
	retry := backoff{first: 50 * time.Millisecond, most: p.config.Refresh}
	for {
		start := p.config.Now()
		wait := p.config.Refresh
		if err := p.attempt(ctx); err != nil {
			wait = retry.next()
		} else {
			retry.reset()
		}
		// Changes come in bursts, and a long list takes its time: half of it is left
		// to others.
		gap := min(max(p.config.Now().Sub(start), minGap), maxGap)
		if !pause(ctx, gap, nil) || !pause(ctx, wait-gap, p.changed) {
			return
		}
	}
}

// Between two lists lies at least as long as the former took to make, within
// these bounds: a change waits for no more than maxGap.
const (
	minGap = 20 * time.Millisecond
	maxGap = 300 * time.Millisecond
)

// attempt publishes and reports. A store that does not answer is one that fails.
func (p *Publisher) attempt(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, max(2*p.config.Refresh, time.Second))
	defer cancel()
	err := p.Publish(limited)
	if ctx.Err() != nil {
		return err
	}
	switch {
	case p.config.Report == nil:
	case err == nil && len(p.reported) > 0:
		clear(p.reported)
		p.config.Report(nil)
	case err != nil && !p.reported[err.Error()] && len(p.reported) < maxReported:
		p.reported[err.Error()] = true
		p.config.Report(err)
	}
	return err
}

// maxReported bounds what is remembered of causes whose texts differ each time.
const maxReported = 16

// Publish reads the store, signs a list and hands it out, now. Run does so by
// itself; a command that writes one list calls Publish alone. On failure the last
// list stays.
func (p *Publisher) Publish(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.publish(ctx)
	p.failure.Store(&err)
	return err
}

func (p *Publisher) publish(ctx context.Context) error {
	// The clock is read first: the list's age must never be less than its content's.
	begun, now := p.begun.Add(1), p.config.Now()
	seq, err := p.nextSeq(ctx, now)
	if err != nil {
		return err
	}
	state, err := p.config.Source.State(ctx)
	if err != nil {
		return fmt.Errorf("the trust list's source: %w", err)
	}
	signer, err := p.config.Key.Signer(ctx)
	if err != nil {
		return fmt.Errorf("no trust key: %w", err)
	}
	if slices.ContainsFunc(state.Keys, func(k handoff.Key) bool { return k.ID() == signer.Key().ID() }) {
		return errors.New("the state lists the trust key: it must sign nothing but trust lists")
	}
	l, err := newList(p.config.Terms, state, seq, now, &p.draft)
	if err != nil {
		return err
	}
	payload, err := l.encode()
	if err != nil {
		return fmt.Errorf("the state's keys: %w", err)
	}
	raw, err := profile.Seal(ctx, payload, signer)
	if err != nil {
		return fmt.Errorf("signing the trust list: %w", err)
	}
	return p.replace(l, p.draft.text, raw, begun)
}

// nextSeq numbers a list: its Unix time in milliseconds, or one more than the
// last where that is not greater.
func (p *Publisher) nextSeq(ctx context.Context, now time.Time) (int64, error) {
	seq := max(p.seq+1, now.UnixMilli())
	if shared, ok := p.config.Source.(Sequencer); ok && !p.isAhead(seq) {
		var err error
		if seq, err = shared.NextSeq(ctx, seq); err != nil {
			return 0, fmt.Errorf("the trust list's number: %w", err)
		}
	}
	switch {
	case seq <= p.seq:
		return 0, errors.New("the trust list's number is not greater than the last")
	case p.isAhead(seq): // by the clock as it is now: others may have drawn numbers meanwhile
		return 0, errors.New("the clock is behind the last trust list: followers would refuse the next")
	}
	return seq, nil
}

func (p *Publisher) isAhead(seq int64) bool {
	return seq > p.config.Now().Add(p.config.Terms.Skew).UnixMilli()
}

// replace makes a signed list the newest, wakes the watchers and writes the file.
func (p *Publisher) replace(l *list, text []byte, raw string, begun int64) error {
	set, err := jwks(l.keys)
	if err != nil {
		return err
	}
	p.seq = l.seq
	p.archive.add(l, text, p.config.Now()) // before anybody hears of it
	former := p.current.Swap(&edition{
		begun: begun, raw: raw, keys: append(append([]byte(`{"keys":`), set...), '}'),
		seq: l.seq, expires: l.expires, status: l.status(), digest: base64url.EncodeToString(l.digest[:]), superseded: make(chan struct{}),
	})
	if former != nil {
		close(former.superseded)
	}
	if p.config.File == "" {
		return nil
	}
	if err := replaceFile(p.config.File, raw+"\n"+string(text)+"\n", 0o644); err != nil {
		return fmt.Errorf("writing the trust list: %w", err)
	}
	return nil
}

// Healthy returns nil while the newest list is current and the last attempt to
// make one succeeded, and otherwise what is wrong.
func (p *Publisher) Healthy() error {
	if err := p.failure.Load(); *err != nil {
		return *err
	}
	if p.newest() == nil {
		return errors.New("the newest trust list has expired")
	}
	return nil
}

// Status returns what the newest list says, whether or not it can still be relied on.
func (p *Publisher) Status() Status {
	if e := p.current.Load(); e != nil {
		return e.status
	}
	return Status{}
}

// newest returns the newest list, or nil where there is none to rely on.
func (p *Publisher) newest() *edition {
	e := p.current.Load()
	if e == nil || !p.config.Now().Before(e.expires) {
		return nil
	}
	return e
}
