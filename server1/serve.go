package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/handoff-auth/handoff/server1/internal/upkeep"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/trust"

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
	signs := &keyring{}
	issuer, err := c.issuer(signs)
	if err != nil {
		return err
	}
	permitted, err := c.permitted()
	if err != nil {
		return err
	}
	db, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log, record := c.Logger(std.stderr), audit.New(std.stderr)
	if err := c.load(ctx, signs, db, log); err != nil {
		return err
	}
	publisher, err := c.publisher(ctx, db, log)
	if err != nil {
		return err
	}
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
		Issuer: issuer, Lifetime: c.Lifetime, Policy: permitted, DB: db, Record: record, Published: publisher != nil, Now: time.Now,
	})
	if err != nil {
		return err
	}
	guard := session.NewGuard(keeper, open...)
	ready := []serving.Readiness{{Name: "database", Check: db.Ready}}
	if publisher != nil {
		ready = append(ready,
			serving.Readiness{Name: "signing keys", Check: signs.keys.Ready},
			serving.Readiness{Name: "trust list", Check: func(context.Context) error { return publisher.Healthy() }})
	}
	tasks := []func(context.Context) error{c.upkeep(db, signs, publisher, log)}
	var site *web
	server, err := serving.New(serving.Config{
		Flags:      c.Flags,
		Log:        log,
		Unary:      []grpc.UnaryServerInterceptor{guard.Unary},
		Stream:     []grpc.StreamServerInterceptor{guard.Stream},
		Ready:      ready,
		Watches:    []string{handoffv1.TrustService_WatchTrustList_FullMethodName},
		Collectors: record.Collectors(),
		Listening: func(a net.Addr) {
			fmt.Fprintln(std.stdout, "listening on", a)
			if site != nil {
				fmt.Fprintln(std.stdout, "https on", site.listener.Addr())
			}
		},
	})
	if err != nil {
		return err
	}
	server1v1.RegisterSessionServiceServer(server.GRPC(), sessions)
	handoffv1.RegisterHandoffServiceServer(server.GRPC(), handoffs)
	if publisher != nil {
		publisher.Register(server.GRPC())
		tasks = append(tasks, func(ctx context.Context) error { publisher.Run(ctx); return nil })
	}
	if c.HTTP != "" {
		if site, err = c.web(server, publisher.Handler(), log); err != nil {
			return err
		}
		tasks = append(tasks, site.run)
	}
	return beside(ctx, server.Run, tasks...)
}

// beside runs tasks beside the server, and ends them after it, so that what is
// taken back while it drains is still published. A task that fails ends all.
func beside(ctx context.Context, server func(context.Context) error, tasks ...func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	behind, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, len(tasks))
	for _, task := range tasks {
		go func() {
			err := task(behind)
			if err != nil {
				stop()
			}
			ended <- err
		}()
	}
	err := server(ctx)
	end()
	for range tasks {
		err = errors.Join(err, <-ended)
	}
	return err
}

// open is what runs without a session. Reflection is there only if it was asked
// for.
var open = []string{
	server1v1.SessionService_SignIn_FullMethodName,
	"/" + handoffv1.TrustService_ServiceDesc.ServiceName + "/",
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
	return c.checkTrust()
}

// checkTrust refuses settings that only a trust list would give a meaning.
func (c *serveCommand) checkTrust() error {
	const leastSkew = 100 * time.Millisecond // the keys are looked at as often
	switch {
	case c.Key == "" && c.KeyDir == "":
		return wrong("key", errors.New("or --key-dir is required"))
	case c.KeyDir != "" && c.TrustKey == "":
		return wrong("key-dir", errors.New("needs --trust-key"))
	case c.RotateEvery != 0 && (c.KeyDir == "" || c.RotateEvery < time.Second):
		return wrong("rotate-every", errors.New("needs --key-dir, and must be at least 1s"))
	case c.TrustFile != "" && c.TrustKey == "":
		return wrong("trust-file", errors.New("needs --trust-key"))
	case c.HTTP != "" && c.TrustKey == "":
		return wrong("http", errors.New("needs --trust-key"))
	case c.TrustLifetime < time.Second || c.TrustLifetime > trust.MaxListLifetime || c.TrustLifetime%time.Second != 0:
		return wrong("trust-lifetime", fmt.Errorf("must be whole seconds from 1s to %s", trust.MaxListLifetime))
	case c.Skew < leastSkew || c.Skew > handoff.MaxSkew || c.Skew%time.Millisecond != 0:
		return wrong("skew", fmt.Errorf("must be whole milliseconds from %s to %s", leastSkew, handoff.MaxSkew))
	}
	return nil
}

// open opens the database, and says there by which terms this process issues.
func (c *serveCommand) open(ctx context.Context) (*database.DB, error) {
	db, err := database.Open(ctx, c.Database)
	if err != nil {
		return nil, wrong("database", err)
	}
	if err := db.KeepTerms(ctx, c.terms(), time.Now()); err != nil {
		return nil, wrong("database", errors.Join(err, db.Close()))
	}
	return db, nil
}

// issuer returns what makes tokens.
func (c *serveCommand) issuer(signs handoff.SignerSource) (*handoff.Issuer, error) {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{
		Issuer: c.Issuer, Key: signs, Lifetime: c.Lifetime, MaxLifetime: c.MaxLifetime,
	})
	if err != nil { // of the name: the rest has been checked
		return nil, wrong("issuer", errors.New(strings.TrimPrefix(err.Error(), "IssuerConfig.Issuer ")))
	}
	return issuer, nil
}

// upkeep returns the task that keeps the database, the keys and the trust list up
// to each other.
func (c *serveCommand) upkeep(db *database.DB, signs *keyring, publisher *trust.Publisher, log *slog.Logger) func(context.Context) error {
	config := upkeep.Config{DB: db, Terms: c.terms(), Keys: signs.keys, Log: log, Now: time.Now}
	if publisher != nil {
		config.Changed = publisher.Changed
	}
	return func(ctx context.Context) error { upkeep.Run(ctx, config); return nil }
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
