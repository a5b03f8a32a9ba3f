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
	"github.com/handoff-auth/handoff/shared/signkey"
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
	trustKey  *signkey.Key     // nil: no trust list
	publisher *trust.Publisher // nil: no trust list
	site      *web             // nil: no HTTPS
}

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before anybody is served; what can be known without it, before the
// database is this issuer's for good.
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
	if err := c.readKeys(p); err != nil {
		return err
	}
	if p.db, err = database.Open(ctx, c.Database); err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, p.db.Close()) }()
	server, err := c.server(p, std.stdout)
	if err != nil {
		return err
	}
	if p.site != nil {
		defer p.site.listener.Close() // where it is not served
	}
	if err := c.begin(ctx, p); err != nil {
		return err
	}
	return c.serve(ctx, server, p)
}

// begin makes the database this issuer's, and has it sign.
func (c *serveCommand) begin(ctx context.Context, p *parts) (err error) {
	if err := p.db.KeepTerms(ctx, c.terms(), time.Now()); err != nil {
		return wrong("database", err)
	}
	if err := c.load(ctx, p.signs, p.db, p.log); err != nil {
		return err
	}
	p.publisher, err = c.publisher(ctx, p)
	return err
}

// server returns the server, whose ports can be opened.
func (c *serveCommand) server(p *parts, stdout io.Writer) (*serving.Server, error) {
	keeper, err := session.NewKeeper(session.KeeperConfig{
		DB: p.db, Idle: c.SessionIdle, Lifetime: c.SessionLifetime, Log: p.log, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	sessions, err := session.NewService(session.ServiceConfig{
		Keeper: keeper, Users: account.NewDirectory(p.db, account.NewHasher(), time.Now), Attempts: c.SignInAttempts, Record: p.record,
	})
	if err != nil {
		return nil, err
	}
	handoffs, err := issue.NewService(issue.Config{
		Issuer: p.issuer, Lifetime: c.Lifetime, Policy: p.permitted, DB: p.db, Record: p.record,
		Published: p.trustKey != nil, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	guard := session.NewGuard(keeper, open...)
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
			if p.site != nil {
				fmt.Fprintln(stdout, "https on", p.site.listener.Addr())
			}
		},
	})
	if err != nil {
		return nil, err
	}
	server1v1.RegisterSessionServiceServer(server.GRPC(), sessions)
	handoffv1.RegisterHandoffServiceServer(server.GRPC(), handoffs)
	for setting, address := range map[string]string{"listen": c.Listen, "metrics": c.Metrics} {
		if address == "" {
			continue
		}
		// It is opened for good once it is known what to serve.
		listener, err := server.Listen(setting, address)
		if err != nil {
			return nil, err
		}
		if err := listener.Close(); err != nil {
			return nil, err
		}
	}
	if c.HTTP != "" {
		p.site, err = c.web(server, p.log)
	}
	return server, err
}

// serve opens the ports.
func (c *serveCommand) serve(ctx context.Context, server *serving.Server, p *parts) error {
	if p.publisher == nil {
		return beside(ctx, server.Run, c.upkeep(p))
	}
	p.publisher.Register(server.GRPC())
	publish := func(ctx context.Context) error { p.publisher.Run(ctx); return nil }
	if p.site == nil {
		return beside(ctx, server.Run, c.upkeep(p), publish)
	}
	p.site.server.Handler = p.publisher.Handler()
	return beside(ctx, server.Run, c.upkeep(p), publish, p.site.run)
}

// ready is what the server's health depends on.
func (p *parts) ready() []serving.Readiness {
	ready := []serving.Readiness{{Name: "database", Check: p.db.Ready}}
	if p.trustKey != nil {
		ready = append(ready,
			serving.Readiness{Name: "signing keys", Check: func(ctx context.Context) error { return p.signs.keys.Ready(ctx) }},
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
