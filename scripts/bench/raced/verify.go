package raced

import (
	"context"
	"fmt"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
)

func Verify(ctx context.Context, s measure.Settings, t *measure.Table) error {
	rounds, n := 15, 1000
	if s.Short {
		rounds, n = 5, 200
	}
	for _, algorithm := range handoff.Algorithms() {
		s.Say("verify: %s", algorithm)
		n := n
		if algorithm == handoff.ES384 { // ten times as slow as the others
			n /= 5
		}
		laps, err := verifyRace(ctx, s.Dir, algorithm, rounds, n)
		if err != nil {
			return err
		}
		report(t, string(algorithm)+" ", laps)
		if algorithm == handoff.EdDSA {
			whole, bare := laps[1], laps[3]
			t.Most("verify, whole, to the Ed25519 check alone", whole.ratio, 0.50, " x")
			t.Most("verify, whole, to golang-jwt's bare parse", whole.ratio/bare.ratio, 0.45, " x")
			t.Most("verify, whole, allocations", whole.allocs, 9, "")
		}
		if algorithm == handoff.ES256 {
			t.Most("verify, whole, to the ES256 check alone", laps[1].ratio, 0.60, " x")
		}
	}
	return nil
}

// verifyRace has everybody verify the same fresh tokens.
func verifyRace(ctx context.Context, dir string, algorithm handoff.Algorithm, rounds, n int) ([]lap, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shop, err := NewShop(algorithm)
	if err != nil {
		return nil, err
	}
	billing, err := NewBilling(ctx, dir, shop.Key.Key())
	if err != nil {
		return nil, err
	}
	if err := billing.settle(ctx, shop); err != nil {
		return nil, err
	}
	var (
		public = shop.Private.Public()
		golang = NewGolangJWT(algorithm, public)
		req    = Payment()
		raws   []string
		split  = make([]Alone, n)
	)
	prepare := func() (err error) {
		if raws, err = shop.Tokens(ctx, n); err != nil {
			return err
		}
		for i, raw := range raws {
			if split[i], err = Apart(raw); err != nil {
				return err
			}
		}
		return nil
	}
	return race(ctx, rounds, n, prepare, []runner{
		{"signature alone", func(i int) error { return split[i].Verify(algorithm, public) }},
		{"handoff, bytes to grant", func(i int) error { return billing.redeem(ctx, raws[i], req) }},
		{"go-jose ParseSigned, Claims, Validate", func(i int) error { return goJose(raws[i], algorithm, public) }},
		{"golang-jwt, bare parse", func(i int) error { return golang.bare(raws[i]) }},
		{"golang-jwt, iss aud exp", func(i int) error { return spelled(golang, raws[i]) }},
		{"jwx Parse, Validate", func(i int) error { return jwx(raws[i], algorithm, public) }},
	})
}

// spelled checks that the library has read what the token says.
func spelled(golang GolangJWT, raw string) error {
	claims, err := golang.Verify(raw)
	if err == nil && (len(claims.Details) != 1 || claims.Details[0].Actions[0] != PayMethod) {
		err = fmt.Errorf("the details were not read")
	}
	return err
}
