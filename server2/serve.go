package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/audit"
	"github.com/handoff-auth/handoff/server2/internal/invoices"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving"
)

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before a port is open.
func (c *serveCommand) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	log := c.Logger(stderr)
	keys, err := c.trusted(log)
	if err != nil {
		return err
	}
	store, storeReady := c.redemptions()
	verifier, err := c.verifier(keys, store)
	if err != nil {
		return err
	}
	record := audit.New(stderr)
	guard, err := handoffgrpc.NewGuard(handoffgrpc.Config{Verifier: verifier, Exempt: c.exempt(), Observe: record.Observe})
	if err != nil {
		return err
	}
	var db *ledger.DB // opened last, so that a mistake elsewhere leaves no file behind
	server, err := serving.New(serving.Config{
		Flags:  c.Flags,
		Log:    log,
		Unary:  []grpc.UnaryServerInterceptor{guard.Unary},
		Stream: []grpc.StreamServerInterceptor{guard.Stream},
		Ready: []serving.Readiness{
			storeReady,
			{Name: "database", Check: func(ctx context.Context) error { return db.Ready(ctx) }},
		},
		Collectors: []prometheus.Collector{record.Collector()},
		Listening:  func(a net.Addr) { fmt.Fprintln(stdout, "listening on", a) },
	})
	if err != nil {
		return err
	}
	if db, err = ledger.Open(ctx, c.Database); err != nil {
		return &serving.SettingError{Setting: "database", Err: err}
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	server2v1.RegisterInvoiceServiceServer(server.GRPC(), invoices.New(db, time.Now))
	if err := guard.Check(server.GRPC()); err != nil {
		return err
	}
	return server.Run(ctx)
}

// exempt names what runs without a token.
func (c *serveCommand) exempt() []string {
	all := []string{"/grpc.health.v1.Health/"}
	if c.Reflection {
		all = append(all, "/grpc.reflection.v1.ServerReflection/")
	}
	return all
}

// verifier returns the verifier of SERVER1's tokens.
func (c *serveCommand) verifier(keys handoff.KeySource, store handoff.Store) (*handoff.Verifier, error) {
	for setting, value := range map[string]time.Duration{"max-lifetime": c.MaxLifetime, "skew": c.Skew} {
		if value <= 0 { // which a VerifierConfig takes for its default
			return nil, &serving.SettingError{Setting: setting, Err: errors.New("must be more than 0")}
		}
	}
	verifier, err := handoff.NewVerifier(handoff.VerifierConfig{
		Audience:    c.Audience,
		Issuers:     map[string]handoff.KeySource{c.Issuer: keys},
		Store:       store,
		MaxLifetime: c.MaxLifetime,
		Skew:        c.Skew,
	})
	if err != nil {
		return nil, inFlags(err)
	}
	return verifier, nil
}

// inFlags puts an error that names a field of VerifierConfig into the operator's
// words.
func inFlags(err error) error {
	for field, setting := range map[string]string{
		"Audience": "audience", "Issuers": "issuer", "MaxLifetime": "max-lifetime", "Skew": "skew",
	} {
		if problem, ok := strings.CutPrefix(err.Error(), "VerifierConfig."+field); ok {
			return &serving.SettingError{Setting: setting, Err: errors.New(strings.TrimLeft(problem, ": "))}
		}
	}
	return err
}
