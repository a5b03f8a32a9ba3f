package main

import (
	"context"
	"fmt"

	"github.com/handoff-auth/handoff/shared/handoff"
)

func measureVerify(ctx context.Context, s settings, t *table) error {
	rounds, n := 15, 1000
	if s.short {
		rounds, n = 5, 200
	}
	for _, algorithm := range handoff.Algorithms() {
		s.say("verify: %s", algorithm)
		laps, err := verifyRace(ctx, s.dir, algorithm, rounds, n)
		if err != nil {
			return err
		}
		t.race(string(algorithm)+" ", laps)
		if algorithm == handoff.EdDSA {
			whole, bare := laps[1], laps[3]
			t.most("verify, whole, to the Ed25519 check alone", whole.ratio, 1.15, " x")
			t.most("verify, whole, to golang-jwt's bare parse", whole.ratio/bare.ratio, 1, " x")
			t.most("verify, whole, allocations", whole.allocs, 15, "")
		}
	}
	return nil
}

// verifyRace has everybody verify the same fresh tokens.
func verifyRace(ctx context.Context, dir string, algorithm handoff.Algorithm, rounds, n int) ([]lap, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shop, err := newShop(algorithm)
	if err != nil {
		return nil, err
	}
	billing, err := newBilling(ctx, dir, shop.key.Key())
	if err != nil {
		return nil, err
	}
	var (
		public = shop.private.Public()
		golang = newGolangJWT(algorithm, public)
		req    = payment()
		raws   []string
		split  = make([]alone, n)
	)
	prepare := func() (err error) {
		if raws, err = shop.tokens(ctx, n); err != nil {
			return err
		}
		for i, raw := range raws {
			if split[i], err = apart(raw); err != nil {
				return err
			}
		}
		return nil
	}
	return race(ctx, rounds, n, prepare, []runner{
		{"signature alone", func(i int) error { return split[i].verify(algorithm, public) }},
		{"handoff, bytes to grant", func(i int) error { return billing.redeem(ctx, raws[i], req) }},
		{"go-jose ParseSigned, Claims, Validate", func(i int) error { return goJose(raws[i], algorithm, public) }},
		{"golang-jwt, bare parse", func(i int) error { return golang.bare(raws[i]) }},
		{"golang-jwt, iss aud exp", func(i int) error { return spelled(golang, raws[i]) }},
		{"jwx Parse, Validate", func(i int) error { return jwx(raws[i], algorithm, public) }},
	})
}

// spelled checks that the library has read what the token says.
func spelled(golang golangJWT, raw string) error {
	claims, err := golang.verify(raw)
	if err == nil && (len(claims.Details) != 1 || claims.Details[0].Actions[0] != payMethod) {
		err = fmt.Errorf("the details were not read")
	}
	return err
}
