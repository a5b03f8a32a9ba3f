package server1

import (
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// I04: a user who has been issued as many handoffs as one can have is told when there
// are more, leaves no row, and keeps nobody else out; and can take back all of them.
func TestI04Quota(t *testing.T) {
	t.Parallel()
	s := newTrustedSite(t)
	s.addUser(t, "alice", "payer")
	s.addUser(t, "bob", "payer")
	r := s.start(t, s.publishing("handoff-quota", "3"))
	a := r.audience(t)
	alice, _ := r.signIn(t, "alice")
	bob, _ := r.signIn(t, "bob")
	var issued []*handoffv1.IssueHandoffResponse
	for range 3 {
		issued = append(issued, r.issue(t, alice))
	}
	before := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]
	for range 100 {
		_, err := r.handoffs().IssueHandoff(alice, pay(t))
		wantReason(t, "one too many", err, handoff.ReasonLimitExceeded)
		if wait := retryOf(err); wait <= 0 || wait > time.Minute/3 {
			t.Errorf("it is to be tried again in %s", wait)
		}
	}
	if after := column(t, s.open(t), `SELECT COUNT(*) FROM audit`)[0]; after != before {
		t.Errorf("the audit has %s rows, before %s", after, before)
	}
	r.issue(t, bob)
	for _, h := range issued {
		if _, err := r.handoffs().RevokeHandoff(alice, &handoffv1.RevokeHandoffRequest{HandoffId: h.GetHandoffId()}); err != nil {
			t.Error(err)
		}
		a.wantSoon(t, "taken back", h.GetToken(), handoff.ReasonTokenRevoked)
	}
	_, err := r.handoffs().RevokeHandoff(alice, &handoffv1.RevokeHandoffRequest{HandoffId: issued[0].GetHandoffId()})
	wantReason(t, "asking to take back too often", err, handoff.ReasonLimitExceeded)
	if _, err := r.sessions().SignOut(alice, &server1v1.SignOutRequest{}); err != nil {
		t.Error(err)
	}
}

// retryOf returns how long an error says to wait.
func retryOf(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}
