// Package grants is where users say which API client may act for them, and for what.
//
//	service, err := grants.NewService(grants.Config{DB: db, Policy: p, Most: 20, Longest: 2160 * time.Hour, …})
//	handoffv1.RegisterGrantServiceServer(server, service)
//
// # Invariants
//
// Only a user with a session makes, sees and withdraws their own grants. A grant lists
// methods of one audience that its user could hand off when it was made, and whose rule
// lets clients act; issuing asks again each time. There are few for each user, each
// stands for a minute at least, and ends; and nobody makes or withdraws them faster than
// they could be used, as each leaves rows in the audit and entries on the trust list.
package grants

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/limit"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// Config says what grants there can be. Every field is required.
type Config struct {
	// DB has them.
	DB *database.DB
	// Policy says what users may hand off.
	Policy *policy.Policy
	// Most is how many a user can have, and how many one can make, or ask to withdraw, a
	// minute.
	Most int
	// Longest is how long one can stand, at least a minute.
	Longest time.Duration
	// Record is told of each.
	Record *audit.Record
	// Now is the clock.
	Now func() time.Time
}

// Service is the GrantService. Each of its methods needs a session's guard. It is safe
// for concurrent use.
type Service struct {
	handoffv1.UnimplementedGrantServiceServer
	config    Config
	made      *limit.Buckets // by user
	withdrawn *limit.Buckets // apart: who can make no more can withdraw
}

// leastLife is how long a grant stands at least, unless it is withdrawn.
const leastLife = time.Minute

// NewService returns the service, or an error that names the field of config that is
// missing.
func NewService(config Config) (*Service, error) {
	for _, field := range []struct {
		name    string
		missing bool
	}{
		{"DB", config.DB == nil},
		{"Policy", config.Policy == nil},
		{"Most", config.Most < 1},
		{"Longest", config.Longest < leastLife},
		{"Record", config.Record == nil},
		{"Now", config.Now == nil},
	} {
		if field.missing {
			return nil, &handoff.ConfigError{Field: "grants.Config." + field.name, Problem: "is required"}
		}
	}
	return &Service{config: config, made: limit.New(config.Most), withdrawn: limit.New(max(20, 2*config.Most))}, nil
}

// maxMethods is how many methods a grant lists at most.
const maxMethods = 32

// CreateGrant lets a client act for the caller.
func (s *Service) CreateGrant(ctx context.Context, req *handoffv1.CreateGrantRequest) (*handoffv1.CreateGrantResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	grant, err := s.create(ctx, current, req)
	s.config.Record.Granted(ctx, current.User.ID, grant.ClientID, err)
	if err != nil {
		return nil, err
	}
	return &handoffv1.CreateGrantResponse{Grant: message(grant)}, nil
}

func (s *Service) create(ctx context.Context, current database.Session, req *handoffv1.CreateGrantRequest) (g database.Grant, err error) {
	now := s.config.Now().UTC().Truncate(time.Millisecond)
	if err := s.check(current.User, req, now); err != nil {
		return g, err
	}
	if wait, ok := limit.Take(now, limit.Share{Of: s.made, Key: current.User.ID}); !ok {
		return g, answer.Later("as many grants as a user can make in a minute have been made", wait)
	}
	methods := slices.Compact(slices.Sorted(slices.Values(req.GetMethods())))
	g = database.Grant{
		ID: handoff.NewID(), HandoffID: handoff.NewID(), UserID: current.User.ID, ClientID: req.GetClientId(), Audience: req.GetAudience(),
		Methods: methods, Created: now, Expires: req.GetExpireTime().AsTime().Truncate(time.Millisecond),
	}
	if err := answered(s.config.DB.AddGrant(ctx, current, g, s.config.Most)); err != nil {
		return database.Grant{}, err
	}
	all, err := s.config.DB.Grants(ctx, current.User.ID, now)
	if err != nil {
		return g, answered(err)
	}
	for _, made := range all {
		if made.ID == g.ID {
			return made, nil
		}
	}
	return g, nil // withdrawn since
}

// check refuses what is wrong with a grant before it is made.
func (s *Service) check(user database.User, req *handoffv1.CreateGrantRequest, now time.Time) error {
	switch until := req.GetExpireTime(); {
	case req.GetClientId() == "":
		return answer.Invalid("client_id", "is required")
	case len(req.GetMethods()) == 0 || len(req.GetMethods()) > maxMethods:
		return answer.Invalid("methods", "must be 1 to 32 full names")
	case !until.IsValid() || until.AsTime().Before(now.Add(leastLife)):
		return answer.Invalid("expire_time", "must be at least "+leastLife.String()+" from now")
	case until.AsTime().After(now.Add(s.config.Longest)):
		return answer.Invalid("expire_time", "must be at most "+s.config.Longest.String()+" from now")
	}
	for _, method := range req.GetMethods() {
		permission, err := s.config.Policy.Find(req.GetAudience(), method, user.Roles)
		switch {
		case errors.Is(err, policy.ErrUnknownAudience):
			return answer.Invalid("audience", "is not one that users can be handed off to")
		case errors.Is(err, policy.ErrUnknownMethod):
			return answer.Invalid("methods", "has one that cannot be handed off")
		case err != nil:
			return answer.Refused(handoff.ReasonPolicyDenied, err)
		}
		if demands, _ := permission.Method.Rule(); !demands.Actors {
			return answer.Invalid("methods", "has one that no client can call for a user")
		}
	}
	return nil
}

// ListGrants returns the caller's grants.
func (s *Service) ListGrants(ctx context.Context, _ *handoffv1.ListGrantsRequest) (*handoffv1.ListGrantsResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	all, err := s.config.DB.Grants(ctx, current.User.ID, s.config.Now())
	if err != nil {
		return nil, answered(err)
	}
	resp := &handoffv1.ListGrantsResponse{}
	for _, grant := range all {
		resp.Grants = append(resp.Grants, message(grant))
	}
	return resp, nil
}

// DeleteGrant withdraws a grant of the caller's.
func (s *Service) DeleteGrant(ctx context.Context, req *handoffv1.DeleteGrantRequest) (*handoffv1.DeleteGrantResponse, error) {
	current, ok := session.FromContext(ctx)
	if !ok {
		return nil, answer.Refused(handoff.ReasonSessionInvalid, nil)
	}
	err := s.withdraw(ctx, current, req)
	s.config.Record.Withdrawn(ctx, current.User.ID, err)
	if err != nil {
		return nil, err
	}
	return &handoffv1.DeleteGrantResponse{}, nil
}

func (s *Service) withdraw(ctx context.Context, current database.Session, req *handoffv1.DeleteGrantRequest) error {
	now := s.config.Now().UTC()
	if wait, ok := limit.Take(now, limit.Share{Of: s.withdrawn, Key: current.User.ID}); !ok {
		return answer.Later("as many grants as a user can withdraw in a minute have been: wait, or sign out everywhere", wait)
	}
	return answered(s.config.DB.DeleteGrant(ctx, current, req.GetGrantId(), now))
}

// answered puts what the database answers into words.
func answered(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, database.ErrNotFound):
		return answer.Refused(handoff.ReasonSessionInvalid, err)
	case errors.Is(err, database.ErrNoClient):
		return answer.Invalid("client_id", "is not that of a client")
	case errors.Is(err, database.ErrNoGrant):
		return answer.Invalid("grant_id", "is not that of a grant of yours")
	case errors.Is(err, database.ErrTooMany):
		return answer.Worded(handoff.ReasonLimitExceeded, "you have as many grants as one can have: withdraw one", err)
	}
	return answer.Worded(handoff.ReasonIssuerUnavailable, "the grants are out of reach", err)
}

func message(g database.Grant) *handoffv1.Grant {
	return &handoffv1.Grant{
		GrantId: g.ID, ClientId: g.ClientID, ClientName: g.ClientName, Audience: g.Audience, Methods: g.Methods,
		CreateTime: timestamppb.New(g.Created), ExpireTime: timestamppb.New(g.Expires),
	}
}
