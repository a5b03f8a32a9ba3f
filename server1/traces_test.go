package server1

import (
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/handoff-auth/handoff/shared/serving/servingtest"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// The span of the call that issued a handoff has its id. No span has the token, the session
// or what else the caller sent, and none is there for health.
func TestTraces(t *testing.T) {
	spans := servingtest.ReceiveSpans(t)
	s := newSite(t)
	r := s.start(t, nil)
	s.addUser(t, "alice", "payer")
	ctx, session := r.signIn(t, "alice")
	ctx = metadata.AppendToOutgoingContext(ctx, "baggage", "s3cret=1", "x-s3cret", "s3cret")
	answer, err := handoffv1.NewHandoffServiceClient(r.conn).IssueHandoff(ctx, pay(t))
	if err != nil {
		t.Fatal(err)
	}
	id := s.verify(t, answer.GetToken()).Claims().ID
	got := spans.Wait(t, "handoff.v1.HandoffService/IssueHandoff", "handoff.id", id, "handoff-server1")
	for what, text := range map[string]string{
		"the token": answer.GetToken(), "its signature": answer.GetToken()[strings.LastIndex(answer.GetToken(), ".")+1:],
		"the session": session, "metadata": "s3cret", "the password": password, "health": "grpc.health",
	} {
		if strings.Contains(got, text) {
			t.Errorf("a span has %s", what)
		}
	}
}
