package replay

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Why a redemption is refused that no verifier lets through while its clock and
// the store's agree.
var (
	errTimePassed = errors.New("the token's time has passed by the store's clock, which never goes back: its mark may have been dropped")
	errTooFar     = errors.New("the token expires further ahead than any may live")
)

// errSkew is for a verifier that accepts what the store, once it started over, would not
// know to refuse. NewVerifier tells at once, unless the store is wrapped.
var errSkew = errors.New("the verifier's skew is larger than the store's: a restart would forget redemptions")

// marks remembers keys until they cannot matter any more. It is the memory of
// both embedded stores.
//
// A key lies in the shard that its hash names and, there, in the table of the
// time in which it may be forgotten, so that forgetting drops whole tables.
type marks struct {
	skew   time.Duration
	limit  int64
	now    func() time.Time
	after  time.Time    // what was issued at or before is refused; set before use
	passed time.Time    // what expires at or before is refused, by any clock; likewise
	clock  atomic.Int64 // the latest time seen, in Unix milliseconds
	swept  atomic.Int64 // the period up to which every shard has forgotten
	live   atomic.Int64
	shards []shard // a power of two
}

// period is how long a table collects: a mark is kept up to a period longer than
// it must be. A redemption looks into each table that is not empty, five or six
// while tokens live a minute.
const period = 16 * time.Second

// periods is how many tables a shard needs: one for each period in which a mark
// made now can end, the one that has begun, and one for rounding.
const periods = int((handoff.MaxLifetime+3*handoff.MaxSkew)/period) + 2

type shard struct {
	mu     sync.Mutex
	first  int64          // the oldest period that is kept
	filled uint32         // the bit i is set if tables[i] holds a key
	tables [periods]table // of period p at index p % periods
}

// marksPerShard bounds how many keys move when a table grows: some 100 us.
const marksPerShard = 1 << 15

func newMarks(c Config) *marks {
	shards := min(max(int64(c.MaxLive)/marksPerShard, 64), 4096)
	return &marks{
		skew:   c.Skew,
		limit:  int64(c.MaxLive),
		now:    c.Now,
		shards: make([]shard, 1<<bits.Len64(uint64(shards-1))),
	}
}

// redeem adds the mark of r, or refuses it.
func (m *marks) redeem(k *key, r *handoff.Redemption) error {
	if r.Skew > m.skew {
		return fmt.Errorf("%w: %s and %s", errSkew, r.Skew, m.skew)
	}
	clock := m.advance()
	switch {
	case !r.IssuedAt.After(m.after):
		return handoff.ErrIssuedBeforeStart
	case !r.Expires.After(clock.Add(-2*m.skew)) || !r.Expires.After(m.passed):
		return errTimePassed
	case r.Expires.After(clock.Add(handoff.MaxLifetime + m.skew)):
		return errTooFar
	}
	return m.add(k, periodOf(clock), periodOf(r.Expires.Add(2*m.skew)))
}

// add marks k until the end of a period. current is the period of the clock.
func (m *marks) add(k *key, current, end int64) error {
	s := &m.shards[m.shardOf(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	m.forget(s, current)
	switch {
	case end < s.first:
		return errTimePassed
	case end >= s.first+int64(periods): // its table is an earlier period's
		return errTooFar
	}
	for left := s.filled; left != 0; left &= left - 1 {
		if s.tables[bits.TrailingZeros32(left)].has(k) {
			return handoff.ErrReplayed
		}
	}
	if m.live.Add(1) > m.limit {
		m.live.Add(-1)
		return handoff.ErrStoreFull
	}
	s.put(k, end)
	return nil
}

func (s *shard) put(k *key, end int64) {
	i := end % int64(periods)
	s.tables[i].add(k)
	s.filled |= 1 << i
}

func (m *marks) shardOf(k *key) int { return int(k.low() & uint64(len(m.shards)-1)) }

// load adds marks that were redeemed before, of which no two are alike, except
// those that have ended. It sorts them by their shards first, so that it goes
// through memory in order, and the processor finds a shard's tables in its cache.
//
// The clock learns from the marks, for none was made longer before its token's
// exp than redeem allows. So each finds a table, however far back the clock was set
// meanwhile. sorted is room for as many.
func (m *marks) load(all, sorted []mark) {
	if len(all) == 0 {
		return
	}
	latest := all[0].expires
	for i := range all {
		latest = max(latest, all[i].expires)
	}
	clock := m.see(latest*1000 - (handoff.MaxLifetime + handoff.MaxSkew).Milliseconds())
	ends := make([]int, len(m.shards)+1) // of each shard's marks in sorted, once all are there
	for i := range all {
		ends[m.shardOf(&all[i].key)+1]++
	}
	for i := range m.shards {
		ends[i+1] += ends[i]
	}
	for i := range all {
		end := &ends[m.shardOf(&all[i].key)]
		sorted[*end] = all[i]
		*end++
	}
	begin := 0
	for i := range m.shards {
		m.loadShard(&m.shards[i], clock, sorted[begin:ends[i]])
		begin = ends[i]
	}
}

func (m *marks) loadShard(s *shard, clock int64, all []mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.forget(s, clock/period.Milliseconds())
	live := 0
	for i := range all {
		end := all[i].expires*1000 + 2*m.skew.Milliseconds()
		// Another segment's marks may have told the shard a later time.
		if last := end / period.Milliseconds(); end > clock && last >= s.first {
			s.put(&all[i].key, last)
			live++
		}
	}
	m.live.Add(int64(live))
}

// advance returns the time by a clock that never goes back. The first to see a
// new period has every shard forget what ended before it.
func (m *marks) advance() time.Time {
	clock := time.UnixMilli(m.see(m.now().UnixMilli()))
	current := periodOf(clock)
	if swept := m.swept.Load(); swept < current && m.swept.CompareAndSwap(swept, current) {
		for i := range m.shards {
			s := &m.shards[i]
			s.mu.Lock()
			m.forget(s, current)
			s.mu.Unlock()
		}
	}
	return clock
}

// see sets the clock to now unless that would set it back, and returns it.
func (m *marks) see(now int64) int64 {
	for {
		switch seen := m.clock.Load(); {
		case now <= seen:
			return seen
		case m.clock.CompareAndSwap(seen, now):
			return now
		}
	}
}

// latest returns the latest time seen.
func (m *marks) latest() time.Time { return time.UnixMilli(m.clock.Load()) }

// forget drops the tables of the periods before current. The shard is locked.
func (m *marks) forget(s *shard, current int64) {
	for range min(current-s.first, int64(periods)) {
		i := s.first % int64(periods)
		m.live.Add(-int64(s.tables[i].used))
		s.tables[i] = table{}
		s.filled &^= 1 << i
		s.first++
	}
	s.first = max(s.first, current)
}

func periodOf(t time.Time) int64 { return t.UnixMilli() / period.Milliseconds() }

// ready returns the first time at which a token can be issued that is not refused
// for being issued before the start. Tokens carry whole seconds.
func (m *marks) ready() time.Time { return m.after.Truncate(time.Second).Add(time.Second) }

// healthy returns why a token that is issued now would be refused, or nil.
func (m *marks) healthy() error {
	clock, now := m.advance(), m.now()
	switch {
	case now.Before(m.ready()):
		return fmt.Errorf("%w: ready in %s", handoff.ErrIssuedBeforeStart, m.ready().Sub(now).Round(time.Millisecond))
	case clock.Sub(now) > 2*m.skew:
		return fmt.Errorf("the clock was set back by %s: the store goes on when it has caught up", clock.Sub(now).Round(time.Second))
	case m.live.Load() >= m.limit:
		return handoff.ErrStoreFull
	}
	return nil
}
