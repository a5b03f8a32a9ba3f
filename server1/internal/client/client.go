// Package client knows SERVER1's API clients: who calls with a key of their own in
// place of a session.
//
//	clients, err := client.NewDirectory(client.Config{DB: db, Issuer: "https://shop.example", …})
//	guard := session.NewGuard(keeper, open...)
//	guard.Assertions(handoffv1.HandoffService_IssueHandoff_FullMethodName, clients.Admit)
//	by, ok := client.FromContext(ctx) // in that method's handler
//
// # Invariants
//
// SERVER1 has only the public halves of the clients' keys, and fetches none. A key is
// one client's, and never one that SERVER1 signs with. An assertion that Admit has let
// through is not spent yet: the handler records it with what it does, or does
// nothing.
//
// # What it does not do
//
// What a client may do is package policy's, by its roles, as of users.
package client

import (
	"context"
	"errors"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/assertion"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// Config says whose clients these are. Every field is required but Reserved.
type Config struct {
	// DB has the clients.
	DB *database.DB
	// Issuer is SERVER1's own name, the `aud` of every assertion.
	Issuer string
	// Skew is how much the clocks of clients, and of SERVER1's processes, may differ.
	Skew time.Duration
	// Reserved are the ids of keys that SERVER1 signs with: no client's.
	Reserved []string
	// Record is told of who is refused.
	Record *audit.Record
	// Now is the clock.
	Now func() time.Time
}

// Directory is the clients in the database. It is safe for concurrent use.
type Directory struct {
	config   Config
	verifier *assertion.Verifier
	parsed   *lru.Cache[string, handoff.Key] // by the JWK
}

// NewDirectory returns the directory, or an error that names the field of config that
// it refuses.
func NewDirectory(config Config) (*Directory, error) {
	switch {
	case config.DB == nil:
		return nil, &handoff.ConfigError{Field: "client.Config.DB", Problem: "is required"}
	case config.Record == nil:
		return nil, &handoff.ConfigError{Field: "client.Config.Record", Problem: "is required"}
	case config.Now == nil:
		return nil, &handoff.ConfigError{Field: "client.Config.Now", Problem: "is required"}
	}
	verifier, err := assertion.NewVerifier(assertion.VerifierConfig{Audience: config.Issuer, Skew: config.Skew, Now: config.Now})
	if err != nil {
		return nil, err
	}
	const parsed = 1024 // keys that are not parsed again
	cache, err := lru.New[string, handoff.Key](parsed)
	return &Directory{config, verifier, cache}, err
}

type contextKey struct{}

// FromContext returns the assertion of the client whose call a handler serves. It is
// false where there is none.
func FromContext(ctx context.Context) (database.Assertion, bool) {
	by, ok := ctx.Value(contextKey{}).(database.Assertion)
	return by, ok
}

// Admit returns ctx with the client whose assertion raw is, for FromContext. Its errors
// are CLIENT_INVALID, and ISSUER_UNAVAILABLE. What is wrong is told only to who has a
// client's key.
func (d *Directory) Admit(ctx context.Context, raw string) (context.Context, error) {
	found := &lookup{directory: d}
	claims, err := d.verifier.Verify(ctx, raw, found)
	if err != nil {
		d.config.Record.ClientRefused(ctx, found.client.ID, err)
		return nil, worded(err)
	}
	return context.WithValue(ctx, contextKey{}, database.Assertion{Client: found.client, Kid: found.kid, ID: claims.ID}), nil
}

// worded is the answer to a refusal.
func worded(err error) error {
	var refusal *handoff.Refusal
	switch {
	case !errors.As(err, &refusal):
		return err
	case refusal.Reason == handoff.ReasonIssuerUnavailable:
		return answer.Worded(refusal.Reason, "the clients are out of reach", err)
	case assertion.Told(refusal):
		return answer.Worded(refusal.Reason, "the client's assertion is not taken: "+refusal.Detail, err)
	}
	return answer.Refused(refusal.Reason, err)
}

// Spent is the answer to an assertion that was used before.
func Spent() error {
	refusal := &handoff.Refusal{Reason: handoff.ReasonClientInvalid, Check: "client.spent", Detail: "it has been used before: sign another"}
	return worded(refusal)
}

// lookup finds the client of one assertion, and remembers it.
type lookup struct {
	directory *Directory
	kid       string
	client    database.User
}

// Client is an assertion.Clients'.
func (l *lookup) Client(ctx context.Context, kid string) (id string, key handoff.Key, err error) {
	if slices.Contains(l.directory.config.Reserved, kid) {
		return "", key, handoff.ErrKeyUnknown
	}
	client, listed, err := l.directory.config.DB.ClientByKey(ctx, kid)
	if errors.Is(err, database.ErrNotFound) {
		return "", key, handoff.ErrKeyUnknown
	}
	if err != nil {
		return "", key, err
	}
	l.kid, l.client = kid, client
	key, err = l.directory.parse(listed)
	return client.ID, key, err
}

// parse returns a key that the database has.
func (d *Directory) parse(listed database.ClientKey) (key handoff.Key, err error) {
	if key, ok := d.parsed.Get(listed.JWK); ok {
		return key, nil
	}
	set, err := keyset.Parse([]byte(listed.JWK))
	if err != nil {
		return key, err
	}
	key = set.Keys()[0]
	d.parsed.Add(listed.JWK, key)
	return key, nil
}

// Keys returns the keys of a file as the database keeps them. It refuses what
// keyset.Load refuses.
func Keys(path string, now time.Time) (keys []database.ClientKey, err error) {
	set, err := keyset.Load(path)
	if err != nil {
		return nil, err
	}
	for _, key := range set.Keys() {
		one, err := keyset.New(key)
		if err != nil {
			return nil, err
		}
		text, err := one.MarshalJSON()
		if err != nil {
			return nil, err
		}
		keys = append(keys, database.ClientKey{ID: key.ID(), JWK: string(text), Added: now})
	}
	return keys, nil
}
