package redisreplay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/internal/remote"
)

const (
	maxBatch   = 256  // redemptions sent together
	workers    = 4    // batches on their way at once
	maxWaiting = 4096 // redemptions that wait to be sent; the next is refused
)

var (
	errBusy       = errors.New("too many redemptions wait for the Redis")
	errClosed     = errors.New("the store is closed")
	errTimePassed = errors.New("the token's time has passed, and its mark may have been removed, or is too far ahead")
	errDoubt      = errors.New("the answers are not certain to be these commands'")
	errNotHeld    = errors.New("too few replicas have the redemption")
)

// call is a redemption on its way.
type call struct {
	ctx    context.Context
	mark   string
	period int64 // in which the token expires
	issued time.Time
	answer chan error // has room for the one
}

// Redeem implements handoff.Store. Every error but handoff.ErrReplayed,
// handoff.ErrIssuedBeforeStart and handoff.ErrStoreFull leaves open whether the
// token is spent.
func (s *Store) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := s.bounds().Takes(ctx, r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	mark := remote.Mark(r.Issuer, r.ID)
	c := &call{
		ctx: ctx, mark: string(mark[:]), period: periodOf(r.Expires), issued: r.IssuedAt, answer: make(chan error, 1),
	}
	select {
	case s.calls <- c:
	default:
		return errBusy
	}
	select {
	case <-s.closed:
		return errClosed
	case err := <-c.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the Redis has not answered: %w", context.Cause(ctx))
	}
}

// work sends redemptions, as many together as wait. Its link is made beforehand, and
// another after it has idled, so that no redemption waits for one while all is well.
func (w *worker) work() {
	defer w.drop()
	batch := make([]*call, 0, maxBatch)
	idle := time.NewTimer(0)
	defer idle.Stop()
	for {
		select {
		case <-w.closed:
			return
		case <-idle.C:
			_, _ = w.linked()
			idle.Reset(maxIdle)
			continue
		case c := <-w.calls:
			batch = append(batch[:0], c)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case c := <-w.calls:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		w.redeem(batch)
		idle.Reset(maxIdle)
	}
}

// redeem sends a batch over a link and answers its calls. Where there is any
// doubt the link is dropped, and every call of the batch refused.
func (w *worker) redeem(batch []*call) {
	l, err := w.linked()
	if err == nil {
		batch = due(batch, l.epoch.after(w.config.Skew))
	}
	if err != nil || len(batch) == 0 {
		answer(batch, err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.config.Timeout)
	defer cancel()
	results, err := l.send(ctx, batch, &w.config)
	if err != nil {
		w.drop()
		w.suspect(err)
		answer(batch, err)
		return
	}
	w.see(progress{l.epoch, l.count})
	for i, c := range batch {
		if _, refused := rueidis.IsRedisErr(results[i]); refused && !errors.Is(results[i], handoff.ErrStoreFull) {
			w.look()
		}
		c.answer <- results[i]
	}
}

// due returns the calls whose callers still wait and whose tokens were issued
// after a time; it answers those that were not.
func due(batch []*call, after time.Time) (calls []*call) {
	calls = batch[:0]
	for _, c := range batch {
		switch {
		case c.ctx.Err() != nil:
		case !c.issued.After(after):
			c.answer <- handoff.ErrIssuedBeforeStart
		default:
			calls = append(calls, c)
		}
	}
	return calls
}

func answer(batch []*call, err error) {
	for _, c := range batch {
		c.answer <- err
	}
}

// redeemScript marks the tokens of a batch, in one step: each unless it is marked,
// in whichever period. It writes only in the epoch for which the link was made. Its
// answers are 1 for a token that is marked now, 0 for one that was, and -1 for one
// whose marks may have been removed or that expires beyond the periods it looks at. A
// batch that makes marks is counted, last: a Redis that is full refuses the first mark.
const redeemScript = `
local id, spent, periods, nonce = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local epoch = redis.call('GET', KEYS[1])
local now, removed = string.match(epoch or '', '^(.*) (%d+)$')
if now ~= id then return {epoch or '', {}, nonce, 0} end
removed = tonumber(removed)
local marks, spentBefore, answers, made = {}, {}, {}, false
for i = 5, #ARGV, 2 do marks[#marks + 1] = ARGV[i] end
for period = removed + 1, removed + periods do
  local set = spent .. string.format('%.0f', period)
  if redis.call('EXISTS', set) == 1 then
    for i, member in ipairs(redis.call('SMISMEMBER', set, unpack(marks))) do
      if member == 1 then spentBefore[marks[i]] = true end
    end
  end
end
for i, mark in ipairs(marks) do
  local period = tonumber(ARGV[4 + 2 * i])
  if spentBefore[mark] then answers[i] = 0
  elseif period <= removed or period > removed + periods then answers[i] = -1
  else
    answers[i] = redis.call('SADD', spent .. ARGV[4 + 2 * i], mark)
    spentBefore[mark], made = true, true
  end
end
local count, known = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
count, known = tonumber(count or 0), known or '0'
if made then
  count = count + 1
  redis.call('SET', KEYS[2], string.format('%.0f', count) .. ' ' .. known)
end
return {epoch, answers, nonce, count}`

// send returns what becomes of the batch's calls. The one answer for all of them
// tells whose it is: with the epoch, which the Redis must still have, and with a
// text that it cannot know, so that no reply to another command is read as this.
func (l *link) send(ctx context.Context, batch []*call, c *Config) ([]error, error) {
	nonce := rand.Text()
	arguments := make([]string, 0, 4+2*len(batch))
	arguments = append(arguments, l.epoch.id, l.keys.spent(), strconv.FormatInt(periods(c.Skew), 10), nonce)
	for _, c := range batch {
		arguments = append(arguments, c.mark, strconv.FormatInt(c.period, 10))
	}
	b := l.client.B()
	cmds := rueidis.Commands{b.Eval().Script(redeemScript).Numkeys(2).Key(l.keys.epoch(), l.keys.count()).Arg(arguments...).Build()}
	if c.WaitReplicas > 0 {
		deadline, _ := ctx.Deadline()
		// Not b.Wait(), for which rueidis takes another connection: WAIT is about its own.
		cmds = append(cmds, b.Arbitrary("WAIT").Args(strconv.Itoa(c.WaitReplicas), strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10)).Build())
	}
	results := l.client.DoMulti(ctx, cmds...)
	verdicts, err := l.read(results[0], len(batch), nonce)
	if err != nil || c.WaitReplicas == 0 {
		return verdicts, err
	}
	held, err := results[1].AsInt64()
	if err != nil {
		return nil, fmt.Errorf("asking the replicas: %w", err)
	}
	if held < int64(c.WaitReplicas) {
		return nil, errNotHeld
	}
	return verdicts, nil
}

// read reads what redeemScript returns. A Redis that refuses refuses the batch.
func (l *link) read(r rueidis.RedisResult, calls int, nonce string) ([]error, error) {
	parts, err := r.ToArray()
	if _, refused := rueidis.IsRedisErr(err); refused {
		return slices.Repeat([]error{refusal(err)}, calls), nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the Redis: %w", err)
	}
	if len(parts) != 4 {
		return nil, errDoubt
	}
	text, err := parts[0].ToString()
	answers, err2 := parts[1].AsIntSlice()
	echoed, err3 := parts[2].ToString()
	count, err4 := parts[3].AsInt64()
	if errors.Join(err, err2, err3, err4) != nil || echoed != nonce || len(answers) != calls || !strings.HasPrefix(text, l.epoch.id+" ") {
		return nil, errDoubt
	}
	l.count = count
	verdicts := make([]error, calls)
	for i, answer := range answers {
		switch answer {
		case 1:
		case 0:
			verdicts[i] = handoff.ErrReplayed
		default:
			verdicts[i] = errTimePassed
		}
	}
	return verdicts, nil
}

// refusal is what a Redis says that has done nothing: that it is full, or is not
// what it was (READONLY, MISCONF).
func refusal(err error) error {
	if strings.Contains(err.Error(), "OOM ") {
		return fmt.Errorf("the Redis refuses: %w: %w", handoff.ErrStoreFull, err)
	}
	return fmt.Errorf("the Redis refuses: %w", err)
}
