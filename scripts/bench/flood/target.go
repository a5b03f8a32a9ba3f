package flood

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	"google.golang.org/grpc/codes"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/scripts/bench/wire"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
	"github.com/handoff-auth/handoff/shared/vetted"
)

// A target is a server to be flooded, alone on its processor.
type target struct {
	address string
	roots   *x509.CertPool
	pid     int
	request *server2v1.PayInvoiceRequest
	issue   func(context.Context) (string, error) // a token for the request
	spent   codes.Code                            // what a token is answered that comes again
	stop    func() error
}

// bare is a child whose handler does nothing: what is done is the transport's and
// the guard's.
func bare(v wire.Variant) func(context.Context, measure.Settings) (*target, error) {
	return func(ctx context.Context, s measure.Settings) (*target, error) {
		shop, err := raced.NewShop(handoff.EdDSA)
		if err != nil {
			return nil, err
		}
		server, err := wire.StartServer(ctx, s, shop, v, serverCore)
		if err != nil {
			return nil, err
		}
		roots, err := server.Roots()
		if err != nil {
			return nil, errors.Join(err, server.Stop())
		}
		return &target{
			address: server.Address(), roots: roots, pid: server.Pid(), request: raced.Payment(), spent: codes.FailedPrecondition,
			issue: func(ctx context.Context) (string, error) { return shop.Issue(ctx, raced.Payment()) }, stop: server.Stop,
		}, nil
	}
}

// server2 is the demo SERVER2 as it is, with its ledger, its audit and its log.
// Its tokens are signed here with SERVER1's key.
func server2(ctx context.Context, s measure.Settings) (_ *target, err error) {
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return nil, err
	}
	defer os.Unsetenv("GOMAXPROCS")
	dir, err := os.MkdirTemp(s.Dir, "pair")
	if err != nil {
		return nil, err
	}
	p, err := pair.Start(ctx, pair.Config{Bin: s.Bin, Dir: dir, Server1: wire.Unbounded()})
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
	if err := measure.Confine(p.Server2.Pid(), serverCore); err != nil {
		return nil, err
	}
	roots, err := vetted.File{Path: p.CA, Max: 1 << 20}.Roots()
	if err != nil {
		return nil, err
	}
	key, err := signkey.Load(filepath.Join(dir, "server1", "signing.key"))
	if err != nil {
		return nil, err
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key, Lifetime: handoff.MaxLifetime})
	if err != nil {
		return nil, err
	}
	op, err := rule.Operation(raced.PayMethod, wire.Invoice())
	if err != nil {
		return nil, err
	}
	params := handoff.IssueParams{Audience: pair.Audience, Subject: p.Users["alice"].ID, Operation: op}
	return &target{
		address: p.Server2.Address, roots: roots, pid: p.Server2.Pid(), request: wire.Invoice(), stop: p.Stop,
		spent: codes.OK, // the first answer, from the ledger
		issue: func(ctx context.Context) (string, error) {
			raw, _, err := issuer.Issue(ctx, params)
			return raw, err
		},
	}, nil
}
