package server1

import (
	"context"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/issue"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// ahead returns how another process of the issuer hands off, whose clock is ahead:
// the program's own parts over the same database.
func (s *site) ahead(t *testing.T, by time.Duration) func(sessionID string) (*handoffv1.IssueHandoffResponse, error) {
	t.Helper()
	now := func() time.Time { return time.Now().Add(by) }
	db, err := database.Open(t.Context(), s.database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: issuerName, Key: s.key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	permitted, err := policy.Load(s.path("policy.json"), rule.Linked(), policy.Limits{Handoff: handoff.MaxLifetime})
	if err != nil {
		t.Fatal(err)
	}
	service, err := issue.NewService(issue.Config{
		Issuer: issuer, Lifetime: 30 * time.Second, Policy: permitted, DB: db, Quota: 1000, MaxVisits: 50, Record: audit.New(io.Discard), Published: true, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := session.NewKeeper(session.KeeperConfig{
		DB: db, Idle: time.Minute, Lifetime: time.Hour, Log: (&serveCommand{}).Logger(io.Discard), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	guard := session.NewGuard(keeper)
	return func(sessionID string) (*handoffv1.IssueHandoffResponse, error) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+sessionID))
		info := &grpc.UnaryServerInfo{FullMethod: handoffv1.HandoffService_IssueHandoff_FullMethodName}
		resp, err := guard.Unary(ctx, pay(t), info, func(ctx context.Context, req any) (any, error) {
			return service.IssueHandoff(ctx, req.(*handoffv1.IssueHandoffRequest))
		})
		if err != nil {
			return nil, err
		}
		return resp.(*handoffv1.IssueHandoffResponse), nil
	}
}

// F02: of a user who is cut off, tokens of a process whose clock is ahead are
// refused too; and a user who signs in again waits here, at either process, and at the
// audience never.
func TestF02ClockAhead(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing())
	a := r.audience(t)
	const by = 3 * time.Second // less than the skew
	ahead := s.ahead(t, by)
	ctx, id := r.signIn(t, "alice")
	here := r.issue(t, ctx).GetToken()
	there, err := ahead(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{here, there.GetToken()} {
		a.wantNow(t, "before", raw, 0)
	}
	if _, err := r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, id = r.signIn(t, "alice")
	start := time.Now()
	again := map[string]func() (*handoffv1.IssueHandoffResponse, error){
		"the process whose clock is ahead": func() (*handoffv1.IssueHandoffResponse, error) { return ahead(id) },
		"the other":                        func() (*handoffv1.IssueHandoffResponse, error) { return r.handoffs().IssueHandoff(ctx, pay(t)) },
	}
	var all sync.WaitGroup
	for process, issue := range again {
		all.Go(func() {
			h, err := issue()
			if err != nil {
				t.Errorf("%s: %v", process, err)
				return
			}
			t.Logf("%s hands off after %s", process, time.Since(start))
			a.wantNow(t, "once signed in again, of "+process, h.GetToken(), 0)
			a.newer(t)
			a.wantNow(t, "and later", h.GetToken(), 0)
		})
	}
	for _, raw := range []string{here, there.GetToken()} {
		a.wantSoon(t, "a token from before", raw, handoff.ReasonTokenRevoked)
	}
	all.Wait()
	if waited := time.Since(start); waited > by+patience {
		t.Errorf("waited %s", waited)
	}
}

// F02: what was on its way while a user is cut off is either taken back or
// stands for good: which, its iat says, and every token that is asked for after the
// acknowledgement stands.
func TestF02InFlight(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing())
	a := r.audience(t)
	ctx, _ := r.signIn(t, "alice")
	subject := s.verify(t, r.issue(t, ctx).GetToken()).Claims().Subject
	type handed struct {
		raw   string
		asked time.Time
	}
	for range 2 {
		var (
			mu      sync.Mutex
			all     []handed
			issuing sync.WaitGroup
		)
		until, stop := context.WithCancel(t.Context())
		for range 4 {
			issuing.Go(func() {
				for until.Err() == nil {
					asked := time.Now()
					h, err := r.handoffs().IssueHandoff(ctx, pay(t))
					if handoffgrpc.ReasonOf(err) == handoff.ReasonIssuerUnavailable { // a busy machine
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					all = append(all, handed{h.GetToken(), asked})
					mu.Unlock()
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
		servingtest.Eventually(t, "tokens are handed out", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(all) > 0
		})
		s.command(t, "revoke", "--subject="+subject)
		acknowledged := time.Now()
		servingtest.Eventually(t, "tokens are handed out again", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(all) > 0 && all[len(all)-1].asked.After(acknowledged)
		})
		stop()
		issuing.Wait()
		a.newer(t)
		cutOff, err := strconv.ParseInt(column(t, s.open(t), `SELECT cut_off_at / 1000 FROM users`)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		taken, stand := 0, 0
		for _, h := range all {
			claims := s.verify(t, h.raw).Claims()
			want := handoff.Reason(0)
			if iat := claims.IssuedAt.Unix(); iat <= cutOff {
				want = handoff.ReasonTokenRevoked
				taken++
			} else {
				stand++
			}
			if want != 0 && h.asked.After(acknowledged) {
				t.Errorf("a token that is taken back was asked for %s after the acknowledgement", h.asked.Sub(acknowledged))
			}
			a.wantNow(t, "a token", h.raw, want)
		}
		if taken == 0 || stand == 0 {
			t.Errorf("%d tokens are taken back, %d stand", taken, stand)
		}
	}
}
