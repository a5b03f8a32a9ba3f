package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// shared is three replicas of SERVER2 that keep their redemptions in one Redis,
// each over a link of its own, and a user who may use them all.
type shared struct {
	*testing.T
	redis *harness.Redis
	links []*pair.Link
	pair  *pair.Pair
	bob   *user
}

const replicas = 3

func startShared(t *testing.T) *shared {
	t.Helper()
	redis, err := harness.StartRedis(t.Context(), filepath.Join(t.TempDir(), "redis"))
	needs(t, err)
	t.Cleanup(func() {
		if err := redis.Kill(); err != nil {
			t.Error(err)
		}
	})
	s := &shared{T: t, redis: redis}
	for range replicas {
		link, err := pair.NewLink(t.Context(), redis.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		s.links = append(s.links, link)
	}
	s.pair = trusting(t, pair.Config{
		Audiences: replicas, Server2: []string{"--metrics", "127.0.0.1:0"},
		Audience: func(i int) []string { return []string{"--replay", "redis://" + s.links[i].Address()} },
	})
	s.bob = signIn(t, s.pair, "bob")
	return s
}

// needs skips the test where a program is not installed, unless none may be
// missing.
func needs(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("HANDOFF_CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// order is single use. That the invoice is not bob's is the handler's to say:
// a caller who hears it was let through to it.
var order = &server2v1.PayInvoiceRequest{
	InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200}, RequestId: pair.NewRequestID(),
}

// present uses a token at one replica. The error is the refusal.
func (s *shared) present(replica int, token string, options ...grpc.CallOption) (outcome, error) {
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	_, err := s.bob.audiences[replica].PayInvoice(ctx, order, append(options, handoffgrpc.Token(token))...)
	switch reason := handoffgrpc.ReasonOf(err); {
	case status.Code(err) == codes.NotFound:
		return accepted, nil
	case reason == handoff.ReasonTokenReplayed:
		return replayed, err
	case reason == handoff.ReasonTrustStale, reason == handoff.ReasonLimitExceeded:
		return refused, err // of a replica that has just started, or has too much to do
	case reason == handoff.ReasonStoreUnavailable, reason == 0 && broken(err):
		return doubtful, err
	}
	s.Errorf("a token that any replica must accept is refused: %v", err)
	return refused, err
}

// broken says whether a call was lost on its way there or back.
func broken(err error) bool {
	return status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded
}

// fresh is a token that nobody has used.
func (s *shared) fresh() string {
	issued, err := s.bob.Issue(s.Context(), s.bob.session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, order, 0)
	if err != nil {
		s.Error(err)
	}
	return issued.GetToken()
}
