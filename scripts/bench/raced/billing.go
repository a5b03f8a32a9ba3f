package raced

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// revoked is how many entries the trust list has.
const revoked = 1000

// Billing is the audience: a verifier as it runs in production, with a trust
// list and a store in memory.
type Billing struct {
	Verifier *handoff.Verifier
	method   *rule.Method
	demands  handoff.Rule
}

// NewBilling trusts the key by a trust list, which it follows until ctx ends.
func NewBilling(ctx context.Context, dir string, key handoff.Key) (*Billing, error) {
	follower, err := follow(ctx, dir, key)
	if err != nil {
		return nil, err
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billingName,
		Issuers:  map[string]handoff.KeySource{ShopName: follower},
		Store:    newStore(0),
	})
	if err != nil {
		return nil, err
	}
	method, err := rule.Linked().Method(PayMethod)
	if err != nil {
		return nil, err
	}
	demands, _ := method.Rule()
	return &Billing{verifier, method, demands}, nil
}

// newStore returns a store in memory that began a minute ago.
func newStore(most int) *replay.Memory {
	clock := wound{-time.Minute}
	store := replay.NewMemory(replay.Config{Now: clock.now, MaxLive: most})
	clock.ahead = 0
	return store
}

// redeem does what SERVER2 does between a call's arrival and its handler.
func (b *Billing) redeem(ctx context.Context, raw string, req proto.Message) error {
	verified, err := b.Verifier.Verify(ctx, raw)
	if err != nil {
		return err
	}
	op, err := b.method.Operation(req)
	if err != nil {
		return err
	}
	_, err = b.Verifier.Redeem(ctx, verified, op, b.demands)
	return err
}

// settle has the verifier prepare the shop's key, as it has after a moment's work.
func (b *Billing) settle(ctx context.Context, shop *Shop) error {
	raws, err := shop.Tokens(ctx, 50)
	for _, raw := range raws {
		err = errors.Join(err, b.redeem(ctx, raw, Payment()))
	}
	return err
}

// follow follows a trust list with the key and a thousand things taken back. It
// is signed once, for the whole run.
func follow(ctx context.Context, dir string, key handoff.Key) (*trust.Follower, error) {
	trustKey, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	terms := trust.Terms{Issuer: ShopName, ListLifetime: time.Hour}
	state := trust.State{Keys: []handoff.Key{key}}
	for i := range revoked {
		e, err := TakeBack(terms, i)
		if err != nil {
			return nil, err
		}
		state.Revoked = append(state.Revoked, e)
	}
	path := filepath.Join(dir, key.ID()+".jwt")
	publisher, err := trust.NewPublisher(trust.PublisherConfig{Terms: terms, Key: trustKey, Source: fixed(state), File: path})
	if err != nil {
		return nil, err
	}
	if err := publisher.Publish(ctx); err != nil {
		return nil, err
	}
	feed, err := trust.NewFileFeed(path, time.Second)
	if err != nil {
		return nil, err
	}
	follower, err := trust.NewFollower(trust.FollowerConfig{
		Issuer: ShopName, TrustKeys: []handoff.Key{trustKey.Key()}, Feed: feed, MaxStaleness: terms.ListLifetime,
	})
	if err != nil {
		return nil, err
	}
	go follower.Run(ctx)
	for range 250 {
		if err = follower.Healthy(); err == nil {
			return follower, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, fmt.Errorf("no trust list: %w", err)
}

// TakeBack takes back a token, a session or a user, in turn.
func TakeBack(terms trust.Terms, i int) (trust.Entry, error) {
	switch i % 3 {
	case 0:
		return terms.Token(handoff.NewID(), time.Now().Add(handoff.MaxLifetime))
	case 1:
		return terms.Session(handoff.NewID(), time.Now())
	}
	return terms.Subject(handoff.NewID(), time.Now())
}

type fixed trust.State

func (f fixed) State(context.Context) (trust.State, error) { return trust.State(f), nil }

// reasonIs checks that err refuses for the reason that is wanted.
func reasonIs(err error, want handoff.Reason) error {
	if got := handoff.ReasonOf(err); got != want {
		return errors.Join(fmt.Errorf("reason %v, want %v", got, want), err)
	}
	return nil
}
