package raced

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/keyset"
)

// Issuers measures what it costs to trust many issuers: a token of the
// first one, of the last one, and one with a key that nobody lists.
func Issuers(ctx context.Context, s measure.Settings, t *measure.Table) error {
	rounds, n := 25, 1000
	if s.Short {
		rounds, n = 7, 300
	}
	for _, issuers := range []int{1, 10, 1000} {
		s.Say("issuers: %d", issuers)
		laps, err := issuersRace(ctx, issuers, rounds, n)
		if err != nil {
			return err
		}
		report(t, fmt.Sprintf("%s trusted, ", measure.Grouped(float64(issuers))), laps)
		if issuers == 1000 {
			t.Most("a token of the last of 1,000 issuers, to one of the first", laps[1].ratio, 1.05, " x")
			t.Most("an unknown kid, 1,000 issuers", laps[2].ns/1000, 5, " us")
		}
	}
	return nil
}

// issuersRace has one verifier check tokens of issuers that have a key each.
func issuersRace(ctx context.Context, issuers, rounds, n int) ([]lap, error) {
	shops := make([]*Shop, issuers)
	sources := map[string]handoff.KeySource{}
	names := make([]string, issuers)
	for i := range shops {
		var err error
		names[i] = fmt.Sprintf("https://shop-%04d.example", i)
		if shops[i], err = newNamedShop(names[i], handoff.EdDSA); err != nil {
			return nil, err
		}
		set, err := keyset.New(shops[i].Key.Key())
		if err != nil {
			return nil, err
		}
		sources[names[i]] = set
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{Audience: billingName, Issuers: sources, Store: newStore(0)})
	if err != nil {
		return nil, err
	}
	raws := map[string]string{}
	for what, i := range map[string]int{"first": 0, "last": issuers - 1} {
		if raws[what], err = shops[i].Issue(ctx, Payment()); err != nil {
			return nil, err
		}
	}
	header, rest, _ := strings.Cut(raws["last"], ".")
	stranger := strings.Replace(string(decoded(header)), shops[issuers-1].Key.Key().ID(), strings.Repeat("A", 43), 1)
	unknown := base64.RawURLEncoding.EncodeToString([]byte(stranger)) + "." + rest
	verify := func(raw string) error {
		_, err := verifier.Verify(ctx, raw)
		return err
	}
	return race(ctx, rounds, n, func() error { return nil }, []runner{
		{"the first one's token", func(int) error { return verify(raws["first"]) }},
		{"the last one's token", func(int) error { return verify(raws["last"]) }},
		{"a key that nobody lists", func(int) error { return reasonIs(verify(unknown), handoff.ReasonTokenInvalid) }},
	})
}
