package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
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
	record *audit.Record
}

// ServiceConfig says who may sign in. Every field is required.
type ServiceConfig struct {
	// Keeper keeps the sessions.
	Keeper *Keeper
	// Users are those who can sign in.
	Users *account.Directory
	// Attempts is how many times a minute one network can try to sign in to one
	// account; to all accounts together, ten times as many. A user who has a session
	// can try as often to change the password.
	Attempts int
	// Record is told of each decision.
	Record *audit.Record
}

// NewService returns the service, or an error that names the field of config
// that it refuses.
func NewService(config ServiceConfig) (*Service, error) {
	switch {
	case config.Keeper == nil:
		return nil, &handoff.ConfigError{Field: "session.ServiceConfig.Keeper", Problem: "is required"}
	case config.Users == nil:
		return nil, &handoff.ConfigError{Field: "session.ServiceConfig.Users", Problem: "is required"}
	case config.Attempts < 1:
		return nil, &handoff.ConfigError{Field: "session.ServiceConfig.Attempts", Problem: "must be at least 1"}
	case config.Record == nil:
		return nil, &handoff.ConfigError{Field: "session.ServiceConfig.Record", Problem: "is required"}
	}
	return &Service{
		keeper: config.Keeper, users: config.Users, limit: newLimiter(config.Attempts), record: config.Record,
	}, nil
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
	wait, ok := s.limit.stranger(req.GetUserName(), network, s.keeper.now())
	if err := s.admit(ctx, "", network, wait, ok); err != nil {
		return nil, err
	}
	user, err := s.users.Authenticate(ctx, siteOf(network), req.GetUserName(), req.GetPassword())
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
	s.record.SignedIn(ctx, user.ID, network)
	return &server1v1.SignInResponse{Session: id, Details: details(started)}, nil
}

// admit answers an attempt that is one too many, of a user who may be known.
func (s *Service) admit(ctx context.Context, userID, network string, wait time.Duration, ok bool) error {
	if ok {
		return nil
	}
	err := answer.Later("this password has been tried too often: wait", wait)
	s.record.SignInRefused(ctx, userID, network, err)
	return err
}

// refuse records why somebody could not sign in, and puts it into words.
func (s *Service) refuse(ctx context.Context, network string, err error) error {
	var denied *account.DeniedError
	user := ""
	switch {
	case errors.As(err, &denied):
		user = denied.UserID
		err = answer.Worded(handoff.ReasonSessionInvalid, denied.Error(), nil)
	case errors.Is(err, account.ErrBusy):
		err = answer.Refused(handoff.ReasonLimitExceeded, err)
	default:
		err = unavailable(err)
	}
	s.record.SignInRefused(ctx, user, network, err)
	return err
}

// SignOut ends the caller's session and takes back its handoffs.
func (s *Service) SignOut(ctx context.Context, _ *server1v1.SignOutRequest) (*server1v1.SignOutResponse, error) {
	current, ok := FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	if err := worded(s.keeper.config.DB.EndSession(ctx, current, s.keeper.now())); err != nil {
		return nil, err
	}
	s.record.SignedOut(ctx, current.User.ID)
	return &server1v1.SignOutResponse{}, nil
}

// SignOutEverywhere ends all sessions of the caller's user and takes back all
// handoffs of the user.
func (s *Service) SignOutEverywhere(ctx context.Context, _ *server1v1.SignOutEverywhereRequest) (*server1v1.SignOutEverywhereResponse, error) {
	current, ok := FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	if err := worded(s.keeper.config.DB.EndSessions(ctx, current, s.keeper.now())); err != nil {
		return nil, err
	}
	s.record.SignedOutEverywhere(ctx, current.User.ID)
	return &server1v1.SignOutEverywhereResponse{}, nil
}

// ChangePassword replaces the password of the caller's user, ends the user's other
// sessions and takes back all handoffs of the user.
func (s *Service) ChangePassword(ctx context.Context, req *server1v1.ChangePasswordRequest) (*server1v1.ChangePasswordResponse, error) {
	current, ok := FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	if err := checkPasswords(req); err != nil {
		return nil, err
	}
	network := networkOf(ctx)
	wait, ok := s.limit.proven(current.User.ID, s.keeper.now())
	if err := s.admit(ctx, current.User.ID, network, wait, ok); err != nil {
		return nil, err
	}
	hash, err := s.users.ChangePassword(ctx, current.User, req.GetOldPassword(), req.GetNewPassword())
	if errors.As(err, new(*account.DeniedError)) {
		err = answer.Invalid("old_password", "is not the user's password")
		s.record.SignInRefused(ctx, current.User.ID, network, err)
		return nil, err
	}
	if err != nil {
		return nil, s.refuse(ctx, network, err)
	}
	if err := worded(s.keeper.config.DB.ChangePassword(ctx, current, hash, s.keeper.now())); err != nil {
		return nil, err
	}
	s.record.PasswordChanged(ctx, current.User.ID)
	return &server1v1.ChangePasswordResponse{}, nil
}

func checkPasswords(req *server1v1.ChangePasswordRequest) error {
	if n := len(req.GetOldPassword()); n < 1 || n > account.MaxPassword {
		return answer.Invalid("old_password", fmt.Sprintf("must have 1 to %d bytes", account.MaxPassword))
	}
	if n := len(req.GetNewPassword()); n < account.MinPassword || n > account.MaxPassword {
		return answer.Invalid("new_password", fmt.Sprintf("must have %d to %d bytes", account.MinPassword, account.MaxPassword))
	}
	if account.CheckPassword(req.GetNewPassword()) != nil {
		return answer.Invalid("new_password", "must be text without a byte order mark, which could be typed")
	}
	if req.GetNewPassword() == req.GetOldPassword() {
		return answer.Invalid("new_password", "is the old one")
	}
	return nil
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
