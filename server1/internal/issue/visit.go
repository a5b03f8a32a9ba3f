package issue

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/limit"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// IssueVisit signs a visit, in the steps of a handoff, without the operation.
func (s *Service) IssueVisit(ctx context.Context, req *handoffv1.IssueVisitRequest) (*handoffv1.IssueVisitResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	permission, err := s.visit(req, current.User)
	if err != nil {
		s.config.Record.VisitRefused(ctx, current.User.ID, "", err)
		return nil, err
	}
	raw, claims, err := s.issueVisit(ctx, req, permission, current)
	if err != nil {
		s.config.Record.VisitRefused(ctx, current.User.ID, req.GetAudience(), err)
		return nil, err
	}
	if s.config.Named != nil { // until then nobody would take it
		if err := s.config.Named(ctx); err != nil {
			err = answer.Refused(handoff.ReasonIssuerUnavailable, err)
			s.config.Record.VisitRefused(ctx, current.User.ID, req.GetAudience(), err)
			return nil, err
		}
	}
	s.config.Record.VisitIssued(ctx, claims)
	return &handoffv1.IssueVisitResponse{
		Token:      raw,
		ExpireTime: timestamppb.New(claims.Expires),
		VisitId:    claims.ID,
		Target:     permission.Target,
	}, nil
}

// visit finds what the policy lets the user visit.
func (s *Service) visit(req *handoffv1.IssueVisitRequest, user database.User) (policy.Visit, error) {
	permission, err := s.config.Policy.FindVisit(req.GetAudience(), req.GetMethods(), user.Roles)
	switch {
	case errors.Is(err, policy.ErrUnknownAudience):
		err = answer.Invalid("audience", "is not one that users can visit")
	case errors.Is(err, policy.ErrUnknownMethod):
		err = answer.Invalid("methods", "has one that no visit can call")
	case err != nil:
		err = answer.Refused(handoff.ReasonPolicyDenied, err)
	}
	return permission, err
}

// issueVisit signs and records a permitted visit.
func (s *Service) issueVisit(ctx context.Context, req *handoffv1.IssueVisitRequest, permission policy.Visit, current database.Session) (string, *handoff.Claims, error) {
	params, err := s.visitParams(req, permission, current)
	if err != nil {
		return "", nil, err
	}
	if wait, ok := limit.Take(s.config.Now(), limit.Share{Of: s.issued, Key: current.User.ID}); !ok {
		return "", nil, answer.Later("as many handoffs and visits as a user can have in a minute have been issued", wait)
	}
	by := ofSession(current)
	by.visits = s.config.MaxVisits
	return s.sign(ctx, by, params, func(current caller) (handoff.IssueParams, error) {
		permission, err := s.visit(req, current.user)
		if err != nil {
			return handoff.IssueParams{}, err
		}
		return s.visitParams(req, permission, current.session)
	})
}

// visitParams returns what a permitted visit is to say.
func (s *Service) visitParams(req *handoffv1.IssueVisitRequest, permission policy.Visit, current database.Session) (params handoff.IssueParams, err error) {
	lifetime, err := lifetimeOf(req.GetLifetime(), handoff.KindVisit.DefaultLifetime(), permission.MaxLifetime)
	if err != nil {
		return params, err
	}
	for i, method := range permission.Methods {
		if slices.Contains(permission.Methods[:i], method) {
			return params, answer.Invalid("methods", "has one twice")
		}
	}
	// A session that has run out is nobody's to end: no visit lasts longer than it can.
	left := current.Expires.Sub(s.config.Now()).Truncate(time.Second)
	return handoff.IssueParams{
		Audience: req.GetAudience(), Subject: current.User.ID, Session: current.HandoffID,
		Methods: permission.Methods, Lifetime: max(time.Second, min(lifetime, left)),
	}, nil
}
