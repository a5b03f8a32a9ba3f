package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/scripts/internal/pair/pairtest"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// trusting starts a SERVER1 that publishes a trust list, and audiences that have
// nothing of it but the public trust key.
func trusting(t *testing.T, config pair.Config) *pair.Pair {
	t.Helper()
	config.Bin = bin
	config.Server1 = append([]string{"--skew", "1s", "--sign-in-attempts", "100000", "--handoff-quota", "1000000"}, config.Server1...)
	config.Server2 = append([]string{"--skew", "1s"}, config.Server2...)
	return pairtest.Start(t, config)
}

// user is a signed-in user with a connection to each audience.
type user struct {
	*pair.Client
	session   string
	audiences []server2v1.InvoiceServiceClient
}

func signIn(t *testing.T, p *pair.Pair, name string) *user {
	t.Helper()
	u := &user{}
	for _, audience := range p.Audiences {
		client, err := pair.Dial(p.Server1.Address, audience.Address, p.CA)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		u.Client = client
		u.audiences = append(u.audiences, client.Invoices)
	}
	response, err := u.SignIn(t.Context(), name, pair.Password)
	if err != nil {
		t.Fatal(err)
	}
	u.session = response.GetSession()
	return u
}

// look is of bob's invoice. That others are told there is none is the handler's
// doing: they were let through to it.
var look = &server2v1.GetInvoiceRequest{InvoiceId: "INV-45"} // bob's

// handOff returns a reusable handoff that lives as long as one can.
func (u *user) handOff(ctx context.Context) (*handoffv1.IssueHandoffResponse, error) {
	return u.Issue(ctx, u.session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, look, 300*time.Second)
}

// use presents a token to one audience.
func (u *user) use(ctx context.Context, audience int, token string) handoff.Reason {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := u.audiences[audience].GetInvoice(ctx, look, handoffgrpc.Token(token))
	return handoffgrpc.ReasonOf(err)
}

// becomes waits until an audience makes that of a token.
func (u *user) becomes(t *testing.T, audience int, token string, want handoff.Reason) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		got := u.use(t.Context(), audience, token)
		if got == want {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("audience %d: %s after %s, want %s", audience, got, patience, want)
		}
	}
}

// patience is how long a busy machine may take for what is soon done.
const patience = 30 * time.Second

// Each revocation is refused by every audience a second after it was acknowledged,
// or later by as much as the machine itself is.
func TestRevocationsArriveWithinASecond(t *testing.T) {
	const guests = 10 // no user can have more than 100 listed
	revocations := measure.Of(100, 300, 1000)
	p := trusting(t, pair.Config{Audiences: 3, Guests: guests})
	var users []*user
	for i := range guests {
		users = append(users, signIn(t, p, fmt.Sprintf("guest-%d", i+1)))
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration // of some, until all audiences refuse
		last  time.Duration   // after which a token was still accepted, more than a second
	)
	defer group.Wait()
	others, stop := users[0].others(t)
	defer stop()
	for i := range revocations {
		of := users[i%guests]
		issued, err := of.handOff(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if reason := of.use(t.Context(), i%3, issued.GetToken()); reason != 0 {
			t.Fatalf("before it is revoked, a handoff is refused with %s", reason)
		}
		_, err = of.Handoffs.RevokeHandoff(t.Context(), &handoffv1.RevokeHandoffRequest{HandoffId: issued.GetHandoffId()}, pair.Session(of.session))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged := time.Now()
		group.Go(func() {
			if i%20 == 0 {
				after := of.untilRefused(t.Context(), issued.GetToken(), acknowledged)
				mu.Lock()
				took = append(took, after)
				mu.Unlock()
			}
			time.Sleep(time.Until(acknowledged.Add(time.Second)))
			for audience := range of.audiences {
				for of.use(t.Context(), audience, issued.GetToken()) != handoff.ReasonTokenRevoked {
					late := time.Since(acknowledged)
					mu.Lock()
					last = max(last, late)
					mu.Unlock()
					if late > patience {
						t.Errorf("revocation %d, audience %d: %s after the acknowledgement", i, audience, late)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	group.Wait()
	stop()
	if last > time.Second+others.slowest {
		t.Errorf("a handoff is accepted %s after its revocation was acknowledged, and other calls take %s at most", last, others.slowest)
	}
	slices.Sort(took)
	t.Logf("%d revocations; of %d that were watched, half were refused by all audiences after %s, the last after %s",
		revocations, len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}

// others measures calls that no list delays, until stop: what the machine is late
// with shows in them.
func (u *user) others(t *testing.T) (took *lateness, stop func()) {
	took = &lateness{}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			for _, audience := range u.audiences {
				called := time.Now()
				_, _ = audience.GetInvoice(ctx, look) // without a token
				took.add(time.Since(called))
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return took, func() { cancel(); group.Wait() }
}

// untilRefused waits until all audiences refuse a token, for up to a second, and
// returns how long that is after it was taken back.
func (u *user) untilRefused(ctx context.Context, token string, since time.Time) time.Duration {
	for audience := range u.audiences {
		for u.use(ctx, audience, token) == 0 && time.Since(since) < time.Second {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return time.Since(since)
}

// Signing out takes the session's handoffs back, signing out everywhere and
// disabling a user take back all of the user's; and a user who signs in again has
// working handoffs, without a refusal in between.
func TestWhatEndsAUserEndsItsHandoffs(t *testing.T) {
	t.Parallel()
	p := trusting(t, pair.Config{Audiences: 2})
	for _, test := range []struct {
		name  string
		end   func(ctx context.Context, of *user) error
		other handoff.Reason // what becomes of the user's other session's handoff
	}{
		{"sign out", func(ctx context.Context, of *user) error {
			_, err := of.Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(of.session))
			return err
		}, 0},
		{"sign out everywhere", func(ctx context.Context, of *user) error {
			_, err := of.Sessions.SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}, pair.Session(of.session))
			return err
		}, handoff.ReasonTokenRevoked},
		{"revoke --subject", func(ctx context.Context, _ *user) error {
			_, err := p.Operate(ctx, []string{"revoke", "--subject=" + p.Users["bob"].ID})
			return err
		}, handoff.ReasonTokenRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			here, there := signIn(t, p, "bob"), signIn(t, p, "bob")
			mine, err := here.handOff(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			others, err := there.handOff(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := test.end(t.Context(), here); err != nil {
				t.Fatal(err)
			}
			again := signIn(t, p, "bob")
			for range 5 {
				renewed, err := again.handOff(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for audience := range again.audiences {
					if reason := again.use(t.Context(), audience, renewed.GetToken()); reason != 0 {
						t.Errorf("after signing in again, a handoff is refused with %s", reason)
					}
				}
			}
			for audience := range here.audiences {
				here.becomes(t, audience, mine.GetToken(), handoff.ReasonTokenRevoked)
				if reason := there.use(t.Context(), audience, others.GetToken()); reason != test.other {
					t.Errorf("audience %d: the other session's handoff: %s, want %s", audience, reason, test.other)
				}
			}
		})
	}
	t.Run("user disable", func(t *testing.T) {
		bob := signIn(t, p, "bob")
		issued, err := bob.handOff(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Operate(t.Context(), []string{"user", "disable"}, "bob"); err != nil {
			t.Fatal(err)
		}
		for audience := range bob.audiences {
			bob.becomes(t, audience, issued.GetToken(), handoff.ReasonTokenRevoked)
		}
		if _, err := bob.handOff(t.Context()); handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
			t.Errorf("the disabled user's session: %v", err)
		}
	})
}

// Without SERVER1 an audience goes on until its list is too old, then refuses all
// and says that it does not serve, and goes on again when SERVER1 is back.
func TestServer1Gone(t *testing.T) {
	t.Parallel()
	const oldest = 5 * time.Second
	p := trusting(t, pair.Config{Server2: []string{"--max-staleness", oldest.String()}})
	bob, alice := signIn(t, p, "bob"), signIn(t, p, "alice")
	issued, err := bob.handOff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := alice.handOff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Server1.Kill(); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	if reason := bob.use(t.Context(), 0, issued.GetToken()); reason != 0 {
		t.Errorf("just after SERVER1 was killed: %s", reason)
	}
	refused := time.Duration(0)
	for time.Since(gone) < patience && refused == 0 {
		switch reason := bob.use(t.Context(), 0, issued.GetToken()); reason {
		case 0:
			time.Sleep(20 * time.Millisecond)
		case handoff.ReasonTrustStale:
			refused = time.Since(gone)
		default:
			t.Fatalf("%s after SERVER1 was killed: %s", time.Since(gone), reason)
		}
	}
	// The list was up to a refresh interval old when SERVER1 ended, by a whole second.
	if refused < 500*time.Millisecond {
		t.Errorf("refused after %s, want %s less the age of the list", refused, oldest)
	}
	if reason := alice.use(t.Context(), 0, other.GetToken()); reason != handoff.ReasonTrustStale {
		t.Errorf("another user's handoff, which nobody has used: %s", reason)
	}
	wantServing(t, bob.Client, false)
	if err := p.StartServer1(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	bob.becomes(t, 0, issued.GetToken(), 0)
	t.Logf("refused from %s after SERVER1 was killed, until %s after it was back", refused.Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
	if reason := alice.use(t.Context(), 0, other.GetToken()); reason != 0 {
		t.Errorf("another user's handoff, once SERVER1 is back: %s", reason)
	}
	wantServing(t, bob.Client, true)
}

// wantServing waits until an audience says whether it serves: its health looks
// twice a second.
func wantServing(t *testing.T, client *pair.Client, want bool) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		serving, err := client.Serving(t.Context())
		if err == nil && serving == want {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("serving: %v, %v; want %v", serving, err, want)
		}
	}
}

// The trust key changes: an audience that has pinned the next one beside it notices
// nothing, and one that has not relies on nothing that it signs.
func TestTrustKeyChanges(t *testing.T) {
	t.Parallel()
	next, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := keyset.New(next.Key())
	if err != nil {
		t.Fatal(err)
	}
	public, err := set.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	pinned := filepath.Join(t.TempDir(), "next.jwks")
	if err := os.WriteFile(pinned, public, 0o644); err != nil {
		t.Fatal(err)
	}
	p := trusting(t, pair.Config{Audiences: 2, Audience: func(i int) []string {
		return [][]string{{"--trust-key", pinned}, {"--max-staleness", "3s"}}[i]
	}})
	bob := signIn(t, p, "bob")
	before, err := bob.handOff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for audience := range bob.audiences {
		if reason := bob.use(t.Context(), audience, before.GetToken()); reason != 0 {
			t.Fatalf("audience %d, before the change: %s", audience, reason)
		}
	}

	if err := p.Server1.Stop(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(filepath.Dir(p.KeyDir()), "trust.key")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := next.Save(key); err != nil {
		t.Fatal(err)
	}
	if err := p.StartServer1(t.Context()); err != nil {
		t.Fatal(err)
	}
	for changed := time.Now(); time.Since(changed) < 4*time.Second; time.Sleep(20 * time.Millisecond) {
		if reason := bob.use(t.Context(), 0, before.GetToken()); reason != 0 {
			t.Fatalf("the audience that has pinned both: %s", reason)
		}
	}
	if reason := bob.use(t.Context(), 1, before.GetToken()); reason != handoff.ReasonTrustStale {
		t.Errorf("the audience that has pinned the former key: %s", reason)
	}
	_, err = bob.Handoffs.RevokeHandoff(t.Context(), &handoffv1.RevokeHandoffRequest{HandoffId: before.GetHandoffId()}, pair.Session(bob.session))
	if err != nil {
		t.Fatal(err)
	}
	bob.becomes(t, 0, before.GetToken(), handoff.ReasonTokenRevoked)
}
