package trust

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/ident"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// Feed is where a follower reads the trust list: FileFeed, HTTPSFeed, StreamFeed,
// or any other way, as the list carries its own proof.
type Feed interface {
	// Follow calls deliver with each statement that it reads, one at a time, until
	// ctx ends, reading fails, or deliver returns an error; it returns why. It is
	// called again after a pause. have is the digest of the entries that the follower
	// has, in base64url; empty: none. fetch is called during deliver, where the
	// statement names others.
	Follow(ctx context.Context, have string, deliver func(statement string, fetch Fetch) error) error
}

// Fetch returns the entries with a digest, or what they differ by from those that
// the follower has. Both digests are in base64url; have may be empty.
type Fetch func(ctx context.Context, digest, have string) (text string, err error)

// FollowerConfig says whom a follower believes, and how long.
type FollowerConfig struct {
	// Issuer is the `iss` of the list, byte for byte. Required.
	Issuer string
	// TrustKeys are the issuer's trust keys: one, or two while it changes.
	// Required.
	TrustKeys []handoff.Key
	// Feed is where the list is read. Required.
	Feed Feed
	// Others are further places: the newest valid list wins.
	Others []Feed
	// Floor keeps the number of the list in force, so that no older one is believed
	// after a restart. Nil: nothing keeps it, and for MaxStaleness after a restart
	// an older list may be.
	Floor Floor
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

// defaultMaxStaleness is the age at which a list is no longer relied on, when a
// follower is not told.
const defaultMaxStaleness = 10 * time.Second

// Follower holds the newest trust list of one issuer. It is a handoff.KeySource
// and a handoff.Revocations: give it to a handoff.Verifier. It is safe for
// concurrent use.
type Follower struct {
	config    FollowerConfig
	trustKeys *keyset.Set
	current   atomic.Pointer[snapshot]

	mu         sync.Mutex // held while a list is put in force, and for what follows
	floor      int64      // no list with a lower number is believed
	floorKnown bool
	reported   map[faultKey]bool // since the newest list; nil before the first
	rolledBack time.Time         // when that was reported
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
	config.MaxStaleness = cmp.Or(config.MaxStaleness, defaultMaxStaleness)
	config.Skew = cmp.Or(config.Skew, handoff.DefaultSkew)
	if config.Now == nil {
		config.Now = time.Now
	}
	switch {
	case !ident.Name(config.Issuer):
		return nil, refused("FollowerConfig.Issuer", "must be 1 to 255 visible ASCII characters without space, quote or backslash")
	case len(config.TrustKeys) < 1 || len(config.TrustKeys) > 2:
		return nil, refused("FollowerConfig.TrustKeys", "has %d keys: it takes one, or two while the trust key changes", len(config.TrustKeys))
	case config.Feed == nil:
		return nil, refused("FollowerConfig.Feed", "is required")
	case slices.Contains(config.Others, nil):
		return nil, refused("FollowerConfig.Others", "has a feed that is nil")
	case config.MaxStaleness < time.Second || config.MaxStaleness > MaxListLifetime:
		return nil, refused("FollowerConfig.MaxStaleness", "is %s: it must be from 1s to %s", config.MaxStaleness, MaxListLifetime)
	case config.Skew < 0 || config.Skew > handoff.MaxSkew:
		return nil, refused("FollowerConfig.Skew", "is %s: it must be at most %s, and not negative", config.Skew, handoff.MaxSkew)
	}
	trustKeys, err := keyset.New(config.TrustKeys...)
	if err != nil {
		return nil, &handoff.ConfigError{Field: "trust.FollowerConfig.TrustKeys", Problem: "cannot be relied on", Err: err}
	}
	return &Follower{config: config, trustKeys: trustKeys, floorKnown: config.Floor == nil}, nil
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

// Keys returns the keys that the list names, and none while there is no list to
// rely on.
func (f *Follower) Keys() []handoff.Key {
	s, err := f.relied()
	if err != nil {
		return nil
	}
	return slices.Clone(s.list.keys)
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
	case s.list.lists(claims):
		return nil
	case claims.IssuedAt.Add(f.config.Skew).Before(s.list.issuedAt):
		return handoff.ErrRevoked // it was never issued, or does not stand any more
	}
	return errNotYetListed
}

var (
	errNoListYet   = errors.New("no trust list has been read yet")
	errStale       = errors.New("the trust list is too old to rely on")
	errClockBack   = errors.New("the clock is behind the trust list")
	errOtherIssuer = errors.New("the trust list is another issuer's")
	// Where visits are listed, one that is younger than the list may be on the next. To
	// let it pass would be to let everything pass that a stolen key signs now.
	errNotYetListed = errors.New("the visit is younger than the trust list, and not on it")
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

// Status is what a follower holds or a publisher has published, for logs and metrics.
type Status struct {
	Seq      int64     // of the list; zero: there is none yet
	IssuedAt time.Time // of the list
	Keys     int       // that may sign now
	Entries  int       // of what has been taken back
	Visits   int       // that are listed as standing
}

// Status returns what the follower holds, whether or not it can be relied on.
func (f *Follower) Status() Status {
	s := f.current.Load()
	if s == nil {
		return Status{}
	}
	return s.list.status()
}

func (l *list) status() Status {
	return Status{Seq: l.seq, IssuedAt: l.issuedAt, Keys: len(l.keys), Entries: l.len(), Visits: len(l.live)}
}

// apply puts a list in force if it is to be believed, current, and newer than the
// one before. It returns its number, and whether it is newer; the same one again is
// no error.
func (f *Follower) apply(ctx context.Context, raw string, fetch Fetch) (seq int64, newer bool, err error) {
	s, err := f.judge(ctx, raw)
	if err != nil {
		return 0, false, err
	}
	if newer, err := f.isNewer(ctx, s); !newer {
		return s.list.seq, false, err
	}
	// Other feeds need not wait for what this one reads.
	if s.list.entries, err = f.entries(ctx, s.list, fetch); err != nil {
		return 0, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if newer, err := f.isNewerLocked(ctx, s); !newer {
		return s.list.seq, false, err
	}
	if f.config.Floor != nil {
		// A newer list may take something back: it is in force even so.
		if err := f.config.Floor.Raise(ctx, f.config.Issuer, s.list.seq); err != nil {
			f.tell(Event{Fault: FaultFloor, Err: err})
		}
	}
	f.floor = s.list.seq
	f.current.Store(s)
	return s.list.seq, true, nil
}

// judge returns what a statement says, if it is to be believed and current. Its
// entries are not known yet.
func (f *Follower) judge(ctx context.Context, raw string) (*snapshot, error) {
	l, err := open(ctx, raw, f.trustKeys)
	if err != nil {
		return nil, err
	}
	now := f.config.Now()
	ahead := now.Add(f.config.Skew)
	end := l.issuedAt.Add(f.config.MaxStaleness)
	if l.expires.Before(end) {
		end = l.expires
	}
	switch {
	case l.issuer != f.config.Issuer:
		return nil, &listError{fault: FaultIssuer, text: "iss is another issuer"}
	case slices.ContainsFunc(l.keys, f.isTrustKey):
		return nil, &listError{fault: FaultKeys, text: "it lists a trust key, which must sign nothing else"}
	case l.issuedAt.After(ahead) || l.seq > ahead.UnixMilli():
		return nil, &listError{fault: FaultFuture, text: "iat or seq is further ahead than clocks may differ"}
	case !now.Before(l.expires):
		return nil, &listError{fault: FaultExpired, text: "it has expired"}
	case !now.Before(end):
		return nil, tooOld()
	}
	s := &snapshot{
		list: l, keys: make(map[string]handoff.Key, len(l.keys)), signature: strings.Clone(raw[strings.LastIndexByte(raw, '.'):]),
		applied: now, left: min(end.Sub(now), f.config.MaxStaleness),
		from: l.issuedAt.Add(-f.config.Skew), end: end,
	}
	for _, key := range l.keys {
		s.keys[key.ID()] = key
	}
	return s, nil
}

func (f *Follower) isNewer(ctx context.Context, s *snapshot) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isNewerLocked(ctx, s)
}

// isNewerLocked compares a list with the one in force and, before the first, with
// the number that has been kept.
func (f *Follower) isNewerLocked(ctx context.Context, s *snapshot) (bool, error) {
	if !f.floorKnown {
		kept, err := f.config.Floor.Floor(ctx, f.config.Issuer)
		if err != nil {
			return false, &listError{fault: FaultFloor, text: "the number of the last one in force cannot be read", err: err}
		}
		f.floor, f.floorKnown = kept, true
	}
	former := f.current.Load()
	switch {
	case former != nil && former.list.seq == s.list.seq && former.signature == s.signature:
		return false, nil
	case former != nil && former.list.seq >= s.list.seq:
		return false, &listError{fault: FaultRolledBack, text: "seq is not greater than that of the list in force"}
	case s.list.seq < f.floor:
		return false, &listError{fault: FaultRolledBack, text: "seq is lower than that of a list that was in force before the restart"}
	}
	return true, nil
}

// entries returns those that a statement names: the ones in force, or what is
// fetched.
func (f *Follower) entries(ctx context.Context, l *list, fetch Fetch) (*entries, error) {
	if l.digest == hash(newEntries().encode()) {
		return newEntries(), nil
	}
	var have *list
	known := ""
	if s := f.current.Load(); s != nil {
		have, known = s.list, base64url.EncodeToString(s.list.digest[:])
		if have.digest == l.digest {
			return have.entries, nil
		}
	}
	want := base64url.EncodeToString(l.digest[:])
	text, err := fetch(ctx, want, known)
	if err != nil {
		return nil, err
	}
	e, err := become(text, l.digest, have)
	if err != nil && strings.HasPrefix(text, beginsChange) { // then whole
		if text, err = fetch(ctx, want, ""); err != nil {
			return nil, err
		}
		e, err = become(text, l.digest, nil)
	}
	if err != nil {
		return nil, &listError{fault: FaultEntries, text: err.Error()}
	}
	return e, nil
}

// has returns the digest of the entries in force, in base64url.
func (f *Follower) has() string {
	if s := f.current.Load(); s != nil {
		return base64url.EncodeToString(s.list.digest[:])
	}
	return ""
}

func (f *Follower) isTrustKey(k handoff.Key) bool {
	_, err := f.trustKeys.Key(context.Background(), k.ID())
	return err == nil
}
