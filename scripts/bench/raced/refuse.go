package raced

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// hostile is a token that must be refused.
type hostile struct {
	what   string
	raw    string
	reason handoff.Reason
	early  bool // before the key is even looked up
}

func Refuse(ctx context.Context, s measure.Settings, t *measure.Table) error {
	rounds, n := 25, 2000
	if s.Short {
		rounds, n = 5, 1000
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shop, err := NewShop(handoff.EdDSA)
	if err != nil {
		return err
	}
	billing, err := NewBilling(ctx, s.Dir, shop.Key.Key())
	if err != nil {
		return err
	}
	all, err := hostiles(ctx, shop, billing)
	if err != nil {
		return err
	}
	alone, err := Apart(all[len(all)-1].raw)
	if err != nil {
		return err
	}
	runners := []runner{{"the signature check alone, by crypto/ed25519", func(int) error { return alone.Verify(handoff.EdDSA, shop.Private.Public()) }}}
	for _, h := range all {
		req := Payment()
		runners = append(runners, runner{h.what, func(int) error { return reasonIs(billing.redeem(ctx, h.raw, req), h.reason) }})
	}
	laps, err := race(ctx, rounds, n, func() error { return nil }, runners)
	if err != nil {
		return err
	}
	report(t, "", laps[:1])
	var slowest, largest, forged float64
	for i, l := range laps[1:] {
		if all[i].what == "forged signature" {
			forged = l.ratio
		}
		stage := "after the key"
		if all[i].early {
			stage = "before the key"
			slowest, largest = max(slowest, l.ns), max(largest, l.bytes)
		}
		t.Add(measure.Line{
			What: l.name, Median: measure.Microseconds(l.ns), Allocs: l.allocs, Bytes: l.bytes, Counted: true,
			Note: fmt.Sprintf("%s, %s", all[i].reason, stage),
		})
	}
	t.Most("refuse before the key, the slowest", slowest/1000, 5, " us")
	t.Most("a forged signature, to the check alone", forged, 0.5, " x")
	t.Most("refuse before the key, the most bytes allocated", largest, 4096, "")
	return nil
}

func hostiles(ctx context.Context, shop *Shop, billing *Billing) ([]hostile, error) {
	good, err := shop.Issue(ctx, Payment())
	if err != nil {
		return nil, err
	}
	if err := billing.redeem(ctx, good, Payment()); err != nil {
		return nil, err
	}
	if err := billing.settle(ctx, shop); err != nil {
		return nil, err
	}
	header, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	var (
		encode  = base64.RawURLEncoding.EncodeToString
		spread  = func(length int) string { return strings.Repeat("A", length-len(header)-len(signature)-2) }
		compact = func(header, payload string) string { return header + "." + payload + "." + signature }
		stuffed = func(length int) string { // with a header as long as the rest leaves room for
			room := (length-len(signature)-6)/4*3 - len(`{"alg":""}`)
			return compact(encode([]byte(`{"alg":"`+strings.Repeat("A", room)+`"}`)), "AAAA")
		}
		stranger = strings.Replace(string(decoded(header)), shop.Key.Key().ID(), strings.Repeat("A", 43), 1)
		forged   = "A" + signature[1:]
	)
	if signature[0] == 'A' {
		forged = "B" + signature[1:]
	}
	members := make([]string, 10_000)
	for i := range members {
		members[i] = fmt.Sprintf(`"m%d":0`, i)
	}
	sealed, err := handoff.KindHandoff.Profile().Seal(ctx, []byte("{"+strings.Join(members[:250], ",")+"}"), shop.Key)
	if err != nil {
		return nil, err
	}
	invalid := handoff.ReasonTokenInvalid
	return []hostile{
		{"1 KiB without a dot", strings.Repeat("A", 1<<10), invalid, true},
		{"4 KiB without a dot", strings.Repeat("A", 4<<10), invalid, true},
		{"64 KiB", compact(header, spread(64<<10)), invalid, true},
		{"10,000 members", compact(header, encode([]byte("{"+strings.Join(members, ",")+"}"))), invalid, true},
		{"4 KiB of dots", strings.Repeat(".", 4<<10), invalid, true},
		{"4 KiB that ends badly", compact(header, spread(4 << 10)[1:]+"*"), invalid, true},
		{"1 KiB, long header", stuffed(1 << 10), invalid, true},
		{"4 KiB, long header", stuffed(4 << 10), invalid, true},
		{"4 KiB, header of 250 members", compact(encode([]byte("{"+strings.Join(members[:250], ",")+"}")), "AAAA"), invalid, true},
		{"unknown kid", compact(encode([]byte(stranger)), payload), invalid, true},
		{"4 KiB, unknown kid", compact(encode([]byte(stranger)), spread(4<<10)), invalid, true},
		{"forged signature", header + "." + payload + "." + forged, invalid, false},
		{"4 KiB, forged", compact(header, spread(4<<10)), invalid, false},
		{"250 members, signed", sealed, handoff.ReasonClaimsInvalid, false},
		{"replayed", good, handoff.ReasonTokenReplayed, false},
	}, nil
}

func decoded(part string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		panic(err) // it was made a moment ago
	}
	return b
}
