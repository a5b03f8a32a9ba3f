// Package wire measures calls over TLS between processes: a guarded server beside
// one without protection, the two servers of the demo, a payment by browser, and
// SERVER2s that share a Redis.
package wire

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
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
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
	server *Child
}

func Calls(ctx context.Context, s measure.Settings, t *measure.Table) error {
	rounds, n := 15, 8000
	if s.Short {
		rounds, n = 3, 3000
	}
	shop, err := raced.NewShop(handoff.EdDSA)
	if err != nil {
		return err
	}
	var contenders []contender
	for _, v := range []Variant{unprotected, Guarded, byHand} {
		server, err := StartServer(ctx, s, shop, v)
		if err != nil {
			return err
		}
		defer server.Stop()
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
	s.Say("wire: closed loop, %d callers", callers)
	found, signature, err := closedRounds(ctx, shop, contenders, rounds, n)
	if err != nil {
		return err
	}
	reportClosed(t, contenders, found, signature)
	rate := measure.Median(found[2], func(f flow) float64 { return f.rate }) / 2
	s.Say("wire: open loop, %.0f calls a second", rate)
	return openRounds(ctx, s, t, shop, contenders, rate)
}

// StartServer starts a child that trusts the shop.
func StartServer(ctx context.Context, s measure.Settings, shop *raced.Shop, v Variant, cores ...int) (*Child, error) {
	set, err := keyset.New(shop.Key.Key())
	if err != nil {
		return nil, err
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	o := order{Variant: v, Keys: jwks, Dir: s.Dir}
	if s.Profile != "" {
		o.Profile = filepath.Join(s.Profile, fmt.Sprintf("%s-%d.prof", strings.ReplaceAll(string(v), " ", "-"), len(cores)))
	}
	return startChild(ctx, o, cores...)
}

// pay returns a call of a contender, each with a fresh token made beforehand.
func (c contender) pay(ctx context.Context, shop *raced.Shop, n int) (measure.Call, error) {
	var raws []string
	if c.token {
		var err error
		if raws, err = shop.Tokens(ctx, n); err != nil {
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
		req := raced.Payment()
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
func closedRounds(ctx context.Context, shop *raced.Shop, contenders []contender, rounds, n int) ([][]flow, []float64, error) {
	found := make([][]flow, len(contenders))
	var signature []float64
	raw, err := shop.Issue(ctx, raced.Payment())
	if err != nil {
		return nil, nil, err
	}
	split, err := raced.Apart(raw)
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
		used := measure.ProcessorTime()
		_, err := measure.Closed(ctx, n, runtime.NumCPU(), func(context.Context, int) error {
			return split.Verify(handoff.EdDSA, shop.Private.Public())
		})
		if err != nil {
			return nil, nil, err
		}
		if round > 0 {
			signature = append(signature, float64(measure.ProcessorTime()-used)/float64(n))
		}
	}
	return found, signature, nil
}

func closedRound(ctx context.Context, shop *raced.Shop, c contender, n int) (flow, error) {
	do, err := c.pay(ctx, shop, n)
	if err != nil {
		return flow{}, err
	}
	before, err := c.server.usage()
	if err != nil {
		return flow{}, err
	}
	mine := measure.ProcessorTime()
	took, err := measure.Closed(ctx, n, callers, do)
	if err != nil {
		return flow{}, err
	}
	mine = measure.ProcessorTime() - mine
	after, err := c.server.usage()
	return flow{
		rate:   float64(n) / took.Seconds(),
		server: float64(after.Processor-before.Processor) / float64(n),
		client: float64(mine) / float64(n),
	}, err
}

// reportClosed adds what the closed loop has shown. The bound is what a call
// costs without protection, and the signature check of crypto/ed25519.
func reportClosed(t *measure.Table, contenders []contender, found [][]flow, signature []float64) {
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
		return measure.Median(each, same)
	}
	server := func(f flow) float64 { return f.server }
	rate := func(f flow) float64 { return f.rate }
	t.Add(measure.Line{
		What: "processor time a call at the server: the bound", Median: measure.Microseconds(measure.Median(bounds, same)), Ratio: 1,
		Note: "unprotected, and the check of crypto/ed25519",
	})
	for i, c := range contenders {
		t.Add(measure.Line{
			What: "processor time a call at the server: " + c.name, Median: measure.Microseconds(measure.Median(found[i], server)),
			Ratio: ratios(server, found[i], bounds), Note: fmt.Sprintf("client %s", measure.Microseconds(measure.Median(found[i], func(f flow) float64 { return f.client }))),
		})
	}
	t.Add(measure.Line{
		What: fmt.Sprintf("throughput, %d callers: the bound", callers), Median: measure.Grouped(measure.Median(rates, same)) + " /s", Ratio: 1,
		Note: "client and server share the machine",
	})
	for i, c := range contenders {
		t.Add(measure.Line{
			What: fmt.Sprintf("throughput, %d callers: %s", callers, c.name), Median: measure.Grouped(measure.Median(found[i], rate)) + " /s",
			Ratio: ratios(rate, found[i], rates),
		})
	}
	t.Least("wire, the bound to what a guarded call costs the server", 1/ratios(server, found[2], bounds), 1.2, " x")
	hand := make([]float64, len(signature))
	for round := range hand {
		hand[round] = found[3][round].server
	}
	t.Most("wire, a guarded call to the interceptor by hand, at the server", ratios(server, found[2], hand), 0.6, " x")
}

// openRounds has calls arrive at the same rate at every contender.
func openRounds(ctx context.Context, s measure.Settings, t *measure.Table, shop *raced.Shop, contenders []contender, rate float64) error {
	rounds, span := 3, 3*time.Second
	if s.Short {
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
			took, err := measure.Arriving(ctx, n, rate, do)
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			for q, of := range []float64{0.5, 0.99, 0.999} {
				quantiles[i][q] = append(quantiles[i][q], measure.Quantile(took, of, func(d time.Duration) float64 { return float64(d) }))
			}
		}
	}
	same := func(x float64) float64 { return x }
	base := measure.Median(quantiles[0][0], same)
	for i, c := range contenders {
		p50 := measure.Median(quantiles[i][0], same)
		t.Add(measure.Line{
			What: fmt.Sprintf("latency at %s calls/s: %s", measure.Grouped(rate), c.name), Median: measure.Microseconds(p50), Ratio: p50 / base,
			Note: fmt.Sprintf("p99 %s, p99.9 %s", measure.Microseconds(measure.Median(quantiles[i][1], same)), measure.Microseconds(measure.Median(quantiles[i][2], same))),
		})
	}
	return nil
}
