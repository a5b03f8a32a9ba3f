package server1

import (
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/trust"
)

// visitsListed is the value of --visits with which only the visits stand that the trust
// list names.
const visitsListed = "listed"

// check refuses what the packages would refuse under other names.
func (c *serveCommand) check() error {
	if err := serving.CheckName(c.Issuer); err != nil {
		return wrong("issuer", err)
	}
	switch {
	case c.MaxLifetime < time.Second || c.MaxLifetime > handoff.MaxLifetime || c.MaxLifetime%time.Second != 0:
		return wrong("max-lifetime", fmt.Errorf("must be whole seconds from 1s to %s", handoff.MaxLifetime))
	case c.Lifetime < time.Second || c.Lifetime > c.MaxLifetime || c.Lifetime%time.Second != 0:
		return wrong("lifetime", fmt.Errorf("must be whole seconds from 1s to --max-lifetime, %s", c.MaxLifetime))
	case c.MaxVisitLifetime != 0 && (c.MaxVisitLifetime < time.Second || c.MaxVisitLifetime > handoff.KindVisit.MaxLifetime() || c.MaxVisitLifetime%time.Second != 0):
		return wrong("max-visit-lifetime", fmt.Errorf("must be whole seconds from 1s to %s, or 0s", handoff.KindVisit.MaxLifetime()))
	case c.SessionLifetime < time.Second:
		return wrong("session-lifetime", errors.New("must be at least 1s"))
	case c.SessionIdle < time.Second || c.SessionIdle > c.SessionLifetime:
		return wrong("session-idle", fmt.Errorf("must be from 1s to --session-lifetime, %s", c.SessionLifetime))
	case c.AuditRetention != 0 && c.AuditRetention < 24*time.Hour:
		return wrong("audit-retention", errors.New("must be at least 24h, or 0s"))
	case c.HandoffQuota < 1 || c.HandoffQuota > 1_000_000_000:
		return wrong("handoff-quota", errors.New("must be from 1 to 1000000000"))
	case c.MaxVisits < 1 || c.MaxVisits > 1000:
		return wrong("max-visits", errors.New("must be from 1 to 1000"))
	case c.MaxGrants < 1 || c.MaxGrants > 1000:
		return wrong("max-grants", errors.New("must be from 1 to 1000"))
	case c.GrantLifetime < time.Minute || c.GrantLifetime > 100*365*24*time.Hour:
		return wrong("grant-lifetime", errors.New("must be from 1m to a hundred years"))
	case c.SignInAttempts < 1 || c.SignInAttempts > 1_000_000:
		return wrong("sign-in-attempts", errors.New("must be from 1 to 1000000"))
	}
	if err := c.Pool.Check(); err != nil {
		return err
	}
	return c.checkTrust()
}

// checkTrust refuses settings that only a trust list would give a meaning.
func (c *serveCommand) checkTrust() error {
	const (
		leastSkew     = 100 * time.Millisecond // the keys are looked at as often
		leastLifetime = 2 * time.Second        // a list is dated by the second: one of 1s can be over as it is signed
	)
	switch {
	case c.Key == "" && c.KeyDir == "":
		return wrong("", errors.New("--key or --key-dir is required"))
	case c.KeyDir != "" && c.TrustKey == "":
		return wrong("key-dir", errors.New("needs --trust-key"))
	case c.RotateEvery != 0 && (c.KeyDir == "" || c.RotateEvery < time.Second):
		return wrong("rotate-every", errors.New("needs --key-dir, and must be at least 1s"))
	case c.TrustFile != "" && c.TrustKey == "":
		return wrong("trust-file", errors.New("needs --trust-key"))
	case len(c.FollowerNetwork) > 0 && c.TrustKey == "":
		return wrong("follower-network", errors.New("needs --trust-key"))
	case c.Visits == visitsListed && c.MaxVisitLifetime == 0:
		return wrong("visits", errors.New("needs --max-visit-lifetime"))
	case c.MaxVisitLifetime != 0 && c.TrustKey == "":
		return wrong("max-visit-lifetime", errors.New("needs --trust-key"))
	case c.HTTP != "" && c.TrustKey == "":
		return wrong("http", errors.New("needs --trust-key"))
	case c.TrustLifetime < leastLifetime || c.TrustLifetime > trust.MaxListLifetime || c.TrustLifetime%time.Second != 0:
		return wrong("trust-lifetime", fmt.Errorf("must be whole seconds from %s to %s", leastLifetime, trust.MaxListLifetime))
	case c.Skew < leastSkew || c.Skew > handoff.MaxSkew || c.Skew%time.Millisecond != 0:
		return wrong("skew", fmt.Errorf("must be whole milliseconds from %s to %s", leastSkew, handoff.MaxSkew))
	}
	return nil
}
