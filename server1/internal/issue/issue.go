// Package issue is SERVER1's side of a handoff: who has a session and the
// policy's permission gets a token for one operation.
//
//	service, err := issue.NewService(issue.Config{Issuer: issuer, Policy: p, DB: db, …})
//	handoffv1.RegisterHandoffServiceServer(server, service)
//
// # The order of steps
//
// session -> policy -> lifetime -> rule -> operation -> wait -> sign -> audit ->
// answer. A step that fails ends it, and no token leaves. The audit row is on disk
// before the token is handed out, and is written only while the session lives and
// unless the user has been cut off since. A user who was cut off a moment ago
// waits here, under a second, for a token that stands.
//
// # What it does not do
//
// It does not decide whose invoice it is: that is the audience's handler, by the
// token's issuer and subject. It never logs a token or a value of a request.
package issue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Config says what handoffs are made of. Every field is required but Published.
type Config struct {
	// Issuer signs.
	Issuer *handoff.Issuer
	// Lifetime is how long a token lives that nobody asked to live otherwise, where
	// its permission allows that. In whole seconds.
	Lifetime time.Duration
	// Policy permits.
	Policy *policy.Policy
	// DB records each handoff.
	DB *database.DB
	// Record is told of each decision.
	Record *audit.Record
	// Published says that a trust list is published from DB. Otherwise nobody would
	// learn what is taken back, and RevokeHandoff refuses. Not required.
	Published bool
	// Now is the clock.
	Now func() time.Time
}

// Service is the HandoffService. Each of its methods needs a session's guard. It
// is safe for concurrent use.
type Service struct {
	handoffv1.UnimplementedHandoffServiceServer
	config Config
}

// NewService returns the service, or an error that names the field of config
// that is missing.
func NewService(config Config) (*Service, error) {
	for _, field := range []struct {
		name    string
		missing bool
	}{
		{"Issuer", config.Issuer == nil},
		{"Lifetime", config.Lifetime < time.Second || config.Lifetime%time.Second != 0},
		{"Policy", config.Policy == nil},
		{"DB", config.DB == nil},
		{"Record", config.Record == nil},
		{"Now", config.Now == nil},
	} {
		if field.missing {
			return nil, fmt.Errorf("issue: Config.%s is required", field.name)
		}
	}
	return &Service{config: config}, nil
}

// IssueHandoff signs a handoff token for one call on an audience.
func (s *Service) IssueHandoff(ctx context.Context, req *handoffv1.IssueHandoffRequest) (*handoffv1.IssueHandoffResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	asked := audit.Handoff{Subject: current.User.ID}
	permission, err := s.permission(req, current.User)
	if err != nil {
		s.config.Record.Refused(ctx, asked, err)
		return nil, err
	}
	asked.Audience, asked.Method = req.GetAudience(), req.GetMethod() // the policy has them
	raw, claims, err := s.issue(ctx, req, permission, current)
	if err != nil {
		s.config.Record.Refused(ctx, asked, err)
		return nil, err
	}
	s.config.Record.Issued(ctx, claims)
	return &handoffv1.IssueHandoffResponse{
		Token:      raw,
		ExpireTime: timestamppb.New(claims.Expires),
		HandoffId:  claims.ID,
		Target:     permission.Target,
	}, nil
}

// permission finds what the policy lets the user do.
func (s *Service) permission(req *handoffv1.IssueHandoffRequest, user database.User) (policy.Permission, error) {
	if len(req.ProtoReflect().GetUnknown()) > 0 {
		return policy.Permission{}, answer.Invalid("", "has a field that this server does not know")
	}
	permission, err := s.config.Policy.Find(req.GetAudience(), req.GetMethod(), user.Roles)
	switch {
	case errors.Is(err, policy.ErrUnknownAudience):
		err = answer.Invalid("audience", "is not one that users can be handed off to")
	case errors.Is(err, policy.ErrUnknownMethod):
		err = answer.Invalid("method", "is not one that can be handed off")
	case err != nil:
		err = answer.Refused(handoff.ReasonPolicyDenied, err)
	}
	return permission, err
}

// issue signs and records a permitted handoff.
func (s *Service) issue(ctx context.Context, req *handoffv1.IssueHandoffRequest, permission policy.Permission, current database.Session) (string, *handoff.Claims, error) {
	lifetime, err := s.lifetime(req.GetLifetime(), permission)
	if err != nil {
		return "", nil, err
	}
	op, err := operation(req, permission)
	if err != nil {
		return "", nil, err
	}
	return s.sign(ctx, current, handoff.IssueParams{
		Audience: req.GetAudience(), Subject: current.User.ID, Session: current.HandoffID, Operation: op, Lifetime: lifetime,
	})
}

// sign signs and records a token. One whose user was cut off while it was being
// signed is dropped, and another signed after the cut-off.
func (s *Service) sign(ctx context.Context, current database.Session, params handoff.IssueParams) (string, *handoff.Claims, error) {
	cutOff := current.User.CutOff
	for {
		if err := s.wait(ctx, cutOff); err != nil {
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
		raw, claims, err := s.config.Issuer.Issue(ctx, params)
		if err != nil {
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
		err = s.config.DB.RecordHandoff(ctx, current, claims, s.config.Now().UTC())
		var cut *database.CutOffError
		switch {
		case err == nil:
			return raw, claims, nil
		case errors.As(err, &cut):
			cutOff = cut.At
		case errors.Is(err, database.ErrNotFound): // signed out, or disabled, since
			return "", nil, answer.Refused(handoff.ReasonSessionInvalid, err)
		default:
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
	}
}

// wait returns when a token that is signed then is not taken back by the cut-off.
func (s *Service) wait(ctx context.Context, cutOff time.Time) error {
	for {
		left := trust.Wait(cutOff, s.config.Now())
		if left == 0 {
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for the end of the second of a cut-off: %w", ctx.Err())
		}
	}
}

// lifetime returns how long the token is to live: what is asked for, or the
// issuer's default where the permission allows that.
func (s *Service) lifetime(asked *durationpb.Duration, permission policy.Permission) (time.Duration, error) {
	if asked == nil {
		return min(s.config.Lifetime, permission.MaxLifetime), nil
	}
	lifetime := asked.AsDuration()
	if asked.CheckValid() != nil || lifetime < time.Second || lifetime > permission.MaxLifetime || lifetime%time.Second != 0 {
		return 0, answer.Invalid("lifetime", fmt.Sprintf("must be whole seconds from 1s to %s", permission.MaxLifetime))
	}
	return lifetime, nil
}

// operation returns the operation of the packed request.
func operation(req *handoffv1.IssueHandoffRequest, permission policy.Permission) (op handoff.Operation, err error) {
	if req.GetRequest() == nil {
		return op, answer.Invalid("request", "is required")
	}
	unpacked, err := permission.Method.Unpack(req.GetRequest())
	if err == nil {
		op, err = permission.Method.Operation(unpacked)
	}
	var refusal *handoff.Refusal
	if errors.As(err, &refusal) {
		return op, answer.At(fieldOf(refusal), refusal)
	}
	return op, err
}

// fieldOf returns the path of the field that no token can name, with which the
// detail of such a refusal begins.
func fieldOf(r *handoff.Refusal) string {
	quoted, err := strconv.QuotedPrefix(r.Detail)
	if err != nil {
		return "request"
	}
	path, err := strconv.Unquote(quoted)
	if err != nil || path == "" {
		return "request"
	}
	return "request." + path
}
