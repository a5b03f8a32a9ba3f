package server1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// newTrustedSite returns a site with a trust key.
func newTrustedSite(t testing.TB) *site {
	t.Helper()
	s := newSite(t)
	var err error
	if s.trustKey, err = signkey.Generate(handoff.EdDSA); err != nil {
		t.Fatal(err)
	}
	if err := s.trustKey.Save(s.path("trust.key")); err != nil {
		t.Fatal(err)
	}
	return s
}

// publishing are the settings with which it publishes.
func (s *site) publishing(more ...string) map[string]string {
	settings := map[string]string{"trust-key": s.path("trust.key")}
	for i := 0; i < len(more); i += 2 {
		settings[more[i]] = more[i+1]
	}
	return settings
}

// audience is a SERVER2 that trusts the trust key alone.
type audience struct {
	follower *trust.Follower
	verifier *handoff.Verifier
}

// audience starts one that follows the server, until the test ends.
func (r *running) audience(t testing.TB) *audience {
	t.Helper()
	feed, err := trust.NewStreamFeed(r.conn.Target(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: r.pool, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Fatal(err)
	}
	return r.follow(t, feed)
}

func (s *site) follow(t testing.TB, feed trust.Feed) *audience {
	t.Helper()
	follower, err := trust.NewFollower(trust.FollowerConfig{
		Issuer: issuerName, TrustKeys: []handoff.Key{s.trustKey.Key()}, Feed: feed,
		Report: func(e trust.Event) {
			switch e.Fault {
			case "", trust.FaultFeed, trust.FaultStale, trust.FaultExpired: // this machine can be late
			default:
				t.Errorf("the audience refuses a list: %s, %v", e.Fault, e.Err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience: billing, Issuers: map[string]handoff.KeySource{issuerName: follower}, Store: spent{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); follower.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	a := &audience{follower, verifier}
	for start := time.Now(); follower.Healthy() != nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatal(follower.Healthy())
		}
	}
	return a
}

// verify returns what the audience makes of a token. Where it has no list to rely
// on, as the machine is late, it is asked again.
func (a *audience) verify(raw string) (handoff.Reason, error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := a.verifier.VerifyAny(context.Background(), raw, nil)
		if reason := handoff.ReasonOf(err); reason != handoff.ReasonTrustStale || time.Since(start) > patience {
			return reason, err
		}
	}
}

// patience is how late this machine can be.
const patience = 30 * time.Second

// wantNow checks what the audience makes of a token.
func (a *audience) wantNow(t testing.TB, what, raw string, want handoff.Reason) {
	t.Helper()
	if reason, err := a.verify(raw); reason != want || want == 0 && err != nil {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// wantSoon is wantNow within a moment, and returns how long that took.
func (a *audience) wantSoon(t testing.TB, what, raw string, want handoff.Reason) time.Duration {
	t.Helper()
	start := time.Now()
	for ; time.Since(start) < patience; time.Sleep(time.Millisecond) {
		if reason, _ := a.verify(raw); reason == want {
			return time.Since(start)
		}
	}
	a.wantNow(t, what+", at last", raw, want)
	return time.Since(start)
}

// newer waits for a list that was signed after the call.
func (a *audience) newer(t testing.TB) {
	t.Helper()
	seq := a.follower.Status().Seq
	servingtest.Eventually(t, "a newer list comes", func() bool { return a.follower.Status().Seq > seq })
}

// command runs one of the program's commands on the site's database.
func (s *site) command(t testing.TB, args ...string) (stdout string) {
	t.Helper()
	status, stdout, stderr := s.try(args...)
	for start := time.Now(); strings.Contains(stderr, "deadline exceeded") && time.Since(start) < patience; { // a busy machine
		status, stdout, stderr = s.try(args...)
	}
	if status != 0 {
		t.Fatalf("%q: exit status %d: %s", args, status, stderr)
	}
	return stdout
}

func (s *site) try(args ...string) (status int, stdout, stderr string) {
	var out, complaint bytes.Buffer
	env := []string{"HANDOFF_SERVER1_DATABASE=" + s.database}
	status = run(context.Background(), args, env, strings.NewReader(password), &out, &complaint)
	return status, out.String(), complaint.String()
}

// issue returns a handoff of the session.
func (r *running) issue(t testing.TB, ctx context.Context) *handoffv1.IssueHandoffResponse {
	t.Helper()
	resp, err := patiently(func() (*handoffv1.IssueHandoffResponse, error) { return r.handoffs().IssueHandoff(ctx, pay(t)) })
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What is taken back is refused soon after the acknowledgement, and nothing else
// is. How soon, the tests between processes and the benchmarks tell.
func TestF04TakenBack(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	for _, name := range []string{"alice", "bob"} {
		s.addUser(t, name, "payer")
	}
	r := s.start(t, s.publishing("sign-in-attempts", "1000"))
	a := r.audience(t)
	bob, _ := r.signIn(t, "bob")
	var took []time.Duration
	const (
		handoffs  = 1 << iota // those of the handoff alone
		session               // and the others of its session
		elsewhere             // and those of the user's other session
	)
	for _, c := range []struct {
		name  string
		takes int
		ends  int // of the sessions
		do    func(ctx context.Context, h *handoffv1.IssueHandoffResponse, claims handoff.Claims) error
	}{
		{"RevokeHandoff", handoffs, 0, func(ctx context.Context, h *handoffv1.IssueHandoffResponse, _ handoff.Claims) error {
			return second(r.handoffs().RevokeHandoff(ctx, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()}))
		}},
		{"revoke --handoff", handoffs, 0, func(_ context.Context, h *handoffv1.IssueHandoffResponse, _ handoff.Claims) error {
			s.command(t, "revoke", "--handoff="+h.GetHandoffId())
			return nil
		}},
		{"SignOut", handoffs | session, session, func(ctx context.Context, _ *handoffv1.IssueHandoffResponse, _ handoff.Claims) error {
			return second(r.sessions().SignOut(ctx, &server1v1.SignOutRequest{}))
		}},
		{"revoke --session", handoffs | session, session, func(_ context.Context, _ *handoffv1.IssueHandoffResponse, claims handoff.Claims) error {
			s.command(t, "revoke", "--session="+claims.Session)
			return nil
		}},
		{"SignOutEverywhere", handoffs | session | elsewhere, session | elsewhere, func(ctx context.Context, _ *handoffv1.IssueHandoffResponse, _ handoff.Claims) error {
			return second(r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}))
		}},
		{"revoke --subject", handoffs | session | elsewhere, 0, func(_ context.Context, _ *handoffv1.IssueHandoffResponse, claims handoff.Claims) error {
			if said := s.command(t, "revoke", "--subject="+claims.Subject); !strings.Contains(said, "elsewhere") {
				t.Errorf("%q does not say what is not taken back", said)
			}
			return nil
		}},
		{"ChangePassword", handoffs | session | elsewhere, elsewhere, func(ctx context.Context, _ *handoffv1.IssueHandoffResponse, _ handoff.Claims) error {
			change := func(from, to string) error {
				return second(patiently(func() (*server1v1.ChangePasswordResponse, error) {
					return r.sessions().ChangePassword(ctx, &server1v1.ChangePasswordRequest{OldPassword: from, NewPassword: to})
				}))
			}
			return errors.Join(change(password, password+"!"), change(password+"!", password)) // and back, for the next
		}},
		{"user disable", handoffs | session | elsewhere, session | elsewhere, func(context.Context, *handoffv1.IssueHandoffResponse, handoff.Claims) error {
			s.command(t, "user", "disable", "alice")
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, _ := r.signIn(t, "alice")
			other, _ := r.signIn(t, "alice")
			one := r.issue(t, ctx)
			same, its := r.issue(t, ctx).GetToken(), r.issue(t, other).GetToken()
			control := r.issue(t, bob).GetToken()
			for _, raw := range []string{one.GetToken(), same, its} {
				a.wantNow(t, "before", raw, 0)
			}
			if err := c.do(ctx, one, s.verify(t, one.GetToken()).Claims()); err != nil {
				t.Fatal(err)
			}
			took = append(took, a.wantSoon(t, "the handoff", one.GetToken(), handoff.ReasonTokenRevoked))
			for _, other := range []struct {
				raw  string
				kind int
			}{{same, session}, {its, elsewhere}} {
				want := handoff.Reason(0)
				if c.takes&other.kind != 0 {
					want = handoff.ReasonTokenRevoked
				}
				a.wantNow(t, "another", other.raw, want)
			}
			a.wantNow(t, "another user's", control, 0)
			for _, of := range []struct {
				ctx  context.Context
				kind int
			}{{ctx, session}, {other, elsewhere}} {
				_, err := r.sessions().GetSession(of.ctx, &server1v1.GetSessionRequest{})
				if c.ends&of.kind != 0 {
					wantReason(t, "a session that was ended", err, handoff.ReasonSessionInvalid)
				} else if err != nil {
					t.Errorf("a session that was not ended: %v", err)
				}
			}
		})
	}
	slices.Sort(took)
	t.Logf("refused after %s", took)
}

// A user who was cut off and signs in again gets handoffs that stand.
func TestF02CutOffAndBack(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing("sign-in-attempts", "1000"))
	a := r.audience(t)
	for range measure.Of(2, 5, 5) { // each waits for the next second
		ctx, _ := r.signIn(t, "alice")
		before := r.issue(t, ctx).GetToken()
		if _, err := r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
			t.Fatal(err)
		}
		ctx, _ = r.signIn(t, "alice")
		start := time.Now()
		after := r.issue(t, ctx).GetToken()
		if waited := time.Since(start); waited > patience {
			t.Errorf("waited %s", waited)
		}
		a.wantNow(t, "the new handoff, at once", after, 0)
		a.newer(t)
		a.wantNow(t, "the old handoff", before, handoff.ReasonTokenRevoked)
		a.wantNow(t, "the new handoff", after, 0)
	}
}

// I02: strangers take all places of WatchTrustList that they get. A follower from a
// known network gets one all the same; one from elsewhere is refused, asks instead, and
// hears of what is taken back.
func TestI02StrangersTakeAllPlaces(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	r := s.start(t, s.publishing("max-connections", "64", "follower-network", "192.0.2.0/24,127.0.1.0/24"))
	from := func(address string) grpc.DialOption {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		return grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) })
	}
	secure := grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: s.pool, MinVersion: tls.VersionTLS13}))
	watch := func(address string) error {
		conn, err := grpc.NewClient(r.conn.Target(), secure, from(address))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		stream, err := handoffv1.NewTrustServiceClient(conn).WatchTrustList(t.Context(), &handoffv1.WatchTrustListRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	refused := 0
	for n := range 20 {
		if err := watch(fmt.Sprintf("127.0.0.%d", 10+n)); status.Code(err) == codes.ResourceExhausted {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 12 {
		t.Errorf("of 20 strangers %d are refused; the places are 16, and half of them known followers'", refused)
	}
	if err := watch("127.0.1.1"); err != nil {
		t.Errorf("a known follower: %v", err)
	}
	if err := watch("127.0.0.99"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an unknown follower: %v", err)
	}
	feed, err := trust.NewStreamFeed(r.conn.Target(), secure, from("127.0.0.99"))
	if err != nil {
		t.Fatal(err)
	}
	a := r.follow(t, feed)
	ctx, _ := r.signIn(t, "alice")
	token := r.issue(t, ctx).GetToken()
	a.wantSoon(t, "a handoff, by asking", token, 0)
	if _, err := r.sessions().SignOutEverywhere(ctx, &server1v1.SignOutEverywhereRequest{}); err != nil {
		t.Fatal(err)
	}
	a.wantSoon(t, "what was taken back, by asking", token, handoff.ReasonTokenRevoked)
}
