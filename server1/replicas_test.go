package server1

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// replicas starts two processes of one issuer, over a PostgreSQL.
func replicas(t *testing.T, more ...string) (s *site, both [2]*running) {
	t.Helper()
	s = newQuickSite(t)
	s.database = servingtest.Postgres(t)
	s.addUser(t, "alice", "payer")
	for i := range both {
		both[i] = s.start(t, s.quick(more...))
	}
	return s, both
}

// What one process acknowledges, all say; and a session of one is one of all.
func TestF04Replicas(t *testing.T) {
	t.Parallel()
	s, both := replicas(t, "lifetime", "30s", "max-lifetime", "300s", "trust-lifetime", "60s", "skew", "5s")
	audiences := [2]*audience{both[0].audience(t), both[1].audience(t)}
	for i, mine := range both {
		other := both[1-i]
		ctx, _ := mine.signIn(t, "alice")
		tokens := []*handoffv1.IssueHandoffResponse{mine.issue(t, ctx), other.issue(t, ctx), mine.issue(t, ctx), other.issue(t, ctx)}
		for _, a := range audiences {
			for _, h := range tokens {
				a.wantNow(t, "before", h.GetToken(), 0)
			}
		}
		revoke := func(r *running, h *handoffv1.IssueHandoffResponse) {
			t.Helper()
			if _, err := r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()}); err != nil {
				t.Fatal(err)
			}
			for _, a := range audiences {
				a.wantSoon(t, "a handoff", h.GetToken(), handoff.ReasonTokenRevoked)
			}
		}
		revoke(mine, tokens[0])
		revoke(mine, tokens[1])
		audiences[0].wantNow(t, "another", tokens[2].GetToken(), 0)
		if _, err := other.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err := mine.sessions().GetSession(ctx, &server1v1.GetSessionRequest{})
		wantReason(t, "the session at the other process", err, handoff.ReasonSessionInvalid)
		for _, a := range audiences {
			a.wantSoon(t, "everything", tokens[2].GetToken(), handoff.ReasonTokenRevoked)
			a.wantSoon(t, "everything", tokens[3].GetToken(), handoff.ReasonTokenRevoked)
		}
		ctx, _ = mine.signIn(t, "alice")
		h := other.issue(t, ctx)
		for _, a := range audiences {
			a.wantNow(t, "once signed in again", h.GetToken(), 0)
		}
	}
	s.command(t, "user", "disable", "alice")
}

// One process rotates at a time, and no token of either is refused at an audience
// that follows the other.
func TestF06Replicas(t *testing.T) {
	t.Parallel()
	s, both := replicas(t, "rotate-every", "1s")
	audiences := [2]*audience{both[1].audience(t), both[0].audience(t)} // crosswise
	ctx, _ := both[0].signIn(t, "alice")
	var mu sync.Mutex
	signed := [2]map[string]bool{{}, {}}
	enough := func() bool { // a key signs for a second, in which a busy process may not be asked
		mu.Lock()
		defer mu.Unlock()
		both := 0
		for kid := range signed[0] {
			if signed[1][kid] {
				both++
			}
		}
		return both >= 3
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i, r := range both {
		for range 2 {
			wg.Go(func() {
				for !enough() && time.Since(began) < 2*patience {
					h, err := r.handoffs().IssueHandoff(ctx, pay(t))
					if err != nil {
						t.Error(err)
						return
					}
					audiences[i].wantAlive(t, "a token of the other process", h)
					mu.Lock()
					signed[i][kidOf(t, h.GetToken())] = true
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	if !enough() {
		t.Errorf("the processes signed with %v and %v", signed[0], signed[1])
	}
	next := 0
	for _, line := range strings.Split(s.command(t, "keys", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "next" {
			next++
		}
	}
	if next > 1 {
		t.Errorf("%d keys are prepared: more than one process rotates", next)
	}
}

// The list that audiences read from several processes has one order.
func TestReplicasNumberLists(t *testing.T) {
	t.Parallel()
	s, both := replicas(t)
	const enough = 8
	seen := map[int64]string{}
	var mu sync.Mutex
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var wg sync.WaitGroup
	for _, r := range both {
		client := handoffv1.NewTrustServiceClient(s.dialFast(t, r.conn.Target()))
		take := func() {
			stream, err := client.WatchTrustList(ctx, &handoffv1.WatchTrustListRequest{}, grpc.WaitForReady(true))
			for err == nil {
				var list *handoffv1.WatchTrustListResponse
				if list, err = stream.Recv(); err != nil {
					return
				}
				mu.Lock()
				seq, text := seqOf(t, list.GetTrustList()), list.GetTrustList()
				if before, ok := seen[seq]; ok && before != text {
					t.Errorf("two lists have the number %d", seq)
				}
				if seen[seq] = text; len(seen) >= enough {
					stop()
				}
				mu.Unlock()
			}
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				take()
			}
		})
	}
	wg.Wait()
	if len(seen) < enough {
		t.Errorf("%d lists", len(seen))
	}
}

// PostgreSQL and the process are killed in turn, under load: no acknowledged
// revocation or sign-out is lost, and the process goes on when PostgreSQL does.
func TestF04PostgresKilled(t *testing.T) {
	t.Parallel()
	server := servingtest.StartPostgres(t)
	s := newQuickSite(t)
	s.database = server.Database(t)
	processToo := true
	s.underKills(t, measure.Of(2, 4, 4), func(p *process) bool {
		if processToo = !processToo; processToo {
			p.kill()
		}
		server.Kill(t)
		server.Start(t)
		return processToo
	})
}
