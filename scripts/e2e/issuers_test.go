package e2e

import (
	"testing"
	"time"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// Of two SERVER1s over one PostgreSQL one is killed. An audience that follows both
// does not notice, for longer than a list is relied on: the other's handoffs are
// accepted, and what it takes back is refused. An audience that follows the killed one
// only is stale by then, which shows that the time was long enough.
func TestOneOfTwoSERVER1sGone(t *testing.T) {
	t.Parallel()
	postgres, err := pair.StartPostgres(t.Context())
	needs(t, err)
	t.Cleanup(func() {
		if err := postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := trusting(t, pair.Config{
		Issuers: 2, Audiences: 2, FollowAll: true, Linked: 1, Postgres: postgres,
		Server1: []string{"--trust-lifetime", "4s"}, // signed each second
		Server2: []string{"--max-staleness", "4s"},
	})
	const both, first = 0, 1 // the audiences
	bob := visitorOf(t, p, "bob")
	others, stop := bob.others(t)
	defer stop()
	var slowest time.Duration // from the acknowledgement of a revocation
	takeBack := func(issuer, revoker int) string {
		t.Helper()
		issued, err := bob.handOff(t.Context(), issuer)
		if err != nil {
			t.Fatal(err)
		}
		if reason := bob.use(t.Context(), both, issued.GetToken()); reason != 0 {
			t.Fatalf("a handoff of SERVER1 %d is refused with %s", issuer, reason)
		}
		_, err = bob.issuers[revoker].Handoffs.RevokeHandoff(t.Context(),
			&handoffv1.RevokeHandoffRequest{HandoffId: issued.GetHandoffId()}, pair.Session(bob.session))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged := time.Now()
		bob.becomes(t, both, issued.GetToken(), handoff.ReasonTokenRevoked)
		slowest = max(slowest, time.Since(acknowledged))
		return issued.GetToken()
	}
	revoked := []string{takeBack(0, 1), takeBack(1, 0)}
	kept, err := bob.handOff(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}

	if err := p.Issuers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	killed, stale, accepted, tookBack := time.Now(), time.Duration(0), 0, time.Time{}
	for stale == 0 || time.Since(killed) < stale+time.Second {
		fresh, err := bob.handOff(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for whose, token := range map[string]string{"killed": kept.GetToken(), "other": fresh.GetToken()} {
			if reason := bob.use(t.Context(), both, token); reason != 0 {
				t.Fatalf("%s after one SERVER1 was killed, a handoff of the %s one is refused with %s", time.Since(killed), whose, reason)
			}
			accepted++
		}
		if serving, err := bob.issuers[1].Serving(t.Context()); err != nil || !serving {
			t.Fatalf("%s after one SERVER1 was killed, the audience that follows both serves: %v, %v", time.Since(killed), serving, err)
		}
		if time.Since(tookBack) > 300*time.Millisecond { // no user can have more than 100 listed
			revoked, tookBack = append(revoked, takeBack(1, 1)), time.Now()
		}
		if stale == 0 && bob.use(t.Context(), first, kept.GetToken()) == handoff.ReasonTrustStale {
			stale = time.Since(killed)
		}
		if stale == 0 && time.Since(killed) > patience {
			t.Fatalf("%s after the only SERVER1 that it follows was killed, an audience still relies on its list", patience)
		}
		time.Sleep(20 * time.Millisecond)
	}

	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob.becomes(t, first, kept.GetToken(), 0)
	for audience := range bob.audiences {
		for _, token := range revoked {
			if reason := bob.use(t.Context(), audience, token); reason != handoff.ReasonTokenRevoked {
				t.Errorf("audience %d, after the killed SERVER1 is back: a handoff that was taken back: %s", audience, reason)
			}
		}
	}
	revoked = append(revoked, takeBack(1, 0), takeBack(0, 1))
	stop()
	if slowest > time.Second+others.slowest {
		t.Errorf("a handoff is accepted %s after its revocation was acknowledged, and other calls take %s at most", slowest, others.slowest)
	}
	t.Logf("without the killed SERVER1: %d handoffs accepted, one that follows it only is stale after %s; of %d revocations the last was known after %s",
		accepted, stale.Round(time.Millisecond), len(revoked), slowest.Round(time.Millisecond))
}
