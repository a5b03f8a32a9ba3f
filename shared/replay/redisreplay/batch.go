package redisreplay

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/handoff-auth/handoff/shared/handoff"
)

const (
	maxBatch   = 256  // redemptions sent together
	workers    = 4    // batches on their way at once
	maxWaiting = 4096 // redemptions that wait to be sent; the next is refused
	margin     = time.Second
)

var (
	errBusy       = errors.New("too many redemptions wait for the Redis")
	errClosed     = errors.New("the store is closed")
	errTimePassed = errors.New("the token's time has passed by the store's clock, which never goes back: its mark may have expired")
	errTooFar     = errors.New("the token expires further ahead than any may live")
	errDoubt      = errors.New("the answers are not certain to be these commands'")
	errSkew       = errors.New("the verifier's skew is larger than Config.Skew: a Redis that begins anew would forget redemptions")
	errNotHeld    = errors.New("too few replicas have the redemption")
)

// call is a redemption on its way.
type call struct {
	ctx      context.Context
	key      string
	issued   time.Time
	lifetime time.Duration // of the mark
	answer   chan error    // has room for the one
}

// Redeem implements handoff.Store. Every error but handoff.ErrReplayed,
// handoff.ErrIssuedBeforeStart and handoff.ErrStoreFull leaves open whether the
// token is spent.
func (s *Store) Redeem(ctx context.Context, r handoff.Redemption) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("not redeemed: %w", err)
	}
	if r.Skew > s.config.Skew {
		return fmt.Errorf("%w: %s and %s", errSkew, r.Skew, s.config.Skew)
	}
	clock := s.advance()
	left, most := r.Expires.Add(2*s.config.Skew).Sub(clock), handoff.MaxLifetime+3*s.config.Skew
	// The mark outlives every clock by which the token can still be accepted, even
	// if this one is wrong: nobody redeems a token before it is issued.
	lifetime := max(left, r.Expires.Sub(r.IssuedAt)+3*s.config.Skew)
	switch {
	case left <= 0:
		return errTimePassed
	case lifetime > most:
		return errTooFar
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	c := &call{
		ctx: ctx, key: s.key(r.Issuer, r.ID), issued: r.IssuedAt, lifetime: lifetime + margin, answer: make(chan error, 1),
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

// key names the mark. Both parts are hashed, so that whoever chooses an id can
// neither meet another issuer's keys nor make two ids one.
func (s *Store) key(issuer, id string) string {
	text := make([]byte, 0, 320)
	text = append(text, issuer...)
	text = append(text, 0) // an issuer never contains it
	text = append(text, id...)
	sum := sha256.Sum256(text)
	return s.config.Prefix + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// advance returns the time by a clock that never goes back while an epoch lasts.
func (s *Store) advance() time.Time {
	now := s.config.Now().UnixMilli()
	for {
		seen := s.clock.Load()
		if now <= seen {
			return time.UnixMilli(seen)
		}
		if s.clock.CompareAndSwap(seen, now) {
			return time.UnixMilli(now)
		}
	}
}

// work sends redemptions, as many together as wait.
func (w *worker) work() {
	defer w.drop()
	batch := make([]*call, 0, maxBatch)
	for {
		select {
		case <-w.closed:
			return
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
	results, err := l.send(ctx, batch, w.config.WaitReplicas)
	if err != nil {
		w.drop()
		w.suspect(err)
		answer(batch, err)
		return
	}
	for i, c := range batch {
		switch err := results[i].Error(); {
		case err == nil:
			c.answer <- nil
		case rueidis.IsRedisNil(err):
			c.answer <- handoff.ErrReplayed
		case strings.HasPrefix(err.Error(), "OOM "):
			c.answer <- fmt.Errorf("the Redis refuses: %w: %w", handoff.ErrStoreFull, err)
		default: // READONLY, MISCONF: the server is not what it was
			w.look()
			c.answer <- fmt.Errorf("the Redis refuses: %w", err)
		}
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

// send returns the results of the batch's SETs. They are followed, on the same
// connection, by what tells whose they are: the epoch, which the Redis must still
// have after it took them, and a text that it cannot know, which shows that no
// reply of another command was read as one of these.
func (l *link) send(ctx context.Context, batch []*call, replicas int) ([]rueidis.RedisResult, error) {
	b := l.client.B()
	cmds := make(rueidis.Commands, 0, len(batch)+3)
	for _, c := range batch {
		// The value is a number, which Redis shares: any other takes 32 bytes more.
		cmds = append(cmds, b.Set().Key(c.key).Value("1").Nx().PxMilliseconds(c.lifetime.Milliseconds()).Build())
	}
	if replicas > 0 {
		deadline, _ := ctx.Deadline()
		// Not b.Wait(), for which rueidis takes another connection: WAIT is about its own.
		cmds = append(cmds, b.Arbitrary("WAIT").Args(strconv.Itoa(replicas), strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10)).Build())
	}
	nonce := rand.Text()
	cmds = append(cmds, b.Get().Key(l.marker).Build(), b.Echo().Message(nonce).Build())
	results := l.client.DoMulti(ctx, cmds...)
	sets, rest := results[:len(batch)], results[len(batch):]
	if replicas > 0 {
		held, err := rest[0].AsInt64()
		if err != nil {
			return nil, fmt.Errorf("asking the replicas: %w", err)
		}
		if held < int64(replicas) {
			return nil, errNotHeld
		}
		rest = rest[1:]
	}
	epoch, err := rest[0].ToString()
	if err == nil {
		var echo string
		if echo, err = rest[1].ToString(); err == nil && (echo != nonce || epoch != l.epoch.text) {
			err = errDoubt
		}
	}
	if err != nil {
		return nil, fmt.Errorf("asking the Redis: %w", err)
	}
	for _, set := range sets {
		if err := set.NonRedisError(); err != nil {
			return nil, fmt.Errorf("asking the Redis: %w", err)
		}
		if text, err := set.ToString(); err == nil && text != "OK" {
			return nil, errDoubt
		}
	}
	return sets, nil
}
