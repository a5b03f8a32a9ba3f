package trust_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
)

// shop is the store of an issuer, in memory for the example: a real one answers
// when what it has been told is durable.
type shop struct {
	mu      sync.Mutex
	key     handoff.Key
	entries []trust.Entry
}

func (s *shop) State(context.Context) (trust.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return trust.State{Keys: []handoff.Key{s.key}, Revoked: s.entries}, nil
}

func (s *shop) insert(e trust.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, e)
}

// An issuer takes a session back, and an audience that has nothing but the trust
// key refuses the session's tokens.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	key, err1 := signkey.Generate(handoff.EdDSA)
	trustKey, err2 := signkey.Generate(handoff.EdDSA)
	dir, err3 := os.MkdirTemp("", "trust")
	if err1 != nil || err2 != nil || err3 != nil {
		panic("no keys or no folder")
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "trust.jwt")

	// The issuer.
	terms := trust.Terms{Issuer: "https://shop.example"}
	store := &shop{key: key.Key()}
	publisher, err := trust.NewPublisher(trust.PublisherConfig{Terms: terms, Key: trustKey, Source: store, File: file})
	if err != nil {
		panic(err)
	}
	go publisher.Run(ctx)

	// The audience.
	feed, err := trust.NewFileFeed(file, 20*time.Millisecond)
	if err != nil {
		panic(err)
	}
	follower, err := trust.NewFollower(trust.FollowerConfig{
		Issuer: "https://shop.example", TrustKeys: []handoff.Key{trustKey.Key()}, Feed: feed,
	})
	if err != nil {
		panic(err)
	}
	go follower.Run(ctx)
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: "https://billing.example", Store: replay.NewMemory(replay.Config{}),
		Issuers: map[string]handoff.KeySource{"https://shop.example": follower},
	})
	if err != nil {
		panic(err)
	}

	// A user's handoff.
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key})
	if err != nil {
		panic(err)
	}
	session := handoff.NewID()
	raw, _, err := issuer.Issue(ctx, handoff.IssueParams{
		Audience: "https://billing.example", Subject: "user-1", Session: session,
		Operation: handoff.Operation{Method: "/billing.v1.Billing/Pay"},
	})
	if err != nil {
		panic(err)
	}

	verdict := func(want handoff.Reason) any {
		for {
			if _, err := verifier.Verify(ctx, raw); handoff.ReasonOf(err) == want {
				return want
			}
			time.Sleep(time.Millisecond)
		}
	}
	verdict(0)
	fmt.Println("signed in: accepted")

	entry, err := terms.Session(session, time.Now())
	if err != nil {
		panic(err)
	}
	store.insert(entry)
	publisher.Changed()
	fmt.Println("signed out:", verdict(handoff.ReasonTokenRevoked))
	// Output:
	// signed in: accepted
	// signed out: TOKEN_REVOKED
}

// A user who was cut off signs in again: the issuer waits, under a second, so that
// the audience never refuses what it hands out.
func ExampleWait() {
	terms := trust.Terms{Issuer: "https://shop.example"}
	now := time.Date(2026, 1, 2, 3, 4, 5, 250e6, time.UTC)
	entry, err := terms.Subject("user-1", now)
	if err != nil {
		panic(err)
	}
	fmt.Println("tokens up to", entry.Cutoff.Format(time.TimeOnly), "are taken back")
	wait := trust.Wait(entry.Cutoff, now)
	fmt.Println("wait", wait, "and then", trust.Wait(entry.Cutoff, now.Add(wait)))
	// Output:
	// tokens up to 03:04:05 are taken back
	// wait 750ms and then 0s
}
