package issue

import (
	"context"
	"errors"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/limit"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// RevokeHandoff takes back a handoff of the caller's. It answers when that is on
// disk, from where the next trust list takes it.
func (s *Service) RevokeHandoff(ctx context.Context, req *handoffv1.RevokeHandoffRequest) (*handoffv1.RevokeHandoffResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	if err := s.revoke(ctx, current.User.ID, req); err != nil {
		s.config.Record.RevokeRefused(ctx, current.User.ID, err)
		return nil, err
	}
	s.config.Record.Revoked(ctx, current.User.ID, req.GetHandoffId())
	return &handoffv1.RevokeHandoffResponse{}, nil
}

func (s *Service) revoke(ctx context.Context, userID string, req *handoffv1.RevokeHandoffRequest) error {
	if !s.config.Published {
		return answer.Worded(handoff.ReasonIssuerUnavailable, "this issuer publishes no trust list: it can take nothing back", nil)
	}
	if wait, ok := limit.Take(s.config.Now(), limit.Share{Of: s.revoked, Key: userID}); !ok {
		return answer.Later("as many handoffs as a user can take back in a minute have been: wait, or sign out everywhere", wait)
	}
	err := s.config.DB.RevokeHandoff(ctx, userID, req.GetHandoffId(), s.config.Now().UTC())
	switch {
	case errors.Is(err, database.ErrNotFound):
		return answer.Invalid("handoff_id", "is not that of a handoff of yours")
	case errors.Is(err, database.ErrTooMany):
		return answer.Worded(handoff.ReasonLimitExceeded, "too many of your handoffs are taken back one by one: sign out, or sign out everywhere", err)
	case err != nil:
		return answer.Worded(handoff.ReasonIssuerUnavailable, "the revocation could not be recorded", err)
	}
	return nil
}
