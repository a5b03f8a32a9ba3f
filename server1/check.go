package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/trust"
)

// check refuses what the packages would refuse under other names.
func (c *serveCommand) check() error {
	switch {
	case c.MaxLifetime < time.Second || c.MaxLifetime > handoff.MaxLifetime || c.MaxLifetime%time.Second != 0:
		return wrong("max-lifetime", fmt.Errorf("must be whole seconds from 1s to %s", handoff.MaxLifetime))
	case c.Lifetime < time.Second || c.Lifetime > c.MaxLifetime || c.Lifetime%time.Second != 0:
		return wrong("lifetime", fmt.Errorf("must be whole seconds from 1s to --max-lifetime, %s", c.MaxLifetime))
	case c.SessionLifetime < time.Second:
		return wrong("session-lifetime", errors.New("must be at least 1s"))
	case c.SessionIdle < time.Second || c.SessionIdle > c.SessionLifetime:
		return wrong("session-idle", fmt.Errorf("must be from 1s to --session-lifetime, %s", c.SessionLifetime))
	case c.SignInAttempts < 1 || c.SignInAttempts > 1_000_000:
		return wrong("sign-in-attempts", errors.New("must be from 1 to 1000000"))
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
	case c.HTTP != "" && c.TrustKey == "":
		return wrong("http", errors.New("needs --trust-key"))
	case c.TrustLifetime < leastLifetime || c.TrustLifetime > trust.MaxListLifetime || c.TrustLifetime%time.Second != 0:
		return wrong("trust-lifetime", fmt.Errorf("must be whole seconds from %s to %s", leastLifetime, trust.MaxListLifetime))
	case c.Skew < leastSkew || c.Skew > handoff.MaxSkew || c.Skew%time.Millisecond != 0:
		return wrong("skew", fmt.Errorf("must be whole milliseconds from %s to %s", leastSkew, handoff.MaxSkew))
	}
	return nil
}
