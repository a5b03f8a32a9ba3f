package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
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

// part is something that the server relies on from its opening until close.
type part struct {
	ready   []serving.Readiness
	look    <-chan struct{} // when ready may have changed; nil: never sooner than it is asked
	metrics []prometheus.Collector
	close   func() error // nil: nothing to close
}

// end closes the part, and adds to err what goes wrong with that.
func (p part) end(err *error) {
	if p.close != nil {
		*err = errors.Join(*err, p.close())
	}
}

// run serves until ctx is done. Everything that can be wrong with a setting is
// found before a port is open.
func (c *serveCommand) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	log := c.Logger(stderr)
	keys, trusting, err := c.trusted(log)
	if err != nil {
		return err
	}
	defer trusting.end(&err)
	store, remembering, err := c.redemptions(ctx, log)
	if err != nil {
		return err
	}
	defer remembering.end(&err)
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
		Flags:    c.Flags,
		Log:      log,
		Tap:      guard.Tap,
		Listener: guard.Listener,
		Unary:    []grpc.UnaryServerInterceptor{guard.Unary},
		Stream:   []grpc.StreamServerInterceptor{guard.Stream},
		Ready: slices.Concat(trusting.ready, remembering.ready, []serving.Readiness{
			{Name: "database", Check: func(ctx context.Context) error { return db.Ready(ctx) }},
		}),
		Look:       remembering.look,
		Collectors: slices.Concat(trusting.metrics, remembering.metrics, []prometheus.Collector{record.Collector()}),
		Listening:  func(a net.Addr) { fmt.Fprintln(stdout, "listening on", a) },
	})
	if err != nil {
		return err
	}
	if db, err = ledger.Open(ctx, c.Database); err != nil {
		return wrong("database", err)
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
			return nil, wrong(setting, errors.New("must be more than 0"))
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
		return nil, inFlags("VerifierConfig", err)
	}
	return verifier, nil
}

// readRoots returns the certificates in a file, or nil, for the system's, where
// no file is given.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return roots, nil
}
