package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/issue"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/signkey"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	_ "github.com/handoff-auth/handoff/proto/handoff/server2/v1" // the methods of the demo's audience
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before a port is open.
func (c *serveCommand) run(ctx context.Context, std console) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	issuer, err := c.issuer()
	if err != nil {
		return err
	}
	permitted, err := c.permitted()
	if err != nil {
		return err
	}
	db, err := database.Open(ctx, c.Database)
	if err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log, record := c.Logger(std.stderr), audit.New(std.stderr)
	keeper, err := session.NewKeeper(session.KeeperConfig{
		DB: db, Idle: c.SessionIdle, Lifetime: c.SessionLifetime, Log: log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	sessions, err := session.NewService(session.ServiceConfig{
		Keeper: keeper, Users: account.NewDirectory(db, account.NewHasher(), time.Now), Attempts: c.SignInAttempts, Record: record,
	})
	if err != nil {
		return err
	}
	handoffs, err := issue.NewService(issue.Config{
		Issuer: issuer, Lifetime: c.Lifetime, Policy: permitted, DB: db, Record: record, Now: time.Now,
	})
	if err != nil {
		return err
	}
	guard := session.NewGuard(keeper, open...)
	server, err := serving.New(serving.Config{
		Flags:      c.Flags,
		Log:        log,
		Unary:      []grpc.UnaryServerInterceptor{guard.Unary},
		Stream:     []grpc.StreamServerInterceptor{guard.Stream},
		Ready:      []serving.Readiness{{Name: "database", Check: db.Ready}},
		Collectors: record.Collectors(),
		Listening:  func(a net.Addr) { fmt.Fprintln(std.stdout, "listening on", a) },
	})
	if err != nil {
		return err
	}
	server1v1.RegisterSessionServiceServer(server.GRPC(), sessions)
	handoffv1.RegisterHandoffServiceServer(server.GRPC(), handoffs)
	return server.Run(ctx)
}

// open is what runs without a session. Reflection is there only if it was asked
// for.
var open = []string{
	server1v1.SessionService_SignIn_FullMethodName,
	"/" + healthpb.Health_ServiceDesc.ServiceName + "/",
	"/grpc.reflection.v1.ServerReflection/",
}

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
	return nil
}

// issuer returns what signs.
func (c *serveCommand) issuer() (*handoff.Issuer, error) {
	key, err := signkey.Load(c.Key)
	if err != nil {
		return nil, wrong("key", err)
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{
		Issuer: c.Issuer, Key: key, Lifetime: c.Lifetime, MaxLifetime: c.MaxLifetime,
	})
	if err != nil { // of the name: the rest has been checked
		return nil, wrong("issuer", errors.New(strings.TrimPrefix(err.Error(), "IssuerConfig.Issuer ")))
	}
	return issuer, nil
}

// permitted returns what users may hand off.
func (c *serveCommand) permitted() (*policy.Policy, error) {
	methods := rule.Linked()
	if c.Descriptors != "" {
		image, err := os.ReadFile(c.Descriptors)
		if err == nil {
			methods, err = rule.ReadDescriptorSet(image)
		}
		if err != nil {
			return nil, wrong("descriptors", err)
		}
	}
	permitted, err := policy.Load(c.Policy, methods, c.MaxLifetime)
	if err != nil {
		return nil, wrong("policy", err)
	}
	return permitted, nil
}

func wrong(setting string, err error) error { return &serving.SettingError{Setting: setting, Err: err} }
