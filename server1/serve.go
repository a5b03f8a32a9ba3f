package server1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handoff-auth/handoff/server1/internal/account"
	"github.com/handoff-auth/handoff/server1/internal/audit"
	"github.com/handoff-auth/handoff/server1/internal/client"
	"github.com/handoff-auth/handoff/server1/internal/database"
	"github.com/handoff-auth/handoff/server1/internal/grants"
	"github.com/handoff-auth/handoff/server1/internal/issue"
	"github.com/handoff-auth/handoff/server1/internal/pages"
	"github.com/handoff-auth/handoff/server1/internal/policy"
	"github.com/handoff-auth/handoff/server1/internal/session"
	"github.com/handoff-auth/handoff/server1/internal/upkeep"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/overload"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
	"github.com/handoff-auth/handoff/shared/serving/tracing"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/trust"
	"github.com/handoff-auth/handoff/shared/vetted"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	_ "github.com/handoff-auth/handoff/proto/handoff/server2/v1" // the methods of the demo's audience
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// parts is what serving takes.
type parts struct {
	lines     *serving.LogWriter // of log and record
	log       *slog.Logger
	record    *audit.Record
	issuer    *handoff.Issuer
	permitted *policy.Policy
	db        *database.DB
	sweeper   *upkeep.Sweeper
	signs     *keyring
	trustKey  *signkey.Key     // nil: no trust list
	publisher *trust.Publisher // nil: no trust list
	traces    *tracing.Traces  // nil: no traces
	site      *serving.HTTPS   // nil: no HTTPS
	pages     *pages.Site      // nil: no HTTPS
}

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before anybody is served; what can be known without it, before the
// database is this issuer's for good.
func (c *serveCommand) run(ctx context.Context, std console) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	lines := serving.NewLogWriter(std.stderr)
	defer lines.Close()
	p := &parts{lines: lines, log: c.Logger(lines), record: audit.New(lines), signs: &keyring{}}
	p.traces = tracing.Start(ctx, program, commandline.Version(), p.log)
	defer p.traces.Stop()
	if p.issuer, err = c.issuer(p.signs); err != nil {
		return err
	}
	if p.permitted, err = c.permitted(p.log, p.record); err != nil {
		return err
	}
	if err := c.readKeys(std.build, p); err != nil {
		return err
	}
	if p.db, err = database.Open(ctx, c.Database); err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, p.db.Close()) }()
	if err := c.checkClients(ctx, p); err != nil {
		return err
	}
	p.sweeper = upkeep.NewSweeper(upkeep.SweeperConfig{DB: p.db, Retention: c.AuditRetention, Log: p.log, Now: time.Now})
	p.db.Limit(c.DatabaseConnections)
	server, err := c.server(p, std.stdout)
	if server != nil {
		defer server.Close() // where it is not run
	}
	if err != nil {
		return err
	}
	if p.site != nil {
		defer p.site.Close() // where it is not served
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

// services are what is called.
type services struct {
	keeper   *session.Keeper
	sessions *session.Service
	handoffs *issue.Service
	grants   *grants.Service
	clients  *client.Directory
}

func (c *serveCommand) services(p *parts) (*services, error) {
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
	var named func(context.Context) error
	if c.Visits == visitsListed {
		named = func(ctx context.Context) error { return p.publisher.Published(ctx) }
	}
	handoffs, err := issue.NewService(issue.Config{
		Issuer: p.issuer, Lifetime: c.Lifetime, Policy: p.permitted, DB: p.db, Quota: c.HandoffQuota, MaxVisits: c.MaxVisits, Record: p.record,
		Published: p.trustKey != nil, Named: named, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	granting, err := grants.NewService(grants.Config{
		DB: p.db, Policy: p.permitted, Most: c.MaxGrants, Longest: c.GrantLifetime, Record: p.record, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	clients, err := client.NewDirectory(client.Config{
		DB: p.db, Issuer: c.Issuer, Skew: c.Skew, Reserved: p.reserved(), Record: p.record, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	return &services{keeper, sessions, handoffs, granting, clients}, nil
}

// server returns the server with its ports open, or one to close with the error.
func (c *serveCommand) server(p *parts, stdout io.Writer) (*serving.Server, error) {
	called, err := c.services(p)
	if err != nil {
		return nil, err
	}
	shedder, err := overload.New(overload.Config{MaxWaiting: math.MaxInt}) // bounds calls; their work has bounds of its own
	if err != nil {
		return nil, wrong("max-connections", err)
	}
	guard := session.NewGuard(called.keeper, open...)
	guard.Assertions(handoffv1.HandoffService_IssueHandoff_FullMethodName, called.clients.Admit)
	server, err := serving.New(serving.Config{
		Flags:   c.Flags,
		Log:     p.log,
		Tap:     shedder.Tap,
		Unary:   []grpc.UnaryServerInterceptor{shedder.Unary, guard.Unary},
		Stream:  []grpc.StreamServerInterceptor{shedder.Stream, guard.Stream},
		Ready:   p.ready(),
		Reload:  []func(){p.permitted.Look},
		Version: commandline.Version(),
		Stats:   p.traces.Handler(),
		Watches: []string{handoffv1.TrustService_WatchTrustList_FullMethodName},
		Known:   c.FollowerNetwork,
		Audited: []string{
			handoffv1.HandoffService_IssueHandoff_FullMethodName, handoffv1.HandoffService_RevokeHandoff_FullMethodName,
			handoffv1.HandoffService_IssueVisit_FullMethodName,
			handoffv1.GrantService_CreateGrant_FullMethodName, handoffv1.GrantService_DeleteGrant_FullMethodName,
			server1v1.SessionService_SignIn_FullMethodName, server1v1.SessionService_SignOut_FullMethodName,
			server1v1.SessionService_SignOutEverywhere_FullMethodName, server1v1.SessionService_ChangePassword_FullMethodName,
		},
		Collectors: append(slices.Concat(p.record.Collectors(), p.sweeper.Collectors(), []prometheus.Collector{p.lines.Lost}), p.published()...),
		Listening: func(a net.Addr) {
			fmt.Fprintln(stdout, "listening on", a)
			if p.site != nil {
				fmt.Fprintln(stdout, "https on", p.site.Addr())
			}
		},
	})
	if err != nil {
		return nil, err
	}
	server1v1.RegisterSessionServiceServer(server.GRPC(), called.sessions)
	handoffv1.RegisterHandoffServiceServer(server.GRPC(), called.handoffs)
	handoffv1.RegisterGrantServiceServer(server.GRPC(), called.grants)
	if err := server.Open(); err != nil {
		return server, err
	}
	return server, c.https(p, called, server)
}

// https opens the port of the trust list and of the pages, where there is one. Whether there
// are pages, the policy says, which changes.
func (c *serveCommand) https(p *parts, called *services, server *serving.Server) (err error) {
	if c.HTTP == "" {
		return nil
	}
	p.pages, err = pages.New(pages.Config{
		Keeper: called.keeper, Sessions: called.sessions, Handoffs: called.handoffs, Grants: called.grants,
		Policy: p.permitted, DB: p.db, Log: p.log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	p.site, err = server.HTTPS(serving.HTTPSConfig{Setting: "http", Address: c.HTTP})
	return err
}

// serve opens the ports.
func (c *serveCommand) serve(ctx context.Context, server *serving.Server, p *parts) error {
	tasks := []func(context.Context) error{c.upkeep(p), func(ctx context.Context) error { p.sweeper.Run(ctx); return nil }}
	if p.publisher != nil {
		p.publisher.Register(server.GRPC())
		tasks = append(tasks, func(ctx context.Context) error { p.publisher.Run(ctx); return nil })
	}
	if p.site != nil {
		tasks = append(tasks, func(ctx context.Context) error { return p.site.Run(ctx, p.handler()) })
	}
	return beside(ctx, server.Run, tasks...)
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
	"/grpc.reflection.v1alpha.ServerReflection/",
}

// issuer returns what makes tokens.
func (c *serveCommand) issuer(signs handoff.SignerSource) (*handoff.Issuer, error) {
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{
		Issuer: c.Issuer, Key: signs, Lifetime: c.Lifetime, MaxLifetime: c.MaxLifetime, MaxVisitLifetime: c.MaxVisitLifetime,
	})
	return issuer, serving.Named(err, map[string]string{"handoff.IssuerConfig.Issuer": "issuer"}) // the rest has been checked
}

// permitted returns what users may hand off, as the file says it at the moment.
func (c *serveCommand) permitted(log *slog.Logger, record *audit.Record) (*policy.Policy, error) {
	methods := rule.Linked()
	if c.Descriptors != "" {
		image, err := vetted.File{Path: c.Descriptors, Max: 64 << 20}.Read()
		if err == nil {
			methods, err = rule.ReadDescriptorSet(image)
		}
		if err != nil {
			return nil, wrong("descriptors", err)
		}
	}
	if c.Rules != "" {
		text, err := vetted.File{Path: c.Rules, Max: 1 << 20}.Read()
		if err == nil {
			methods, err = methods.Overlay(text)
		}
		if err != nil {
			return nil, wrong("rules", err)
		}
	}
	permitted, err := policy.Load(c.Policy, methods, policy.Limits{Handoff: c.MaxLifetime, Visit: c.MaxVisitLifetime, Certificates: c.ClientCerts})
	if errors.Is(err, rule.ErrUnknownMethod) && c.Descriptors == "" {
		err = fmt.Errorf("%w: only methods that are built in are known here; others come from a file of descriptors (--descriptors)", err)
	}
	if errors.Is(err, policy.ErrNoCertificates) {
		return nil, wrong("client-certificates", fmt.Errorf("is required: %w", err))
	}
	if err != nil {
		return nil, wrong("policy", err)
	}
	permitted.Observe = func(err error) {
		if err != nil {
			log.Warn("the changed policy is not used: the last good one stays", "error", err.Error())
			return
		}
		log.Info("policy loaded again")
		record.Expect(permitted.Methods()...)
	}
	record.Expect(permitted.Methods()...)
	return permitted, nil
}

func wrong(setting string, err error) error { return &serving.SettingError{Setting: setting, Err: err} }
