package trust

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/keyset"
)

var update = flag.Bool("update", false, "write testdata/lists.json again: a change of the format")

const vectorFile = "testdata/lists.json"

// vectors are lists with what a follower must make of them; SPEC.md says how to
// use them.
type vectors struct {
	Note      string          `json:"note"`
	Issuer    string          `json:"issuer"`
	Now       int64           `json:"now"`
	TrustKeys json.RawMessage `json:"trust_keys"`
	InForce   string          `json:"in_force"`
	Lists     []vector        `json:"lists"`
}

type vector struct {
	Name   string        `json:"name"`
	List   string        `json:"list"`
	Fault  Fault         `json:"fault,omitempty"`
	Check  handoff.Check `json:"check,omitempty"`
	Tokens []verdict     `json:"tokens,omitempty"`
}

type verdict struct {
	ID       string `json:"jti"`
	Session  string `json:"sid,omitempty"`
	Subject  string `json:"sub"`
	IssuedAt int64  `json:"iat"`
	Revoked  bool   `json:"revoked"`
}

func seeded(t *testing.T, b byte) *forge.Key {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(b)), ed25519.SeedSize)))
	public, err := handoff.NewKey(handoff.EdDSA, private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &forge.Key{Algorithm: handoff.EdDSA, Private: private, Public: public}
}

func writeVectors(t *testing.T) {
	c := newClock()
	trustKey, key := seeded(t, 't'), seeded(t, 'k')
	set, err := jwks([]handoff.Key{trustKey.Public})
	if err != nil {
		t.Fatal(err)
	}
	good := goodList(trustKey, c.Now(), key.Public)
	v := vectors{
		Note:   "See SPEC.md. The Ed25519 seeds are 32 times the letter t, the trust key's, and k, the listed key's.",
		Issuer: issuer, Now: c.Now().Unix(), TrustKeys: append(append([]byte(`{"keys":`), set...), '}'),
		InForce: numbered(good, c.Now().UnixMilli()-1).Compact(),
		Lists:   []vector{{Name: "nothing revoked", List: good.Compact(), Tokens: verdicts(false)}, {Name: "one of each kind", List: fullList(t, c, trustKey, key.Public), Tokens: verdicts(true)}},
	}
	for _, hostile := range hostileLists(trustKey, key, c.Now()) {
		if raw := hostile.forge(good); len(raw) < 4096 {
			v.Lists = append(v.Lists, vector{Name: hostile.name, List: raw, Fault: hostile.fault, Check: hostile.check})
		}
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

const (
	takenID     = "AAAAAAAAAAAAAAAAAAAAAA"
	otherID     = "AAAAAAAAAAAAAAAAAAAAAQ"
	takenSID    = "_____________________w"
	cutOffAfter = 1_799_999_990
)

// fullList is what a publisher signs for a store with one entry of each kind.
func fullList(t *testing.T, c *clock, trustKey *forge.Key, key handoff.Key) string {
	s := newStore(key)
	for _, make := range []func() (Entry, error){
		func() (Entry, error) { return terms.Token(takenID, c.Now().Add(time.Minute)) },
		func() (Entry, error) { return terms.Session(takenSID, c.Now()) },
		func() (Entry, error) { return terms.Subject("ann", time.Unix(cutOffAfter, 999_999_999)) },
	} {
		e, err := make()
		s.record(t, e, err)
	}
	p := newPublisher(t, PublisherConfig{Key: signer{trustKey}, Source: s, Now: c.Now})
	if err := p.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p.text()
}

func verdicts(full bool) []verdict {
	return []verdict{
		{ID: takenID, Subject: "bob", IssuedAt: cutOffAfter, Revoked: full},
		{ID: otherID, Session: takenSID, Subject: "bob", IssuedAt: cutOffAfter, Revoked: full},
		{ID: otherID, Subject: "ann", IssuedAt: cutOffAfter, Revoked: full},
		{ID: otherID, Subject: "ann", IssuedAt: cutOffAfter + 1},
		{ID: otherID, Session: takenID, Subject: "bob", IssuedAt: cutOffAfter},
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	trustKeys, err := keyset.Parse(v.TrustKeys)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Unix(v.Now, 0) }
	for _, vector := range v.Lists {
		f := newFollower(t, trustKeys.Keys()[0], now)
		if _, err := f.take(t.Context(), v.InForce); err != nil {
			t.Fatal(err)
		}
		_, err := f.take(t.Context(), vector.List)
		var refused *listError
		if !errors.As(err, &refused) {
			refused = &listError{}
		}
		if refused.fault != vector.Fault || refused.check != vector.Check {
			t.Errorf("%s: %v, want %s %s", vector.Name, err, vector.Fault, vector.Check)
		}
		for i, token := range vector.Tokens {
			err := f.Revoked(t.Context(), &handoff.Claims{
				Issuer: v.Issuer, Subject: token.Subject, ID: token.ID, Session: token.Session, IssuedAt: time.Unix(token.IssuedAt, 0),
			})
			if errors.Is(err, handoff.ErrRevoked) != token.Revoked || !token.Revoked && err != nil {
				t.Errorf("%s: token %d: %v", vector.Name, i, err)
			}
		}
	}
	if len(v.Lists) < 20 {
		t.Errorf("only %d lists", len(v.Lists))
	}
	// The publisher writes the very bytes: one state has one list.
	c := newClock()
	if full := fullList(t, c, seeded(t, 't'), seeded(t, 'k').Public); full != v.Lists[1].List {
		t.Errorf("the publisher writes\n%s\nwhich is frozen as\n%s", full, v.Lists[1].List)
	}
}
