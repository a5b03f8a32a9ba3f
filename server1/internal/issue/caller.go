package issue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/handoff-auth/handoff/server1/internal/answer"
	"github.com/handoff-auth/handoff/server1/internal/client"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// caller is who asks for a handoff: a user with a session, or a client, for itself or for
// a user.
type caller struct {
	user      database.User  // whose handoff it is
	payer     string         // whose quota it counts for: who calls
	actor     string         // the client that acts for the user; empty: none does
	handoffID string         // of the session or the grant; empty: there is none
	gone      handoff.Reason // why no token is issued once it may no longer call
	by        *database.Assertion
	session   database.Session
	visits    int // how many visits the user can have standing; zero: a handoff is asked for
}

// callerOf returns who calls. It is false where no guard has let anybody through.
func callerOf(ctx context.Context) (caller, bool) {
	if by, ok := client.FromContext(ctx); ok {
		return ofClient(by), true
	}
	if s, ok := session.FromContext(ctx); ok {
		return ofSession(s), true
	}
	return caller{}, false
}

func ofClient(by database.Assertion) caller {
	return caller{user: by.Client, payer: by.Client.ID, gone: handoff.ReasonClientInvalid, by: &by}
}

func ofSession(s database.Session) caller {
	return caller{user: s.User, payer: s.User.ID, handoffID: s.HandoffID, gone: handoff.ReasonSessionInvalid, session: s}
}

// record records what the caller is issued.
func (c caller) record(ctx context.Context, db *database.DB, claims *handoff.Claims, now time.Time) error {
	if c.by != nil {
		return db.RecordByClient(ctx, *c.by, claims, now)
	}
	if c.visits > 0 {
		return db.RecordVisit(ctx, c.session, claims, c.visits, now)
	}
	return db.RecordHandoff(ctx, c.session, claims, now)
}

// cutOff returns up to which `iat` nothing that the caller is issued stands.
func (c caller) cutOff() time.Time {
	if c.by != nil && c.by.Client.CutOff.After(c.user.CutOff) {
		return c.by.Client.CutOff
	}
	return c.user.CutOff
}

// again returns the caller as it is by now.
func (s *Service) again(ctx context.Context, c caller) (caller, error) {
	if c.by == nil {
		current, err := s.config.DB.LiveSession(ctx, c.session.IDSHA256, s.config.Now())
		if err != nil {
			return c, c.unread(err)
		}
		fresh := ofSession(current)
		fresh.visits = c.visits
		return fresh, nil
	}
	now, _, err := s.config.DB.ClientByKey(ctx, c.by.Kid)
	if err == nil && now.ID != c.by.Client.ID {
		err = database.ErrNotFound
	}
	if err != nil {
		return c, c.unread(err)
	}
	fresh := ofClient(database.Assertion{Client: now, Kid: c.by.Kid, ID: c.by.ID})
	if c.by.Grant == nil {
		return fresh, nil
	}
	return s.acting(ctx, fresh, c.by.Grant.ID)
}

// unread is the answer where a caller cannot be read again.
func (c caller) unread(err error) error {
	if errors.Is(err, database.ErrNotFound) {
		return answer.Refused(c.gone, err)
	}
	return answer.Refused(handoff.ReasonIssuerUnavailable, err)
}

// acting returns the caller as one who acts by a grant; an empty id is none.
func (s *Service) acting(ctx context.Context, c caller, grantID string) (caller, error) {
	if grantID == "" {
		return c, nil
	}
	if c.by == nil {
		return c, answer.Invalid("grant_id", "is for API clients: a user acts for themselves")
	}
	grant, user, err := s.config.DB.GrantOf(ctx, c.by.Client.ID, grantID, s.config.Now())
	if errors.Is(err, database.ErrNotFound) {
		return c, noGrant()
	}
	if err != nil {
		return c, answer.Worded(handoff.ReasonIssuerUnavailable, "the grants are out of reach", err)
	}
	by := *c.by
	by.Grant, by.For = &grant, user
	c.user, c.actor, c.handoffID, c.by = user, c.by.Client.ID, grant.HandoffID, &by
	return c, nil
}

// within returns a lifetime that does not reach beyond the caller's grant, where there is
// one: nobody can end what a grant has left behind.
func (c caller) within(lifetime time.Duration, now time.Time) (time.Duration, error) {
	if c.actor == "" {
		return lifetime, nil
	}
	left := c.by.Grant.Expires.Sub(now).Truncate(time.Second)
	if left < time.Second {
		return 0, noGrant()
	}
	return min(lifetime, left), nil
}

// noGrant is the answer alike for a grant that nobody has, another client's, and one that
// has expired or was withdrawn.
func noGrant() error {
	return answer.Invalid("grant_id", "is not that of a grant of yours that stands")
}

// Why a client may not act for a user who could do it themselves.
var (
	errActor  = errors.New("the rule of the method takes no clients that act for users")
	errBeyond = errors.New("the grant does not list the operation")
)

// allowed returns nil if the operation is within the caller's grant, or takes none.
func (c caller) allowed(req *handoffv1.IssueHandoffRequest, permission policy.Permission) error {
	if c.actor == "" {
		return nil
	}
	if grant := c.by.Grant; grant.Audience != req.GetAudience() || !slices.Contains(grant.Methods, req.GetMethod()) {
		return errBeyond
	}
	if demands, _ := permission.Method.Rule(); !demands.Actors {
		return errActor
	}
	return nil
}
