package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// Feed is where a follower reads the trust list: FileFeed, HTTPSFeed, StreamFeed,
// or any other way, as the list carries its own proof.
type Feed interface {
	// Follow calls deliver with each list that it reads, one at a time, until ctx
	// ends, reading fails, or deliver returns an error; it returns why. It is
	// called again after a pause.
	Follow(ctx context.Context, deliver func(raw string) error) error
}

// FollowerConfig says whom a follower believes, and how long.
type FollowerConfig struct {
	// Issuer is the `iss` of the list, byte for byte. Required.
	Issuer string
	// TrustKeys are the issuer's trust keys: one, or two while it changes.
	// Required.
	TrustKeys []handoff.Key
	// Feed is where the list is read. Required.
	Feed Feed
	// MaxStaleness is the age of a list (now - iat) at which it is no longer
	// relied on, from 1 s to 24 h. Zero: 10 s. The issuer should sign at least four
	// lists in that time.
	MaxStaleness time.Duration
	// Skew is how far ahead the issuer's clock may be, at most 60 s. Zero: 5 s.
	Skew time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Report, if not nil, is told what Run meets, each distinct fault once until a
	// newer list is in force, and FaultRolledBack once a minute. It must not block.
	Report func(Event)
}

// DefaultMaxStaleness is the age at which a list is no longer relied on, when a
// follower is not told.
const DefaultMaxStaleness = 10 * time.Second

// Follower holds the newest trust list of one issuer. It is a handoff.KeySource
// and a handoff.Revocations: give it to a handoff.Verifier. It is safe for
// concurrent use.
type Follower struct {
	config    FollowerConfig
	trustKeys *keyset.Set
	current   atomic.Pointer[snapshot]

	// Run's alone.
	failures   int               // since the newest list
	reported   map[faultKey]bool // since the newest list; nil before the first
	rolledBack time.Time         // when that was reported
	retry      backoff
}

// snapshot is a list in force, with the time that it has. It is immutable.
type snapshot struct {
	list      *list
	keys      map[string]handoff.Key
	signature string
	applied   time.Time     // with the clock's monotonic reading
	left      time.Duration // from applied on
	from, end time.Time     // by the wall clock
}

// NewFollower returns a follower, or an error that names the field of config that
// it refuses. Until Run has read a list, it refuses every token with TRUST_STALE.
func NewFollower(config FollowerConfig) (*Follower, error) {
	if config.MaxStaleness == 0 {
		config.MaxStaleness = DefaultMaxStaleness
	}
	if config.Skew == 0 {
		config.Skew = handoff.DefaultSkew
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	switch {
	case !isName(config.Issuer):
		return nil, errors.New("FollowerConfig.Issuer must be 1 to 255 visible ASCII characters without space, quote or backslash")
	case len(config.TrustKeys) < 1 || len(config.TrustKeys) > 2:
		return nil, fmt.Errorf("FollowerConfig.TrustKeys has %d keys: it takes one, or two while the trust key changes", len(config.TrustKeys))
	case config.Feed == nil:
		return nil, errors.New("FollowerConfig.Feed is required")
	case config.MaxStaleness < time.Second || config.MaxStaleness > MaxListLifetime:
		return nil, fmt.Errorf("FollowerConfig.MaxStaleness is %s: it must be from 1s to %s", config.MaxStaleness, MaxListLifetime)
	case config.Skew < 0 || config.Skew > handoff.MaxSkew:
		return nil, fmt.Errorf("FollowerConfig.Skew is %s: it must be at most %s, and not negative", config.Skew, handoff.MaxSkew)
	}
	trustKeys, err := keyset.New(config.TrustKeys...)
	if err != nil {
		return nil, fmt.Errorf("FollowerConfig.TrustKeys: %w", err)
	}
	return &Follower{
		config: config, trustKeys: trustKeys,
		retry: backoff{first: 50 * time.Millisecond, most: 500 * time.Millisecond},
	}, nil
}

// Key returns the key with this id if the list names it, with what the list has
// taken back, handoff.ErrKeyUnknown
// if it does not, and another error while there is no list to rely on.
func (f *Follower) Key(_ context.Context, kid string) (handoff.Key, error) {
	s, err := f.relied()
	if err != nil {
		return handoff.Key{}, err
	}
	key, ok := s.keys[kid]
	if !ok {
		return handoff.Key{}, handoff.ErrKeyUnknown
	}
	return key.WithRevocations(f), nil
}

// Revoked returns nil if the list lets the token stand, handoff.ErrRevoked if it
// takes it back, and another error while there is no list to rely on. It does not
// allocate.
func (f *Follower) Revoked(_ context.Context, claims *handoff.Claims) error {
	s, err := f.relied()
	switch {
	case err != nil:
		return err
	case claims.Issuer != s.list.issuer:
		return errOtherIssuer
	case s.list.revoked(claims):
		return handoff.ErrRevoked
	}
	return nil
}

var (
	errNoListYet   = errors.New("no trust list has been read yet")
	errStale       = errors.New("the trust list is too old to rely on")
	errClockBack   = errors.New("the clock is behind the trust list")
	errOtherIssuer = errors.New("the trust list is another issuer's")
)

// Healthy returns nil while there is a list to rely on, and otherwise why not.
func (f *Follower) Healthy() error {
	_, err := f.relied()
	return err
}

// relied returns the list if it can be relied on now. Its age is what the wall
// clock says, and no less than what the monotonic clock says since it came: a
// wall clock that is set back makes no list younger.
func (f *Follower) relied() (*snapshot, error) {
	s := f.current.Load()
	if s == nil {
		return nil, errNoListYet
	}
	now := f.config.Now()
	switch {
	case !now.Before(s.end), now.Sub(s.applied) >= s.left:
		return nil, errStale
	case now.Before(s.from):
		return nil, errClockBack
	}
	return s, nil
}

// Status is what a follower holds, for logs and metrics.
type Status struct {
	Seq      int64     // of the list; zero: there is none yet
	IssuedAt time.Time // of the list
	Keys     int       // that may sign now
	Entries  int       // of what has been taken back
}

// Status returns what the follower holds, whether or not it can be relied on.
func (f *Follower) Status() Status {
	s := f.current.Load()
	if s == nil {
		return Status{}
	}
	l := s.list
	return Status{
		Seq: l.seq, IssuedAt: l.issuedAt, Keys: len(l.keys),
		Entries: len(l.tokens) + len(l.sessions) + len(l.subjects),
	}
}

// apply puts a list in force if it is to be believed, current, and newer than the
// one before. It reports whether it is newer; the same one again is no error.
func (f *Follower) apply(ctx context.Context, raw string) (newer bool, err error) {
	l, err := open(ctx, raw, f.trustKeys)
	if err != nil {
		return false, err
	}
	now := f.config.Now()
	ahead := now.Add(f.config.Skew)
	end := l.issuedAt.Add(f.config.MaxStaleness)
	if l.expires.Before(end) {
		end = l.expires
	}
	former := f.current.Load()
	signature := raw[strings.LastIndexByte(raw, '.'):]
	switch {
	case l.issuer != f.config.Issuer:
		return false, &listError{fault: FaultIssuer, text: "iss is another issuer"}
	case slices.ContainsFunc(l.keys, f.isTrustKey):
		return false, &listError{fault: FaultKeys, text: "it lists a trust key, which must sign nothing else"}
	case l.issuedAt.After(ahead) || l.seq > ahead.UnixMilli():
		return false, &listError{fault: FaultFuture, text: "iat or seq is further ahead than clocks may differ"}
	case !now.Before(l.expires):
		return false, &listError{fault: FaultExpired, text: "it has expired"}
	case !now.Before(end):
		return false, tooOld()
	case former != nil && former.list.seq == l.seq && former.signature == signature:
		return false, nil
	case former != nil && former.list.seq >= l.seq:
		return false, &listError{fault: FaultRolledBack, text: "seq is not greater than that of the list in force"}
	}
	s := &snapshot{
		list: l, keys: make(map[string]handoff.Key, len(l.keys)), signature: strings.Clone(signature),
		applied: now, left: min(end.Sub(now), f.config.MaxStaleness),
		from: l.issuedAt.Add(-f.config.Skew), end: end,
	}
	for _, key := range l.keys {
		s.keys[key.ID()] = key
	}
	f.current.Store(s)
	return true, nil
}

func (f *Follower) isTrustKey(k handoff.Key) bool {
	_, err := f.trustKeys.Key(context.Background(), k.ID())
	return err == nil
}
