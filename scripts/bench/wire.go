package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"google.golang.org/grpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/keyset"
)

const (
	callers     = 64
	connections = 4
)

// contender is a server that takes part, and how it is called.
type contender struct {
	name   string
	token  bool // each call carries one
	server *child
}

func measureWire(ctx context.Context, s settings, t *table) error {
	rounds, n := 15, 8000
	if s.short {
		rounds, n = 3, 3000
	}
	shop, err := newShop(handoff.EdDSA)
	if err != nil {
		return err
	}
	var contenders []contender
	for _, v := range []variant{unprotected, guarded, byHand} {
		server, err := startServer(ctx, s, shop, v)
		if err != nil {
			return err
		}
		defer server.stop()
		if err := server.dial(connections); err != nil {
			return err
		}
		if v == unprotected {
			contenders = append(contenders, contender{string(v), false, server})
			contenders = append(contenders, contender{string(v) + ", with a token on the way", true, server})
			continue
		}
		contenders = append(contenders, contender{string(v), true, server})
	}
	s.say("wire: closed loop, %d callers", callers)
	found, signature, err := closedRounds(ctx, shop, contenders, rounds, n)
	if err != nil {
		return err
	}
	reportClosed(t, contenders, found, signature)
	rate := median(found[2], func(f flow) float64 { return f.rate }) / 2
	s.say("wire: open loop, %.0f calls a second", rate)
	return openRounds(ctx, s, t, shop, contenders, rate)
}

// startServer starts a child that trusts the shop.
func startServer(ctx context.Context, s settings, shop *shop, v variant, cores ...int) (*child, error) {
	set, err := keyset.New(shop.key.Key())
	if err != nil {
		return nil, err
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	o := order{Variant: v, Keys: jwks, Dir: s.dir}
	if s.profile != "" {
		o.Profile = filepath.Join(s.profile, fmt.Sprintf("%s-%d.prof", strings.ReplaceAll(string(v), " ", "-"), len(cores)))
	}
	return startChild(ctx, o, cores...)
}

// pay returns a call of a contender, each with a fresh token made beforehand.
func (c contender) pay(ctx context.Context, shop *shop, n int) (call, error) {
	var raws []string
	if c.token {
		var err error
		if raws, err = shop.tokens(ctx, n); err != nil {
			return nil, err
		}
	}
	clients := make([]server2v1.InvoiceServiceClient, len(c.server.pool))
	for i, connection := range c.server.pool {
		clients[i] = server2v1.NewInvoiceServiceClient(connection)
	}
	return func(ctx context.Context, i int) error {
		var options []grpc.CallOption
		if c.token {
			options = append(options, handoffgrpc.Token(raws[i]))
		}
		req := payment()
		response, err := clients[i%len(clients)].PayInvoice(ctx, req, options...)
		if err == nil && response.GetPayment().GetInvoiceId() != req.GetInvoiceId() {
			err = errors.New("the answer is to another call")
		}
		return err
	}, nil
}

// flow is what a round of calls was like.
type flow struct {
	rate           float64 // calls a second
	server, client float64 // processor time a call, in ns
}

// closedRounds has all contenders serve n calls a round, and times the signature
// check alone in between, on all processors as they do.
func closedRounds(ctx context.Context, shop *shop, contenders []contender, rounds, n int) ([][]flow, []float64, error) {
	found := make([][]flow, len(contenders))
	var signature []float64
	raw, err := shop.issue(ctx, payment())
	if err != nil {
		return nil, nil, err
	}
	split, err := apart(raw)
	if err != nil {
		return nil, nil, err
	}
	for round := range rounds + 1 {
		for k := range contenders {
			i := (k + round) % len(contenders)
			f, err := closedRound(ctx, shop, contenders[i], n)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			if round > 0 {
				found[i] = append(found[i], f)
			}
		}
		used := processorTime()
		_, err := closed(ctx, n, runtime.NumCPU(), func(context.Context, int) error {
			return split.verify(handoff.EdDSA, shop.private.Public())
		})
		if err != nil {
			return nil, nil, err
		}
		if round > 0 {
			signature = append(signature, float64(processorTime()-used)/float64(n))
		}
	}
	return found, signature, nil
}

func closedRound(ctx context.Context, shop *shop, c contender, n int) (flow, error) {
	do, err := c.pay(ctx, shop, n)
	if err != nil {
		return flow{}, err
	}
	before, err := c.server.usage()
	if err != nil {
		return flow{}, err
	}
	mine := processorTime()
	took, err := closed(ctx, n, callers, do)
	if err != nil {
		return flow{}, err
	}
	mine = processorTime() - mine
	after, err := c.server.usage()
	return flow{
		rate:   float64(n) / took.Seconds(),
		server: float64(after.Processor-before.Processor) / float64(n),
		client: float64(mine) / float64(n),
	}, err
}

// reportClosed adds what the closed loop has shown. The bound is what a call
// costs without protection, and the signature check alone.
func reportClosed(t *table, contenders []contender, found [][]flow, signature []float64) {
	same := func(x float64) float64 { return x }
	bounds, rates := make([]float64, len(signature)), make([]float64, len(signature))
	for round, alone := range signature {
		plain := found[0][round]
		bounds[round] = plain.server + alone
		cores := float64(runtime.NumCPU()) * 1e9
		rates[round] = cores / (cores/plain.rate + alone)
	}
	ratios := func(of func(flow) float64, all []flow, base []float64) float64 {
		each := make([]float64, len(all))
		for round, f := range all {
			each[round] = of(f) / base[round]
		}
		return median(each, same)
	}
	server := func(f flow) float64 { return f.server }
	rate := func(f flow) float64 { return f.rate }
	t.add(line{
		what: "processor time a call at the server: the bound", median: microseconds(median(bounds, same)), ratio: 1,
		note: "unprotected, and the signature check alone",
	})
	for i, c := range contenders {
		t.add(line{
			what: "processor time a call at the server: " + c.name, median: microseconds(median(found[i], server)),
			ratio: ratios(server, found[i], bounds), note: fmt.Sprintf("client %s", microseconds(median(found[i], func(f flow) float64 { return f.client }))),
		})
	}
	t.add(line{
		what: fmt.Sprintf("throughput, %d callers: the bound", callers), median: grouped(median(rates, same)) + " /s", ratio: 1,
		note: "client and server share the machine",
	})
	for i, c := range contenders {
		t.add(line{
			what: fmt.Sprintf("throughput, %d callers: %s", callers, c.name), median: grouped(median(found[i], rate)) + " /s",
			ratio: ratios(rate, found[i], rates),
		})
	}
	t.least("wire, the bound to what a guarded call costs the server", 1/ratios(server, found[2], bounds), 0.92, " x")
	hand := make([]float64, len(signature))
	for round := range hand {
		hand[round] = found[3][round].server
	}
	t.most("wire, a guarded call to the interceptor by hand, at the server", ratios(server, found[2], hand), 1, " x")
}

// openRounds has calls arrive at the same rate at every contender.
func openRounds(ctx context.Context, s settings, t *table, shop *shop, contenders []contender, rate float64) error {
	rounds, span := 5, 3*time.Second
	if s.short {
		rounds, span = 3, time.Second
	}
	n := int(rate * span.Seconds())
	quantiles := make([][3][]float64, len(contenders))
	for round := range rounds {
		for k := range contenders {
			i := (k + round) % len(contenders)
			do, err := contenders[i].pay(ctx, shop, n)
			if err != nil {
				return err
			}
			took, err := arriving(ctx, n, rate, do)
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			for q, of := range []float64{0.5, 0.99, 0.999} {
				quantiles[i][q] = append(quantiles[i][q], quantile(took, of, func(d time.Duration) float64 { return float64(d) }))
			}
		}
	}
	same := func(x float64) float64 { return x }
	base := median(quantiles[0][0], same)
	for i, c := range contenders {
		p50 := median(quantiles[i][0], same)
		t.add(line{
			what: fmt.Sprintf("latency at %s calls/s: %s", grouped(rate), c.name), median: microseconds(p50), ratio: p50 / base,
			note: fmt.Sprintf("p99 %s, p99.9 %s", microseconds(median(quantiles[i][1], same)), microseconds(median(quantiles[i][2], same))),
		})
	}
	return nil
}
