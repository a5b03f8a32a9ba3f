package handoff_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/measure"
)

// mutants is how many TestMutants makes: HANDOFF_MUTANTS, or 30,000 (a tenth in `make test`). As many as 200,000 come as far as every check.
func mutants(t *testing.T) int {
	text := os.Getenv("HANDOFF_MUTANTS")
	if text == "" {
		return measure.Of(3_000, 30_000, 30_000)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("HANDOFF_MUTANTS is %q: want a number", text)
	}
	return n
}

// shares says how many of a thousand mutants are of an algorithm, and how many of
// a thousand of those are signed again: as many as the cost of it allows.
var shares = map[handoff.Algorithm]struct{ mutants, resigned int }{
	handoff.EdDSA: {650, 100},
	handoff.ES256: {160, 100},
	handoff.ES384: {10, 50},
	handoff.PS256: {90, 10},
	handoff.RS256: {90, 10},
}

// A changed token is refused unless it says what the profile allows and is signed
// again, or is what it was: byte for byte, or the other form of an ECDSA signature.
func TestMutants(t *testing.T) {
	total := mutants(t)
	seed := rand.Uint64()
	var mu sync.Mutex
	seen := tally{}
	t.Run("of", func(t *testing.T) {
		const shards = 4
		for i := range shards * len(handoff.Algorithms()) {
			algorithm := handoff.Algorithms()[i/shards]
			t.Run(fmt.Sprintf("%s with seed %d", algorithm, seed+uint64(i)), func(t *testing.T) {
				t.Parallel()
				share := shares[algorithm]
				b := newBench(t, algorithm)
				counted := b.mutants(t, newMutator(b.key, seed+uint64(i), share.resigned), total*share.mutants/1000/shards)
				mu.Lock()
				defer mu.Unlock()
				for what, n := range counted {
					seen[what] += n
				}
			})
		}
	})
	if t.Failed() || total < 200_000 {
		return
	}
	// Each check has refused some of them: the mutator comes as far as the last.
	for _, check := range []handoff.Check{
		"token.length", "token.parts", "token.base64url", "header.json", "header.members",
		"header.alg", "header.typ", "header.kid", "key.unknown", "key.alg", "signature",
		"payload.json", "payload.members", "claim.iss", "claim.aud", "claim.sub",
		"claim.iat", "claim.exp", "claim.nbf", "claim.jti", "claim.sid", "claim.cnf", "claim.authorization_details",
		"verify.iss", "verify.aud", "verify.iat", "verify.exp", "verify.nbf", "verify.lifetime", "verify.cnf",
	} {
		if seen[string(check)] == 0 {
			t.Errorf("no mutant came as far as %s", check)
		}
	}
	for _, algorithm := range handoff.Algorithms() {
		if seen[inProfile+string(algorithm)] == 0 {
			t.Errorf("no mutant of %s was in the profile", algorithm)
		}
		if isECDSA := strings.HasPrefix(string(algorithm), "ES"); isECDSA != (seen[twins+string(algorithm)] > 0) {
			t.Errorf("%d mutants of %s were twins", seen[twins+string(algorithm)], algorithm)
		}
	}
}

// tally counts mutants: by the check that refused them, and by algorithm those
// that were accepted.
type tally map[string]int

const (
	inProfile = "in the profile: "
	twins     = "twins: "
)

// mutants offers n mutants.
func (b *bench) mutants(t *testing.T, m *mutator, n int) tally {
	seen := tally{}
	j := judge{b.key, now}
	b.prepare(t)
	var raw string
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%v: %q", p, raw)
			panic(p)
		}
	}()
	for range n {
		mutant := m.next()
		raw = mutant.raw
		verified, err := b.verifier.VerifyAny(t.Context(), raw, &client)
		if err != nil {
			seen[string(refusal(t, err).Check)]++
		}
		switch {
		case mutant.resigned:
			if err == nil {
				j.agree(t, raw, verified)
				seen[inProfile+string(b.key.Algorithm)]++
			} else if claims, err := j.claims(raw); err == nil {
				t.Fatalf("refused, but the judge reads %v: %q", claims, raw)
			}
		case mutant.original || mutant.twin:
			if err != nil {
				t.Fatalf("the same token is refused: %v: %q", err, raw)
			}
			if mutant.twin {
				seen[twins+string(b.key.Algorithm)]++
			}
		case err == nil:
			t.Fatalf("accepted: %q, of %q", raw, m.texts)
		}
	}
	return seen
}

// No refusal costs memory in proportion to what was sent: 16 KiB at most, however
// long the token is and with anything wrong in it.
func TestRefusalsAllocateLittle(t *testing.T) {
	const most = 16 << 10
	b := newBench(t, handoff.EdDSA)
	refuse := func(raw string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := b.verifier.Verify(t.Context(), raw)
		runtime.ReadMemStats(&after)
		if err == nil {
			return 0
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	// The runtime's own goroutines allocate too, and under the race detector a pool
	// forgets: the least of some attempts is what the refusal costs.
	check := func(raw string) {
		t.Helper()
		least := refuse(raw)
		for range 30 {
			if least <= most {
				return
			}
			least = min(least, refuse(raw))
		}
		t.Errorf("%d bytes for a token of %d: %.100q", least, len(raw), raw)
	}
	m := newMutator(b.key, rand.Uint64(), 400)
	for range measure.Of(100, 1000, 1000) {
		check(m.next().raw)
	}
	good := b.good()
	for size := 1; size <= 64<<20; size *= 16 {
		filler := strings.Repeat("A", size)
		check(filler)
		check(strings.Repeat(".", size))
		check(good.Compact() + filler)
		check(filler + good.Compact())
		check(good.WithHeader("x", forge.Quote(filler)).Compact())
		check(good.WithClaim("sub", forge.Quote(filler)).Compact())
	}
	// As long as is looked at, and of the most that can be said in it.
	for _, claim := range []string{
		strings.Repeat("[", 2600), `{"a":` + strings.Repeat(`{"a":`, 500), `[` + strings.Repeat(`"",`, 800) + `""]`,
	} {
		raw := good.WithClaim("authorization_details", claim).Compact()
		if len(raw) > 4096 {
			t.Errorf("%d bytes are not looked at", len(raw))
		}
		check(raw)
	}
	for _, n := range []int{64, 65, 139, 160} {
		check(good.WithClaim("authorization_details", `[{"type":"grpc_call","actions":["`+pay+`"],"fields":{`+manyFields(n)+`}},1]`).Compact())
	}
}

func manyFields(n int) string {
	fields := make([]string, n)
	for i := range fields {
		fields[i] = `"` + strconv.FormatInt(int64(i), 36) + `":""`
	}
	return strings.Join(fields, ",")
}
