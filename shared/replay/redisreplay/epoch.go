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

// spent begins the name of each set of marks, which ends with its period.
func (k keys) spent() string { return string(k) + "spent:" }

var errBegun = errors.New("the Redis is new, was emptied, failed over, was set up to lose marks, or its clock was set back")

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
// replica, has taken over, and where periods were removed that have not come yet,
// since the clocks were set back. Then it removes the marks of the periods up to
// ARGV[6]; nobody has redeemed a token in 4096 periods that no check has seen. It
// begins with one that was removed before: after a first write that needs no
// memory, a script may go on writing in a Redis that is full.
const checkScript = `
local now, run, random, lost, promoted = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local ended, current, spent = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local old = redis.call('GET', KEYS[1])
local began, oldRun, oldRandom, removed
if old then began, oldRun, oldRandom, removed = string.match(old, '^(%d+) (%w+) (%w+) (%d+)$') end
removed = tonumber(removed)
local fresh = not began or lost or (promoted and oldRun ~= run) or removed >= current
local first = removed
if fresh then
  if not began or tonumber(now) > tonumber(began) then began = now end
  removed, first = ended, ended - 4096
end
if fresh or oldRun ~= run then oldRandom = random end
local function remove(period) redis.call('UNLINK', spent .. string.format('%.0f', period)) end
remove(first)
removed = math.max(removed, ended)
local new = began .. ' ' .. run .. ' ' .. oldRandom .. ' ' .. string.format('%.0f', removed)
if new ~= old then redis.call('SET', KEYS[1], new) end
for period = first + 1, math.min(ended, first + 4096) do remove(period) end
return {new, fresh and 1 or 0}`

// checkEpoch returns the epoch, and whether it was begun by this call.
func checkEpoch(ctx context.Context, client rueidis.Client, k keys, r report, lost bool, now time.Time, skew time.Duration) (e epoch, begun bool, err error) {
	early, late := now, r.time
	if early.After(late) {
		early, late = late, early
	}
	ended := periodOf(early.Add(-2*skew-margin)) - 1 // it is over for every clock
	answer, err := client.Do(ctx, client.B().Eval().Script(checkScript).Numkeys(1).Key(k.epoch()).
		Arg(strconv.FormatInt(late.UnixMilli(), 10), r.run, rand.Text(), flag(lost), flag(r.promoted),
			strconv.FormatInt(ended, 10), strconv.FormatInt(periodOf(late), 10), k.spent()).Build()).ToArray()
	if err == nil && len(answer) != 2 {
		err = errDoubt
	}
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	text, err := answer[0].ToString()
	if err == nil {
		e, err = parseEpoch(text)
	}
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	fresh, err := answer[1].AsInt64()
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	return e, fresh == 1, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
