package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/audit"
	"github.com/handoff-auth/handoff/server2/internal/invoices"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/overload"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/sealed"
	"github.com/handoff-auth/handoff/shared/serving"
	"github.com/handoff-auth/handoff/shared/serving/commandline"
	"github.com/handoff-auth/handoff/shared/serving/tracing"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// part is something that the server relies on from its opening until close.
type part struct {
	ready   []serving.Readiness
	look    <-chan struct{} // when ready may have changed; nil: never sooner than it is asked
	metrics []prometheus.Collector
	reload  []func()     // reads its files again
	close   func() error // nil: nothing to close
}

// end closes the part, and adds to err what goes wrong with that.
func (p part) end(err *error) {
	if p.close != nil {
		*err = errors.Join(*err, p.close())
	}
}

// parts are what the command serves with.
type parts struct {
	*serveCommand
	stdout                io.Writer
	lines                 *serving.LogWriter // of log and record
	log                   *slog.Logger
	remembering, trusting part
	verifier              *handoff.Verifier
	record                *audit.Record
	rules                 *rule.Set // in force, for the guard and for the pages
	shedder               *overload.Shedder
	traces                *tracing.Traces // nil: no traces
	reserve               *invoices.Reserve
	site                  *pages
	db                    *ledger.DB // opened last, so that a mistake elsewhere leaves no file behind
	service               *invoices.Service
}

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before a port is open.
func (c *serveCommand) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	if err := c.Pool.Check(); err != nil {
		return err
	}
	if err := c.checkTrust(); err != nil { // before the Redis is asked
		return err
	}
	lines := serving.NewLogWriter(stderr)
	defer lines.Close()
	r := &parts{serveCommand: c, stdout: stdout, lines: lines, log: c.Logger(lines), record: audit.New(lines)}
	r.traces = tracing.Start(ctx, program, commandline.Version(), r.log)
	defer r.traces.Stop()
	var store store
	if store, r.remembering, err = c.redemptions(ctx, r.log); err != nil {
		return err
	}
	defer r.remembering.end(&err)
	var keys handoff.KeySource
	if keys, r.trusting, err = c.trusted(store, r.log); err != nil {
		return err
	}
	defer r.trusting.end(&err)
	r.reserve = &invoices.Reserve{Store: store, Ledger: func() *ledger.DB { return r.db }}
	if r.verifier, err = c.verify(keys, r.reserve); err != nil {
		return err
	}
	if r.shedder, err = overload.New(overload.Config{Shed: r.record.Shed}); err != nil {
		return wrong("max-connections", err)
	}
	server, err := r.server()
	if err != nil {
		return err
	}
	served, err := r.guarded(server)
	if err != nil {
		return err
	}
	if r.site, err = r.pages(server); err != nil {
		return err
	}
	if r.site != nil {
		defer func() { err = errors.Join(err, r.site.close()) }()
	}
	if r.db, err = ledger.Open(ctx, c.Database); err != nil {
		return wrong("database", err)
	}
	defer func() { err = errors.Join(err, r.db.Close()) }()
	return r.serve(ctx, server, served)
}

// behind is registered before what it stands for has a database: so a rule that this
// server cannot keep to is found before one is made.
type behind struct {
	server2v1.InvoiceServiceServer // nil until the server is served
}

// readRules returns those that the methods carry, with those of --rules over them.
func (c *serveCommand) readRules() (*rule.Set, error) {
	rules := rule.Linked()
	if c.Rules == "" {
		return rules, nil
	}
	text, err := vetted.File{Path: c.Rules, Max: 1 << 20}.Read()
	if err == nil {
		rules, err = rules.Overlay(text)
	}
	if err != nil {
		return nil, wrong("rules", err)
	}
	return rules, nil
}

// guarded puts the guard of the server in front of the invoices.
func (r *parts) guarded(server *serving.Server) (served *behind, err error) {
	if r.rules, err = r.readRules(); err != nil {
		return nil, err
	}
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{
		Rules: r.rules, TLS: server.GRPCTLS(), Admit: r.shedder.Admit, Verifier: r.verifier, Exempt: r.exempt(), Observe: r.record.Observe,
		Outcome: func(ctx context.Context, spent *handoff.Grant) (proto.Message, error) {
			return r.service.Outcome(ctx, spent)
		},
	})
	if err != nil {
		return nil, err
	}
	served = &behind{}
	server2v1.RegisterInvoiceServiceServer(guard.On(server.GRPC()), served)
	if err := guard.Check(server.GRPC()); err != nil {
		return nil, serving.Named(err, fields)
	}
	r.record.Expect(guard.Methods()...)
	return served, nil
}

// server makes the server, which is ready when its parts and the database are.
func (r *parts) server() (*serving.Server, error) {
	return serving.New(serving.Config{
		Flags:    r.Flags,
		Log:      r.log,
		Tap:      r.shedder.Tap,
		Listener: r.shedder.Listener,
		Unary:    []grpc.UnaryServerInterceptor{r.shedder.Unary, r.reserve.Unary},
		Stream:   []grpc.StreamServerInterceptor{r.shedder.Stream},
		Ready: slices.Concat(r.trusting.ready, r.remembering.ready, []serving.Readiness{
			{Name: "database", Check: func(ctx context.Context) error { return r.db.Ready(ctx) }},
			{Name: "clock", Check: func(context.Context) error { return r.verifier.Healthy() }},
		}),
		Look:       r.remembering.look,
		Reload:     r.trusting.reload,
		Version:    commandline.Version(),
		Stats:      r.traces.Handler(),
		Collectors: slices.Concat(r.trusting.metrics, r.remembering.metrics, []prometheus.Collector{r.record, r.lines.Lost}),
		Listening: func(a net.Addr) {
			fmt.Fprintln(r.stdout, "listening on", a)
			if r.site != nil {
				fmt.Fprintln(r.stdout, "https on", r.site.https.Addr())
			}
		},
	})
}

// serve serves the invoices until ctx is done.
func (r *parts) serve(ctx context.Context, server *serving.Server, served *behind) error {
	r.db.Limit(r.DatabaseConnections)
	r.service = invoices.New(r.db, time.Now)
	served.InvoiceServiceServer = r.service
	defer sweeper{sweep: r.db.Sweep, log: r.log}.begin(ctx)()
	if r.site == nil {
		return server.Run(ctx)
	}
	return r.site.beside(ctx, server.Run)
}

// exempt names what runs without a token.
func (c *serveCommand) exempt() []string {
	all := []string{"/grpc.health.v1.Health/"}
	if c.Reflection {
		all = append(all, "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")
	}
	return all
}

// verify returns the verifier of SERVER1's tokens.
func (c *serveCommand) verify(keys handoff.KeySource, store handoff.Store) (*handoff.Verifier, error) {
	for setting, value := range map[string]time.Duration{"max-lifetime": c.MaxLifetime, "skew": c.Skew} {
		if value <= 0 { // which a VerifierConfig takes for its default
			return nil, wrong(setting, errors.New("must be more than 0"))
		}
	}
	for setting, name := range map[string]string{"audience": c.Audience, "issuer": c.Issuer} {
		if err := serving.CheckName(name); err != nil {
			return nil, wrong(setting, err)
		}
	}
	unseal, err := c.unseal()
	if err != nil {
		return nil, err
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Unseal:      unseal,
		Audience:    c.Audience,
		Issuers:     map[string]handoff.KeySource{c.Issuer: keys},
		Store:       store,
		MaxLifetime: c.MaxLifetime,
		Skew:        c.Skew,
	})
	return verifier, serving.Named(err, fields)
}

// unseal returns what opens sealed tokens, or nil where no key is given.
func (c *serveCommand) unseal() (func(string) (string, error), error) {
	if len(c.UnsealKey) == 0 {
		return nil, nil
	}
	var keys []sealed.PrivateKey
	for _, file := range c.UnsealKey {
		key, err := sealed.Load(file)
		if err != nil {
			return nil, wrong("unseal-key", err)
		}
		keys = append(keys, key)
	}
	opener, err := sealed.NewOpener(keys...)
	if err != nil {
		return nil, wrong("unseal-key", err)
	}
	return opener.Unseal, nil
}

// readRoots returns the certificates in a file, or nil, for the system's, where
// no file is given.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	return vetted.File{Path: file, Max: 4 << 20}.Roots()
}
