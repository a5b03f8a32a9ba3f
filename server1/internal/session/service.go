package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/shared/handoff"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
)

// Service is the SessionService. SignIn runs without a session; the other
// methods need the Guard.
type Service struct {
	server1v1.UnimplementedSessionServiceServer
	keeper *Keeper
	users  *account.Directory
	limit  *limiter
	log    *slog.Logger
}

// NewService returns the service over users, whose sessions keeper keeps. One
// network can try to sign in to one account perMinute times a minute, and ten
// times as often to all accounts together.
func NewService(keeper *Keeper, users *account.Directory, perMinute int) (*Service, error) {
	if perMinute < 1 {
		return nil, errors.New("perMinute must be at least 1")
	}
	return &Service{keeper: keeper, users: users, limit: newLimiter(perMinute), log: keeper.config.Log}, nil
}

// SignIn exchanges a name and a password for a new session.
func (s *Service) SignIn(ctx context.Context, req *server1v1.SignInRequest) (*server1v1.SignInResponse, error) {
	if !account.ValidName(req.GetUserName()) {
		return nil, answer.Invalid("user_name", "must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-'")
	}
	if n := len(req.GetPassword()); n < 1 || n > account.MaxPassword {
		return nil, answer.Invalid("password", fmt.Sprintf("must have 1 to %d bytes", account.MaxPassword))
	}
	network := networkOf(ctx)
	if !s.limit.allow(req.GetUserName(), network, s.keeper.now()) {
		s.log.WarnContext(ctx, "sign-in refused", "reason", handoff.ReasonLimitExceeded.String(), "network", network)
		return nil, answer.Refused(handoff.ReasonLimitExceeded, nil)
	}
	user, err := s.users.Authenticate(ctx, req.GetUserName(), req.GetPassword())
	if err != nil {
		return nil, s.refuse(ctx, network, err)
	}
	id, started, err := s.keeper.start(ctx, user)
	if errors.Is(err, database.ErrNotFound) { // disabled, or another password, since
		err = &account.DeniedError{UserID: user.ID}
	}
	if err != nil {
		return nil, s.refuse(ctx, network, err)
	}
	s.log.InfoContext(ctx, "signed in", "user", user.ID, "network", network)
	return &server1v1.SignInResponse{Session: id, Details: details(started)}, nil
}

// refuse puts into words why somebody could not sign in, and logs it.
func (s *Service) refuse(ctx context.Context, network string, err error) error {
	var denied *account.DeniedError
	var told error
	reason, user := handoff.ReasonIssuerUnavailable, ""
	switch {
	case errors.As(err, &denied):
		reason, user = handoff.ReasonSessionInvalid, denied.UserID
		told = answer.Worded(reason, denied.Error(), nil)
	case errors.Is(err, account.ErrBusy):
		reason = handoff.ReasonLimitExceeded
		told = answer.Refused(reason, err)
	default:
		told = unavailable(err)
	}
	s.log.WarnContext(ctx, "sign-in refused", "reason", reason.String(), "network", network, "user", user)
	return told
}

// SignOut ends the caller's session.
func (s *Service) SignOut(ctx context.Context, _ *server1v1.SignOutRequest) (*server1v1.SignOutResponse, error) {
	current, ok := FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	if err := s.keeper.end(ctx, current); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "signed out", "user", current.User.ID)
	return &server1v1.SignOutResponse{}, nil
}

// GetSession returns the caller's session.
func (s *Service) GetSession(ctx context.Context, _ *server1v1.GetSessionRequest) (*server1v1.GetSessionResponse, error) {
	current, ok := FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	return &server1v1.GetSessionResponse{Details: details(current)}, nil
}

func details(s database.Session) *server1v1.Session {
	return &server1v1.Session{
		UserId:         s.User.ID,
		UserName:       s.User.Name,
		CreateTime:     timestamppb.New(s.Created),
		IdleExpireTime: timestamppb.New(s.IdleExpires),
		ExpireTime:     timestamppb.New(s.Expires),
	}
}
