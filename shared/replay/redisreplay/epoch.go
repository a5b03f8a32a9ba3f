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
)

var errBegun = errors.New("the Redis is new, was emptied, failed over or was set up to lose marks")

// epoch is how long the Redis has kept every mark, as it says itself under a key
// of its own: a Redis that is emptied or replaced has lost that key too. Every
// batch of redemptions reads it, so that all replicas see a new one at once.
type epoch struct {
	text  string
	began time.Time
}

// after returns the time such that what was issued at or before it is refused.
func (e epoch) after(skew time.Duration) time.Time { return e.began.Add(skew) }

// beginScript keeps the epoch that the Redis has, or begins one: where there is
// none, where marks are known to be lost, and where another server, promoted
// from a replica, has taken over. Its value is "<began> <run id> <random>".
const beginScript = `
local now, run, random, lost, promoted = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local old = redis.call('GET', KEYS[1])
local began, oldRun
if old then began, oldRun = string.match(old, '^(%d+) (%w+) ') end
local anew = not began or lost or (promoted and oldRun ~= run)
if not anew and oldRun == run then return {old, 0} end
if anew and (not began or tonumber(now) > tonumber(began)) then began = now end
local new = began .. ' ' .. run .. ' ' .. random
redis.call('SET', KEYS[1], new)
return {new, anew and 1 or 0}`

// beginEpoch returns the epoch, and whether it was begun by this call.
func beginEpoch(ctx context.Context, client rueidis.Client, key string, r report, lost bool, now time.Time) (e epoch, begun bool, err error) {
	if r.time.After(now) {
		now = r.time
	}
	answer, err := client.Do(ctx, client.B().Eval().Script(beginScript).Numkeys(1).Key(key).
		Arg(strconv.FormatInt(now.UnixMilli(), 10), r.run, rand.Text(), flag(lost), flag(r.promoted)).Build()).ToArray()
	if err == nil && len(answer) != 2 {
		err = errDoubt
	}
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	text, err := answer[0].ToString()
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	anew, err := answer[1].AsInt64()
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	began, _, _ := strings.Cut(text, " ")
	ms, err := strconv.ParseInt(began, 10, 64)
	if err != nil {
		return e, false, fmt.Errorf("reading the epoch: %w", err)
	}
	return epoch{text, time.UnixMilli(ms)}, anew == 1, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
