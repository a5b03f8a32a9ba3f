package redisreplay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// period is how much time one set of marks is for: all tokens that expire in it.
const period = 32 * time.Second

// margin is how much longer than twice the skew a mark stays.
const margin = time.Second

// periods is how many sets there can be, from the first that has not been removed
// to the last in which a token can expire that is issued now, by any clock.
func periods(skew time.Duration) int64 {
	return int64((handoff.MaxLifetime+6*skew+margin)/period) + 3
}

func periodOf(t time.Time) int64 { return t.UnixMilli() / period.Milliseconds() }

// keys names what the store keeps in the Redis. The value is Config.Prefix.
type keys string

func (k keys) epoch() string { return string(k) + "epoch" }

// count holds how many batches have made marks, and how many had when the id of the
// epoch last changed.
func (k keys) count() string { return string(k) + "count" }

// spent begins the name of each set of marks, which ends with its period.
func (k keys) spent() string { return string(k) + "spent:" }

var errBegun = errors.New("the Redis is new, was emptied, failed over or put back, was set up to lose marks, or its clock was set back")

// epoch is how long the Redis has kept every mark, as it says itself under a key
// of its own: a Redis that is emptied or replaced has lost that key too. Every
// batch of redemptions reads it, so that all replicas see a new one at once.
//
// No mark has a time to live, so no clock of the Redis removes one. A check
// removes the marks of whole periods, and says in the same step up to which.
type epoch struct {
	id    string // "<began> <run id> <random>"
	began time.Time
}

// progress is how far a Redis has come that has answered: in which epoch, and how many
// batches had made marks. A Redis that has not come as far was put back to an earlier
// state, whose marks are fewer.
type progress struct {
	epoch epoch
	count int64
}

// before reports whether p is what the Redis had before it had come to other.
func (p progress) before(other progress) bool {
	if p.epoch.began.Equal(other.epoch.began) {
		return p.count < other.count
	}
	return p.epoch.began.Before(other.epoch.began)
}

// after returns the time such that what was issued at or before it is refused.
func (e epoch) after(skew time.Duration) time.Time { return e.began.Add(skew) }

// parseEpoch reads the value under the epoch's key: its id, a space, and the last
// period whose marks may be gone, which is for the scripts.
func parseEpoch(text string) (epoch, error) {
	words := strings.Split(text, " ")
	if len(words) != 4 {
		return epoch{}, errDoubt
	}
	began, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return epoch{}, errDoubt
	}
	return epoch{strings.Join(words[:3], " "), time.UnixMilli(began)}, nil
}

// checkScript keeps the epoch that the Redis has, or begins one: where there is
// none, where marks are known to be lost, where another server, promoted from a
// replica, has taken over, where it has not come as far as the caller has seen, and
// where periods were removed that have not come yet, since the clocks were set back.
// Other stores may have made marks in a Redis that was put back before this one asks:
// so, once the id has changed, what counts is how far it had come by then.
//
// Then it removes the marks of the periods up to ARGV[6]; nobody has redeemed a token
// in 4096 periods that no check has seen. It begins with one that was removed before:
// after a first write that needs no memory, a script may go on writing in a Redis that
// is full.
const checkScript = `
local now, run, random, lost, promoted = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local ended, current, spent = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local seenID, seenBegan, seen = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local old = redis.call('GET', KEYS[1])
local began, oldRun, oldRandom, removed
if old then began, oldRun, oldRandom, removed = string.match(old, '^(%d+) (%w+) (%w+) (%d+)$') end
removed = tonumber(removed)
local count, known = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
count, known = count or '0', known or '0'
local function back()
  local id, reached = began .. ' ' .. oldRun .. ' ' .. oldRandom, known
  if id == seenID then reached = count end
  return tonumber(began) < seenBegan or (tonumber(began) == seenBegan and tonumber(reached) < seen)
end
local fresh = not began or lost or (promoted and oldRun ~= run) or removed >= current or back()
local first = removed
if fresh then
  if not began or tonumber(now) > tonumber(began) then began = now end
  removed, first = ended, ended - 4096
end
local changed = fresh or oldRun ~= run
if changed then oldRandom = random end
local function remove(period) redis.call('UNLINK', spent .. string.format('%.0f', period)) end
remove(first)
removed = math.max(removed, ended)
local new = began .. ' ' .. run .. ' ' .. oldRandom .. ' ' .. string.format('%.0f', removed)
if changed then redis.call('SET', KEYS[2], count .. ' ' .. count) end
if new ~= old then redis.call('SET', KEYS[1], new) end
for period = first + 1, math.min(ended, first + 4096) do remove(period) end
return {new, fresh and 1 or 0, tonumber(count)}`

// checkEpoch returns how far the Redis has come, and whether its epoch was begun by this
// call. seen is how far it had come before.
func checkEpoch(ctx context.Context, client rueidis.Client, k keys, r report, lost bool, seen progress, now time.Time, skew time.Duration) (p progress, begun bool, err error) {
	early, late := now, r.time
	if early.After(late) {
		early, late = late, early
	}
	ended := periodOf(early.Add(-2*skew-margin)) - 1 // it is over for every clock
	answer, err := client.Do(ctx, client.B().Eval().Script(checkScript).Numkeys(2).Key(k.epoch(), k.count()).
		Arg(strconv.FormatInt(late.UnixMilli(), 10), r.run, rand.Text(), flag(lost), flag(r.promoted),
			strconv.FormatInt(ended, 10), strconv.FormatInt(periodOf(late), 10), k.spent(),
			seen.epoch.id, strconv.FormatInt(seen.epoch.began.UnixMilli(), 10), strconv.FormatInt(seen.count, 10)).Build()).ToArray()
	if err == nil && len(answer) != 3 {
		err = errDoubt
	}
	if err != nil {
		return p, false, fmt.Errorf("reading the epoch: %w", err)
	}
	text, err := answer[0].ToString()
	if err == nil {
		p.epoch, err = parseEpoch(text)
	}
	fresh, err2 := answer[1].AsInt64()
	count, err3 := answer[2].AsInt64()
	if err := errors.Join(err, err2, err3); err != nil {
		return p, false, fmt.Errorf("reading the epoch: %w", err)
	}
	p.count = count
	return p, fresh == 1, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
