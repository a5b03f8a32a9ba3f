package main

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// A target is a server to be flooded, alone on its processor.
type target struct {
	address string
	roots   *x509.CertPool
	pid     int
	request *server2v1.PayInvoiceRequest
	issue   func(context.Context) (string, error) // a token for the request
	stop    func() error
}

// bare is a child whose handler does nothing: what is done is the transport's and
// the guard's.
func bare(v variant) func(context.Context, settings) (*target, error) {
	return func(ctx context.Context, s settings) (*target, error) {
		shop, err := newShop(handoff.EdDSA)
		if err != nil {
			return nil, err
		}
		server, err := startServer(ctx, s, shop, v, serverCore)
		if err != nil {
			return nil, err
		}
		roots, err := server.roots()
		if err != nil {
			return nil, errors.Join(err, server.stop())
		}
		return &target{
			address: server.hello.Address, roots: roots, pid: server.command.Process.Pid, request: payment(),
			issue: func(ctx context.Context) (string, error) { return shop.issue(ctx, payment()) }, stop: server.stop,
		}, nil
	}
}

// server2 is the demo SERVER2 as it is, with its ledger, its audit and its log.
// Its tokens are signed here with SERVER1's key.
func server2(ctx context.Context, s settings) (_ *target, err error) {
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return nil, err
	}
	defer os.Unsetenv("GOMAXPROCS")
	dir, err := os.MkdirTemp(s.dir, "pair")
	if err != nil {
		return nil, err
	}
	p, err := pair.Start(ctx, pair.Config{Bin: s.bin, Dir: dir})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	if err := p.Ready(ctx); err != nil {
		return nil, err
	}
	if err := confine(p.Server2.Pid(), serverCore); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	key, err := signkey.Load(filepath.Join(dir, "server1", "signing.key"))
	if err != nil {
		return nil, err
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key, Lifetime: handoff.MaxLifetime})
	if err != nil {
		return nil, err
	}
	op, err := rule.Operation(payMethod, invoice())
	if err != nil {
		return nil, err
	}
	params := handoff.IssueParams{Audience: pair.Audience, Subject: p.Users["alice"].ID, Operation: op}
	return &target{
		address: p.Server2.Address, roots: roots, pid: p.Server2.Pid(), request: invoice(), stop: p.Stop,
		issue: func(ctx context.Context) (string, error) {
			raw, _, err := issuer.Issue(ctx, params)
			return raw, err
		},
	}, nil
}

// invoice is the payment of one of the demo's invoices. Only the first of these
// pays: the others repeat its request id, and are told of its payment.
func invoice() *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: "INV-42", Amount: &server2v1.Money{CurrencyCode: "EUR", MinorUnits: 1200},
		RequestId: "7d0a3e9c-6c2f-4c8e-9a51-0a3f6d1f7b11",
	}
}
