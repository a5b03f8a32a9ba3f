package raced

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// Trust measures what taking things back costs: SERVER1 for each list that
// it signs, SERVER2 for each list that comes and for each call.
func Trust(ctx context.Context, s measure.Settings, t *measure.Table) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rounds := 9
	if s.Short {
		rounds = 3
	}
	var publish, apply, check []runner
	var refill []func() error
	for _, entries := range []int{1_000, 100_000} {
		c, err := newChronicle(ctx, entries)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s entries, ", measure.Grouped(float64(entries)))
		claims := handoff.Claims{
			Issuer: ShopName, Audience: billingName, Subject: User, ID: handoff.NewID(), Session: handoff.NewID(),
			IssuedAt: time.Now(), Expires: time.Now().Add(handoff.MaxLifetime),
		}
		publish = append(publish, runner{name + "read, sign and publish", func(int) error { return c.publisher.Publish(ctx) }})
		apply = append(apply, runner{name + "verify and apply", c.apply})
		check = append(check, runner{name + "check a token", func(int) error { return c.follower.Revoked(ctx, &claims) }})
		refill = append(refill, func() error { return c.sign(ctx, applied) })
		t.Add(measure.Line{What: name + "size of the list", Median: measure.Grouped(float64(len(c.lists[0]))) + " B"})
	}
	nothing := func() error { return nil }
	for _, of := range []struct {
		n       int
		prepare func() error
		runners []runner
	}{
		{applied, nothing, publish},
		{applied, func() error { return errors.Join(refill[0](), refill[1]()) }, apply},
		{100_000, nothing, check},
	} {
		laps, err := race(ctx, rounds, of.n, of.prepare, of.runners)
		if err != nil {
			return err
		}
		report(t, "", laps)
	}
	return nil
}

// applied is how many lists are signed, and applied, in a round.
const applied = 5

// chronicle is an issuer that has taken so many things back, and one who follows.
type chronicle struct {
	publisher *trust.Publisher
	follower  *trust.Follower
	lists     []string

	offered chan string // to the follower
	taken   chan error  // by it
}

func newChronicle(ctx context.Context, entries int) (*chronicle, error) {
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	trustKey, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	c := &chronicle{offered: make(chan string), taken: make(chan error)}
	terms := trust.Terms{Issuer: ShopName, ListLifetime: time.Hour}
	state := trust.State{Keys: []handoff.Key{key.Key()}}
	for i := range entries {
		e, err := TakeBack(terms, i)
		if err != nil {
			return nil, err
		}
		state.Revoked = append(state.Revoked, e)
	}
	c.publisher, err = trust.NewPublisher(trust.PublisherConfig{Terms: terms, Key: trustKey, Source: fixed(state)})
	if err != nil {
		return nil, err
	}
	c.follower, err = trust.NewFollower(trust.FollowerConfig{
		Issuer: ShopName, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: c, MaxStaleness: terms.ListLifetime,
	})
	if err != nil {
		return nil, err
	}
	go c.follower.Run(ctx)
	if err := c.sign(ctx, 1); err != nil {
		return nil, err
	}
	return c, c.apply(0)
}

// sign signs n lists, each newer than the one before.
func (c *chronicle) sign(ctx context.Context, n int) error {
	c.lists = c.lists[:0]
	for range n {
		if err := c.publisher.Publish(ctx); err != nil {
			return err
		}
		answer := httptest.NewRecorder()
		c.publisher.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, trust.ListPath, nil))
		if answer.Code != http.StatusOK {
			return fmt.Errorf("the list was answered %d", answer.Code)
		}
		c.lists = append(c.lists, answer.Body.String())
	}
	return nil
}

// apply has the follower put the i-th list in force.
func (c *chronicle) apply(i int) error {
	c.offered <- c.lists[i]
	return <-c.taken
}

// fetch asks for entries as a follower over HTTPS does.
func (c *chronicle) fetch(ctx context.Context, digest, have string) (string, error) {
	path := trust.ListPath + "/" + digest
	if have != "" {
		path += "/" + have
	}
	answer := httptest.NewRecorder()
	c.publisher.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	if answer.Code != http.StatusOK {
		return "", fmt.Errorf("the entries were answered %d", answer.Code)
	}
	return answer.Body.String(), nil
}

// Follow is the follower's feed.
func (c *chronicle) Follow(ctx context.Context, _ string, deliver func(statement string, fetch trust.Fetch) error) error {
	for {
		select {
		case raw := <-c.offered:
			c.taken <- deliver(raw, c.fetch)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
