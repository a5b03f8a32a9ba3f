package handoff_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/trust"
)

var _ = []interface{ Keys() []handoff.Key }{(*keyset.Set)(nil), (*trust.Follower)(nil)}

// listing is a source that can list its keys, and counts how often it is asked.
type listing struct {
	keys
	err   error
	asked int
}

func (l *listing) Keys() []handoff.Key {
	if l.err != nil {
		return nil
	}
	return l.keys
}

func (l *listing) Key(ctx context.Context, kid string) (handoff.Key, error) {
	l.asked++
	if l.err != nil {
		return handoff.Key{}, l.err
	}
	return l.keys.Key(ctx, kid)
}

func issuerName(i int) string { return fmt.Sprintf("https://issuer-%04d.example", i) }

// verifierOf trusts issuers with these sources.
func verifierOf(t testing.TB, sources []handoff.KeySource) *handoff.Verifier {
	t.Helper()
	issuers := map[string]handoff.KeySource{}
	for i, source := range sources {
		issuers[issuerName(i)] = source
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: issuers, Store: &recorder{}, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// A10, C06: in worlds of one and of many issuers, with keys that several list,
// with two algorithms, and with sources that cannot tell or cannot list: the
// search finds what asking each source finds, for any claims.
func TestFindsWhatAskingEachFinds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var pool []handoff.Key
	rsa := forge.NewKey(handoff.RS256)
	for _, algorithm := range []handoff.Algorithm{handoff.RS256, handoff.PS256} {
		key, err := handoff.NewKey(algorithm, rsa.Private.Public())
		if err != nil {
			t.Fatal(err)
		}
		pool = append(pool, key)
	}
	for range 12 {
		pool = append(pool, forge.NewKey(handoff.EdDSA).Public)
	}
	outcomes := map[string]int{}
	for range 300 {
		verifier, n := world(t, random, pool[:len(pool)-2]) // two keys are nobody's
		for range 30 {
			key := pool[random.IntN(len(pool))]
			algorithm := handoff.Algorithms()[random.IntN(5)]
			if random.IntN(3) > 0 {
				algorithm = key.Algorithm()
			}
			payload := claimed(random, issuerName(random.IntN(n+2)))
			want, wantErr := verifier.AskAll(t.Context(), key.ID(), algorithm)
			got, gotErr := verifier.FindKey(t.Context(), key.ID(), algorithm, payload)
			if got.ID() != want.ID() || (got.Algorithm() == algorithm) != (want.Algorithm() == algorithm) ||
				errors.Is(gotErr, handoff.ErrKeyUnknown) != errors.Is(wantErr, handoff.ErrKeyUnknown) || (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%d issuers, %s with %s: found %s %s %v, want %s %s %v",
					n, key.Algorithm(), algorithm, got.ID(), got.Algorithm(), gotErr, want.ID(), want.Algorithm(), wantErr)
			}
			outcomes[fmt.Sprint(want.Algorithm() == algorithm, errors.Is(wantErr, handoff.ErrKeyUnknown), wantErr == nil)]++
		}
	}
	if len(outcomes) != 4 { // found, with another algorithm, unknown, and cannot tell
		t.Errorf("the worlds have only these outcomes: %v", outcomes)
	}
}

// world makes a verifier of 1 to 60 issuers.
func world(t *testing.T, random *rand.Rand, pool []handoff.Key) (verifier *handoff.Verifier, n int) {
	n = 1 + random.IntN(60)
	troubled := random.IntN(3) == 0
	var sources []handoff.KeySource
	for range n {
		var listed keys
		for range random.IntN(3) {
			if key := pool[random.IntN(len(pool))]; !has(listed, key.ID()) {
				listed = append(listed, key)
			}
		}
		switch kind := random.IntN(10); {
		case kind == 0 && troubled:
			sources = append(sources, &listing{err: errors.New("stale")})
		case kind == 1 && troubled:
			sources = append(sources, keyFunc(func(string) (handoff.Key, error) { return handoff.Key{}, errors.New("stale") }))
		case kind < 4:
			sources = append(sources, listed)
		default:
			sources = append(sources, &listing{keys: listed})
		}
	}
	return verifierOf(t, sources), n
}

func has(listed keys, kid string) bool {
	_, err := listed.Key(context.Background(), kid)
	return err == nil
}

// claimed encodes a payload that names an issuer, or seems to.
func claimed(random *rand.Rand, issuer string) string {
	payload := [...]string{
		`{"iss":"` + issuer + `","aud":"x"}`, `{"iss":"` + issuer, `{"aud":"x","iss":"` + issuer + `"}`, `{"iss":"`, `[]`, `{"iss":"` + issuer + `"`,
	}[random.IntN(6)]
	if random.IntN(10) == 0 {
		return "%" + payload
	}
	return base64.RawURLEncoding.EncodeToString([]byte(payload))
}

// With a thousand issuers, a token of any of them, and a key that nobody lists,
// cost the same few questions as with few. What a source lists, or no longer
// lists, counts at once.
func TestManyIssuersAreNotAllAsked(t *testing.T) {
	const n = 1000
	listings := make([]*listing, n)
	sources := make([]handoff.KeySource, n)
	signers := map[int]*forge.Key{0: forge.NewKey(handoff.EdDSA), n - 1: forge.NewKey(handoff.EdDSA)}
	for i := range sources {
		listings[i] = &listing{keys: keys{forge.NewKey(handoff.EdDSA).Public}}
		if signer := signers[i]; signer != nil {
			listings[i].keys = keys{signer.Public}
		}
		sources[i] = listings[i]
	}
	verifier := verifierOf(t, sources)
	verify := func(signer *forge.Key, issuer string) (asked int, err error) {
		for _, l := range listings {
			l.asked = 0
		}
		_, err = verifier.Verify(t.Context(), forge.Good(forge.Params{
			Key: signer, Issuer: issuer, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now,
		}).Compact())
		for _, l := range listings {
			asked += l.asked
		}
		return asked, err
	}
	stranger := forge.NewKey(handoff.EdDSA)
	for _, test := range []struct {
		what   string
		signer *forge.Key
		issuer string
		check  handoff.Check
		most   int
	}{
		{"the first issuer's", signers[0], issuerName(0), "", 2},
		{"the last issuer's", signers[n-1], issuerName(n - 1), "", 2},
		{"nobody's key", stranger, issuerName(n - 1), "key.unknown", 1},
		{"nobody's key and no issuer", stranger, "https://stranger.example", "key.unknown", 0},
		{"another issuer's key", signers[n-1], issuerName(0), "verify.iss", 3},
		{"a trusted key and no issuer", signers[n-1], "https://stranger.example", "verify.iss", 1},
	} {
		asked, err := verify(test.signer, test.issuer)
		if test.check == "" && err != nil || test.check != "" && refusal(t, err).Check != test.check {
			t.Errorf("%s: %v, want %q", test.what, err, test.check)
		}
		if asked > test.most {
			t.Errorf("%s: %d sources were asked, want at most %d", test.what, asked, test.most)
		}
	}
	listings[500].keys = append(listings[500].keys, stranger.Public)
	if _, err := verify(stranger, issuerName(500)); err != nil {
		t.Errorf("a key that was listed a moment ago: %v", err)
	}
	listings[n-1].keys = nil
	if _, err := verify(signers[n-1], issuerName(n-1)); refusal(t, err).Check != "key.unknown" {
		t.Errorf("a key that is no longer listed: %v", err)
	}
}

// A verifier prepares a key that it uses often, once, however often its source
// lists it again; the verdicts stay.
func TestPreparesWhatIsUsedOften(t *testing.T) {
	for _, algorithm := range handoff.Algorithms() {
		b := newBench(t, algorithm)
		kid := b.key.Public.ID()
		forged := b.good().Compact()
		forged = forged[:len(forged)-8] + "AAAAAAAA"
		for range 40 {
			if _, err := b.verifier.Verify(t.Context(), forged); refusal(t, err).Check != "signature" {
				t.Fatalf("%s: %v", algorithm, err)
			}
		}
		if b.verifier.IsPrepared(kid) {
			t.Errorf("%s: forged signatures have prepared a key", algorithm)
		}
		b.prepare(t)
		if got, want := b.verifier.IsPrepared(kid), algorithm == handoff.EdDSA || algorithm == handoff.ES256; got != want {
			t.Errorf("%s: prepared %t, want %t", algorithm, got, want)
		}
		if _, err := b.verifier.Verify(t.Context(), forged); refusal(t, err).Check != "signature" {
			t.Errorf("%s, prepared: %v", algorithm, err)
		}
	}
}

// prepare has the verifier see the bench's key often.
func (b *bench) prepare(t testing.TB) {
	t.Helper()
	for range 20 {
		if _, err := b.verifier.Verify(t.Context(), b.good().Compact()); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkIssuers(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		sources := make([]handoff.KeySource, n)
		signers := make([]*forge.Key, n)
		for i := range sources {
			signers[i] = forge.NewKey(handoff.EdDSA)
			set, err := keyset.New(signers[i].Public)
			if err != nil {
				b.Fatal(err)
			}
			sources[i] = set
		}
		for what, signer := range map[string]*forge.Key{"first": signers[0], "last": signers[n-1], "unknown": forge.NewKey(handoff.EdDSA)} {
			b.Run(fmt.Sprintf("%d/%s", n, what), func(b *testing.B) {
				verifier := verifierOf(b, sources)
				issuer := issuerName(0)
				if what == "last" {
					issuer = issuerName(n - 1)
				}
				raw := forge.Good(forge.Params{
					Key: signer, Issuer: issuer, Audience: billing, Subject: "u-1", Operation: operation, IssuedAt: now,
				}).Compact()
				for b.Loop() {
					_, err := verifier.Verify(b.Context(), raw)
					if (err == nil) == (what == "unknown") {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
