package server1

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// I04: what takes back, and every command of an operator, takes effect beside a
// server that issues as fast as 64 callers ask, on a disk where a commit takes 20 ms.
func TestI04CommandsBesideABusyServer(t *testing.T) {
	t.Parallel()
	s := newQuickSite(t)
	for _, user := range []string{"alice", "bob", "carol"} {
		s.addUser(t, user, "payer")
	}
	settings := s.settings()
	for flag, value := range s.quick("log-level", "error", "lifetime", "300s", "max-lifetime", "300s") {
		if settings[flag] = value; value == "" {
			delete(settings, flag)
		}
	}
	p := spawn(t, settings, true, commitTakes+"=20ms")
	conn := s.dialFast(t, p.address)
	sessions, handoffs := server1v1.NewSessionServiceClient(conn), handoffv1.NewHandoffServiceClient(conn)
	signIn := func(name string) context.Context {
		resp, err := patiently(func() (*server1v1.SignInResponse, error) {
			return sessions.SignIn(t.Context(), &server1v1.SignInRequest{UserName: name, Password: password})
		})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+resp.GetSession())
	}
	alice, bob := signIn("alice"), signIn("bob")
	issue := func(ctx context.Context) *handoffv1.IssueHandoffResponse {
		h, err := patiently(func() (*handoffv1.IssueHandoffResponse, error) { return handoffs.IssueHandoff(ctx, pay(t)) })
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	mine := issue(bob)
	db := s.open(t)
	subject := column(t, db, `SELECT id FROM users WHERE name = 'bob'`)[0]
	sid := column(t, db, `SELECT handoff_id FROM sessions WHERE user_id = $1`, subject)[0]

	busy, stop := context.WithCancel(alice)
	var issued atomic.Int64
	var issuing sync.WaitGroup
	for range 64 {
		issuing.Go(func() {
			for busy.Err() == nil {
				if _, err := handoffs.IssueHandoff(busy, pay(t)); err == nil { // else it had to wait for too long
					issued.Add(1)
				}
			}
		})
	}
	defer issuing.Wait()
	defer stop()
	within := func(what string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		took := time.Since(began)
		t.Logf("%s: %s", what, took.Round(time.Millisecond))
		if took > patience {
			t.Errorf("%s took %s", what, took)
		}
	}
	command := func(args ...string) { t.Helper(); s.command(t, args...) }
	first := kidOf(t, mine.GetToken())
	prepare := func() (kid string) {
		t.Helper()
		within("keys prepare", func() {
			kid = preparedID.FindStringSubmatch(s.command(t, "keys", "prepare", "--key-dir="+s.path("keys")))[1]
		})
		return kid
	}
	next := prepare()
	for _, args := range [][]string{
		{"revoke", "--handoff=" + mine.GetHandoffId()},
		{"revoke", "--session=" + sid},
		{"revoke", "--subject=" + subject},
		{"user", "add", "--name=dave"},
		{"user", "disable", "carol"},
	} {
		within(strings.Join(args[:2], " "), func() { command(args...) })
	}
	within("keys list", func() { command("keys", "list") })
	step := func(args ...string) { // which may be too early yet
		t.Helper()
		servingtest.Eventually(t, "it is time for keys "+args[1], func() (taken bool) {
			within("keys "+args[1], func() {
				status, _, stderr := s.try(args...)
				if taken = status == 0; !taken && !strings.Contains(stderr, "too early") {
					t.Fatal(stderr)
				}
			})
			return taken
		})
	}
	step("keys", "activate", "--", next)
	step("keys", "retire", "--key-dir="+s.path("keys"), "--", first)
	another := prepare()
	within("keys taint", func() { command("keys", "taint", "--key-dir="+s.path("keys"), "--", another) })
	bob = signIn("bob")
	within("RevokeHandoff", func() {
		h := issue(bob)
		if _, err := handoffs.RevokeHandoff(bob, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()}); err != nil {
			t.Error(err)
		}
	})
	within("SignOut", func() {
		if _, err := sessions.SignOut(bob, &server1v1.SignOutRequest{}); err != nil {
			t.Error(err)
		}
	})
	before := issued.Load()
	servingtest.Eventually(t, "issuing goes on", func() bool { return issued.Load() > before })
}
