// Package issue is SERVER1's side of a handoff: who has a session, or a client's
// assertion, and the policy's permission gets a token for one operation.
//
//	service, err := issue.NewService(issue.Config{Issuer: issuer, Policy: p, DB: db, …})
//	handoffv1.RegisterHandoffServiceServer(server, service)
//
// # The order of steps
//
// session or assertion -> policy -> lifetime -> rule -> operation -> certificate -> quota ->
// wait -> sign -> audit -> answer. A step that fails ends it, and no token leaves. The
// audit row is on disk before the token is handed out, and is written only while the session lives, or with
// the assertion that it spends, while the user has the roles that the policy was asked
// with, and unless the user has been cut off since. Otherwise all is asked again, and a
// user who was cut off a moment ago waits here, under a second, for a token that stands.
//
// # What it does not do
//
// It does not decide whose invoice it is: that is the audience's handler, by the
// token's issuer and subject. It never logs a token or a value of a request.
package issue

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/client"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/limit"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/trust"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Config says what handoffs are made of. Every field is required but Published
// and Named.
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
	// Quota is how many handoffs a user can be issued a minute, and how often one can
	// ask to take one back: each leaves a row of the audit and a line in the log.
	Quota int
	// MaxVisits is how many visits a user can have standing.
	MaxVisits int
	// Record is told of each decision.
	Record *audit.Record
	// Published says that a trust list is published from DB. Otherwise nobody would
	// learn what is taken back, and RevokeHandoff refuses. Not required.
	Published bool
	// Named, where only visits stand that the trust list names, returns once a list names
	// all that is recorded. Not required.
	Named func(context.Context) error
	// Now is the clock.
	Now func() time.Time
}

// Service is the HandoffService. Each of its methods needs a session's guard, which
// lets clients through to IssueHandoff. It
// is safe for concurrent use.
type Service struct {
	handoffv1.UnimplementedHandoffServiceServer
	config  Config
	issued  *limit.Buckets // by subject
	revoked *limit.Buckets // apart: who has no handoffs left can take back
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
		{"Quota", config.Quota < 1},
		{"MaxVisits", config.MaxVisits < 1},
		{"Record", config.Record == nil},
		{"Now", config.Now == nil},
	} {
		if field.missing {
			return nil, &handoff.ConfigError{Field: "issue.Config." + field.name, Problem: "is required"}
		}
	}
	return &Service{config: config, issued: limit.New(config.Quota), revoked: limit.New(config.Quota)}, nil
}

// IssueHandoff signs a handoff token for one call on an audience.
func (s *Service) IssueHandoff(ctx context.Context, req *handoffv1.IssueHandoffRequest) (*handoffv1.IssueHandoffResponse, error) {
	current, ok := callerOf(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	asked := audit.Handoff{Subject: current.user.ID}
	current, err := s.acting(ctx, current, req.GetGrantId())
	if err != nil {
		s.config.Record.Refused(ctx, asked, err)
		return nil, err
	}
	asked.Subject, asked.Actor = current.user.ID, current.actor
	permission, err := s.permission(req, current)
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
func (s *Service) permission(req *handoffv1.IssueHandoffRequest, current caller) (policy.Permission, error) {
	permission, err := s.config.Policy.Find(req.GetAudience(), req.GetMethod(), current.user.Roles)
	if err == nil {
		err = current.allowed(req, permission)
	}
	switch {
	case errors.Is(err, policy.ErrUnknownAudience):
		err = answer.Invalid("audience", "is not one that users can be handed off to")
	case errors.Is(err, policy.ErrUnknownMethod):
		err = answer.Invalid("method", "is not one that can be handed off")
	case errors.Is(err, errActor):
		err = answer.Refused(handoff.ReasonActorDenied, err)
	case err != nil:
		err = answer.Refused(handoff.ReasonPolicyDenied, err)
	}
	return permission, err
}

// issue signs and records a permitted handoff.
func (s *Service) issue(ctx context.Context, req *handoffv1.IssueHandoffRequest, permission policy.Permission, current caller) (string, *handoff.Claims, error) {
	params, err := s.params(ctx, req, permission, current)
	if err != nil {
		return "", nil, err
	}
	if wait, ok := limit.Take(s.config.Now(), limit.Share{Of: s.issued, Key: current.payer}); !ok {
		return "", nil, answer.Later("as many handoffs as a user can have in a minute have been issued", wait)
	}
	return s.sign(ctx, current, params, func(current caller) (handoff.IssueParams, error) {
		permission, err := s.permission(req, current)
		if err != nil {
			return handoff.IssueParams{}, err
		}
		return s.params(ctx, req, permission, current)
	})
}

// params returns what a permitted handoff is to say.
func (s *Service) params(ctx context.Context, req *handoffv1.IssueHandoffRequest, permission policy.Permission, current caller) (params handoff.IssueParams, err error) {
	lifetime, err := lifetimeOf(req.GetLifetime(), s.config.Lifetime, permission.MaxLifetime)
	if err != nil {
		return params, err
	}
	if lifetime, err = current.within(lifetime, s.config.Now()); err != nil {
		return params, err
	}
	op, err := operation(req, permission)
	if err != nil {
		return params, err
	}
	certificate, err := certificate(ctx, req, permission)
	if err != nil {
		return params, err
	}
	params = handoff.IssueParams{
		Certificate: certificate,
		Audience:    req.GetAudience(), Subject: current.user.ID, Session: current.handoffID, Actor: current.actor, Operation: op, Lifetime: lifetime,
	}
	if permission.Seal.ID() != "" {
		params.Seal = permission.Seal.Seal
	}
	return params, nil
}

// attempts is how often a token is signed for one call at most: each time somebody has
// changed what the caller may do, while it was being signed.
const attempts = 8

// sign signs and records a token. One whose user was cut off, or has got other roles,
// while it was being signed is dropped: who the caller is, and what it may do, is then
// asked again, by decide, before another is signed.
func (s *Service) sign(ctx context.Context, current caller, params handoff.IssueParams, decide func(caller) (handoff.IssueParams, error)) (string, *handoff.Claims, error) {
	for range attempts {
		if err := s.wait(ctx, current.cutOff()); err != nil {
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
		raw, claims, err := s.config.Issuer.Issue(ctx, params)
		if err != nil {
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
		err = current.record(ctx, s.config.DB, claims, s.config.Now().UTC())
		switch {
		case err == nil:
			return raw, claims, nil
		case errors.Is(err, database.ErrSpent):
			return "", nil, client.Spent()
		case errors.Is(err, database.ErrTooMany):
			return "", nil, answer.Worded(handoff.ReasonLimitExceeded, "as many visits stand as a user can have: end one, or wait until one has expired", err)
		case errors.Is(err, database.ErrNotFound): // signed out, or disabled, since
			return "", nil, answer.Refused(current.gone, err)
		case !overtaken(err):
			return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
		}
		if current, err = s.again(ctx, current); err != nil {
			return "", nil, err
		}
		if params, err = decide(current); err != nil {
			return "", nil, err
		}
	}
	return "", nil, answer.Refused(handoff.ReasonIssuerUnavailable, errors.New("the user is changed faster than a handoff is signed"))
}

// overtaken reports whether what a token was signed by has changed before it was recorded.
func overtaken(err error) bool {
	return errors.As(err, new(*database.CutOffError)) || errors.Is(err, database.ErrRoles) || errors.Is(err, database.ErrNoGrant)
}

// wait returns when a token that is signed then is not taken back by the cut-off.
func (s *Service) wait(ctx context.Context, cutOff time.Time) error {
	for {
		left := trust.Wait(cutOff, s.config.Now())
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of the second of a cut-off: %w", ctx.Err())
		}
	}
}

// certificate returns the client certificate to which the token is to be bound, or nil
// where it is to be bound to none.
func certificate(ctx context.Context, req *handoffv1.IssueHandoffRequest, permission policy.Permission) (*x509.Certificate, error) {
	if !permission.CertificateBound && !req.GetBindToCertificate() {
		return nil, nil
	}
	found := handoffgrpc.PeerCertificate(ctx)
	switch {
	case found != nil:
		return found, nil
	case permission.CertificateBound:
		return nil, answer.Invalid("bind_to_certificate", "is demanded for this method, and this connection has no client certificate")
	}
	return nil, answer.Invalid("bind_to_certificate", "needs a client certificate, and this connection has none")
}

// lifetimeOf returns how long a token is to live: what is asked for, or what is usual
// where the permission allows that.
func lifetimeOf(asked *durationpb.Duration, usual, most time.Duration) (time.Duration, error) {
	if asked == nil {
		return min(usual, most), nil
	}
	lifetime := asked.AsDuration()
	if asked.CheckValid() != nil || lifetime < time.Second || lifetime > most || lifetime%time.Second != 0 {
		return 0, answer.Invalid("lifetime", fmt.Sprintf("must be whole seconds from 1s to %s", most))
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
	if refusal, ok := errors.AsType[*handoff.Refusal](err); ok {
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
