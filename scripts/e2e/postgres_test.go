package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/measure"
)

// F04: PostgreSQL is stopped and killed while users sign in, are issued handoffs,
// revoke them and sign out at two SERVER1s: nothing that either has acknowledged
// is lost, and both go on by themselves.
func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	const guests = 8
	postgres, err := pair.StartPostgres(t.Context())
	needs(t, err)
	t.Cleanup(func() {
		if err := postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := trusting(t, pair.Config{Issuers: 2, Audiences: 2, Postgres: postgres, Guests: guests})
	alice := visitorOf(t, p, "alice") // takes nothing back
	kept, err := alice.handOff(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}

	said := &acknowledged{counts: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for i := range guests {
		visitor := visitorOf(t, p, fmt.Sprintf("guest-%d", i+1))
		group.Go(func() { visitor.comeAndGo(ctx, said) })
	}
	rounds := measure.Of(2, 4, 16)
	var slowest time.Duration
	var restarts atomic.Int64
	defer progress(t, func() string { return fmt.Sprintf("%d of %d restarts", restarts.Load(), rounds) })()
	for round := range rounds {
		time.Sleep(time.Duration(measure.Of(400, 400, 1500)) * time.Millisecond)
		end := postgres.Halt
		if round%2 == 1 {
			end = postgres.Kill
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(300 * time.Millisecond))
		before := said.perIssuer()
		if err := postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for now := said.perIssuer(); now[0] == before[0] || now[1] == before[1]; now = said.perIssuer() {
			if time.Since(began) > patience {
				t.Fatalf("round %d: %s after PostgreSQL is back, the SERVER1s have acknowledged %v, and %v before", round, patience, now, before)
			}
			time.Sleep(time.Millisecond)
		}
		slowest = max(slowest, time.Since(began))
		restarts.Add(1)
	}
	for began := time.Now(); said.missing() != ""; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("%s after the last restart, no %s was acknowledged", patience, said.missing())
		}
	}
	stop()
	group.Wait()
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, issuer := range p.Issuers {
		select {
		case <-issuer.Exited():
			t.Fatalf("SERVER1 %d has ended", i)
		default:
		}
	}
	t.Logf("%d restarts; acknowledged %v; both SERVER1s acknowledge again %s after it answers, or sooner",
		rounds, said.counts, slowest.Round(time.Millisecond))
	said.stands(t, alice)
	renewed, err := alice.handOff(t.Context(), 1)
	if err != nil {
		t.Fatal("a session of before:", err)
	}
	for audience := range alice.audiences {
		for which, token := range map[string]string{"before": kept.GetToken(), "now": renewed.GetToken()} {
			if reason := alice.use(t.Context(), audience, token); reason != 0 {
				t.Errorf("audience %d: a handoff of %s, that nobody has taken back: %s", audience, which, reason)
			}
		}
	}
}

// visitor is a user who goes to any SERVER1.
type visitor struct {
	*user
	name    string
	issuers []*pair.Client
}

func visitorOf(t *testing.T, p *pair.Pair, name string) *visitor {
	t.Helper()
	v := &visitor{user: signIn(t, p, name), name: name}
	for _, issuer := range p.Issuers {
		client, err := pair.Dial(issuer.Address, p.Server2.Address, p.CA)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		v.issuers = append(v.issuers, client)
	}
	return v
}

// handOff is issued a reusable handoff by one SERVER1.
func (v *visitor) handOff(ctx context.Context, issuer int) (*handoffv1.IssueHandoffResponse, error) {
	at := *v.user
	at.Client = v.issuers[issuer]
	return at.handOff(ctx)
}

// acknowledged is what the SERVER1s have said yes to.
type acknowledged struct {
	mu       sync.Mutex
	tokens   []string       // that were taken back
	sessions []string       // that were ended
	counts   map[string]int // by kind
	issuers  [2]int         // by SERVER1

	turns atomic.Int64 // of taking something back
}

func (a *acknowledged) note(issuer int, kind, token, session string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issuers[issuer]++
	a.counts[kind]++
	if token != "" {
		a.tokens = append(a.tokens, token)
	}
	if session != "" {
		a.sessions = append(a.sessions, session)
	}
}

// missing is a kind that nobody has been told yes to.
func (a *acknowledged) missing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, kind := range []string{"SignIn", "RevokeHandoff", "SignOut", "SignOutEverywhere"} {
		if a.counts[kind] == 0 {
			return kind
		}
	}
	return ""
}

func (a *acknowledged) perIssuer() [2]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issuers
}

// comeAndGo signs the visitor in, and out, and takes handoffs back, each at any
// SERVER1, until the context ends. What fails is not noted: it may have been done
// or not.
func (v *visitor) comeAndGo(ctx context.Context, said *acknowledged) {
	for session := ""; ctx.Err() == nil; {
		at := rand.IntN(len(v.issuers))
		if session == "" {
			in, err := v.issuers[at].SignIn(ctx, v.name, pair.Password)
			if err != nil {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			session = in.GetSession()
			said.note(at, "SignIn", "", "")
		}
		v.user.session = session
		issued, err := v.handOff(ctx, rand.IntN(len(v.issuers)))
		if err != nil {
			if handoffgrpc.ReasonOf(err) == handoff.ReasonSessionInvalid {
				session = ""
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		kind, err := v.takeBack(ctx, v.issuers[at], said.turns.Add(1), session, issued.GetHandoffId())
		if handoffgrpc.ReasonOf(err) == handoff.ReasonLimitExceeded {
			kind, err = "SignOutEverywhere", v.leave(ctx, v.issuers[at], session, true)
		}
		switch {
		case err != nil:
			if kind != "RevokeHandoff" {
				session = "" // which may have ended, or not
			}
		case kind == "RevokeHandoff":
			said.note(at, kind, issued.GetToken(), "")
		default:
			said.note(at, kind, issued.GetToken(), session)
			session = ""
		}
	}
}

// takeBack takes one handoff back or, as the turn is, all that the session or the
// user has.
func (v *visitor) takeBack(ctx context.Context, at *pair.Client, turn int64, session, id string) (kind string, err error) {
	switch turn % 20 {
	case 5:
		return "SignOutEverywhere", v.leave(ctx, at, session, true)
	case 2, 12:
		return "SignOut", v.leave(ctx, at, session, false)
	}
	_, err = at.Handoffs.RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: id}, pair.Session(session))
	return "RevokeHandoff", err
}

func (v *visitor) leave(ctx context.Context, at *pair.Client, session string, everywhere bool) (err error) {
	if everywhere {
		_, err = at.Sessions.SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}, pair.Session(session))
	} else {
		_, err = at.Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(session))
	}
	return err
}

// stands holds all servers to what was acknowledged: every SERVER2 refuses each
// handoff that was taken back, and every SERVER1 each session that was ended.
func (a *acknowledged) stands(t *testing.T, by *visitor) {
	t.Helper()
	lost, began := 0, time.Now()
	for audience := range by.audiences {
		for _, token := range a.tokens {
			for by.use(t.Context(), audience, token) == 0 && time.Since(began) < patience {
				time.Sleep(10 * time.Millisecond) // the last of it is soon known
			}
			if reason := by.use(t.Context(), audience, token); reason != handoff.ReasonTokenRevoked {
				lost++
				t.Logf("audience %d: a handoff that was taken back: %s", audience, reason)
			}
		}
	}
	for _, issuer := range by.issuers {
		for _, session := range a.sessions {
			_, err := issuer.Sessions.GetSession(t.Context(), &server1v1.GetSessionRequest{}, pair.Session(session), grpc.WaitForReady(true))
			if handoffgrpc.ReasonOf(err) != handoff.ReasonSessionInvalid {
				lost++
				t.Logf("a session that was ended: %v", err)
			}
		}
	}
	if lost > 0 {
		t.Errorf("of %d handoffs taken back and %d sessions ended, %d answers are otherwise", len(a.tokens), len(a.sessions), lost)
	}
}
