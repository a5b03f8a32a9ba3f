package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// parts is what serving takes.
type parts struct {
	log       *slog.Logger
	record    *audit.Record
	issuer    *handoff.Issuer
	permitted *policy.Policy
	db        *database.DB
	signs     *keyring
	publisher *trust.Publisher // nil: no trust list
}

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before a port is open.
func (c *serveCommand) run(ctx context.Context, std console) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	p := &parts{log: c.Logger(std.stderr), record: audit.New(std.stderr), signs: &keyring{}}
	if p.issuer, err = c.issuer(p.signs); err != nil {
		return err
	}
	if p.permitted, err = c.permitted(); err != nil {
		return err
	}
	if p.db, err = c.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.db.Close()) }()
	if err := c.load(ctx, p.signs, p.db, p.log); err != nil {
		return err
	}
	if p.publisher, err = c.publisher(ctx, p.db, p.log); err != nil {
		return err
	}
	return c.serve(ctx, p, std.stdout)
}

// serve opens the ports.
func (c *serveCommand) serve(ctx context.Context, p *parts, stdout io.Writer) error {
	keeper, err := session.NewKeeper(session.KeeperConfig{
		DB: p.db, Idle: c.SessionIdle, Lifetime: c.SessionLifetime, Log: p.log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	sessions, err := session.NewService(session.ServiceConfig{
		Keeper: keeper, Users: account.NewDirectory(p.db, account.NewHasher(), time.Now), Attempts: c.SignInAttempts, Record: p.record,
	})
	if err != nil {
		return err
	}
	handoffs, err := issue.NewService(issue.Config{
		Issuer: p.issuer, Lifetime: c.Lifetime, Policy: p.permitted, DB: p.db, Record: p.record,
		Published: p.publisher != nil, Now: time.Now,
	})
	if err != nil {
		return err
	}
	guard := session.NewGuard(keeper, open...)
	var site *web
	server, err := serving.New(serving.Config{
		Flags:      c.Flags,
		Log:        p.log,
		Unary:      []grpc.UnaryServerInterceptor{guard.Unary},
		Stream:     []grpc.StreamServerInterceptor{guard.Stream},
		Ready:      p.ready(),
		Watches:    []string{handoffv1.TrustService_WatchTrustList_FullMethodName},
		Collectors: p.record.Collectors(),
		Listening: func(a net.Addr) {
			fmt.Fprintln(stdout, "listening on", a)
			if site != nil {
				fmt.Fprintln(stdout, "https on", site.listener.Addr())
			}
		},
	})
	if err != nil {
		return err
	}
	server1v1.RegisterSessionServiceServer(server.GRPC(), sessions)
	handoffv1.RegisterHandoffServiceServer(server.GRPC(), handoffs)
	if p.publisher == nil {
		return beside(ctx, server.Run, c.upkeep(p))
	}
	p.publisher.Register(server.GRPC())
	publish := func(ctx context.Context) error { p.publisher.Run(ctx); return nil }
	if c.HTTP == "" {
		return beside(ctx, server.Run, c.upkeep(p), publish)
	}
	if site, err = c.web(server, p.publisher.Handler(), p.log); err != nil {
		return err
	}
	return beside(ctx, server.Run, c.upkeep(p), publish, site.run)
}

// ready is what the server's health depends on.
func (p *parts) ready() []serving.Readiness {
	ready := []serving.Readiness{{Name: "database", Check: p.db.Ready}}
	if p.publisher != nil {
		ready = append(ready,
			serving.Readiness{Name: "signing keys", Check: p.signs.keys.Ready},
			serving.Readiness{Name: "trust list", Check: func(context.Context) error { return p.publisher.Healthy() }})
	}
	return ready
}

// upkeep returns the task that keeps the database, the keys and the trust list up
// to each other.
func (c *serveCommand) upkeep(p *parts) func(context.Context) error {
	config := upkeep.Config{DB: p.db, Terms: c.terms(), Keys: p.signs.keys, Log: p.log, Now: time.Now}
	if p.publisher != nil {
		config.Changed = p.publisher.Changed
	}
	return func(ctx context.Context) error { upkeep.Run(ctx, config); return nil }
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
