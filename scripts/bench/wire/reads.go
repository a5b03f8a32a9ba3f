package wire

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// readsRate is how many calls arrive a second.
const readsRate = 10_000

// Reads measures what a call that reads costs SERVER2 by a visit, beside the same call
// by a reusable handoff, where 10,000 arrive a second.
func Reads(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	rounds, n := 9, 2*readsRate
	if s.Short {
		rounds, n = 3, readsRate/4
	}
	v, err := newVisit(ctx, pair.Config{Bin: s.Bin, Dir: filepath.Join(s.Dir, "visits"), Visits: time.Hour})
	if err != nil {
		return fmt.Errorf("make build comes first: %w", err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	get := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	asked, err := v.client.Handoffs.IssueVisit(ctx, &handoffv1.IssueVisitRequest{Audience: pair.Audience}, pair.Session(v.session))
	if err != nil {
		return err
	}
	var raws [2]string // renewed each round: a handoff lives for a minute
	raws[1] = asked.GetToken()
	names := [2]string{"a reusable handoff", "a visit"}
	var used, late [2][]float64
	for round := range rounds + 1 { // the first warms up
		handedOff, err := v.client.Issue(ctx, v.session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, get, 0)
		if err != nil {
			return err
		}
		raws[0] = handedOff.GetToken()
		for k := range raws {
			i := (k + round) % len(raws)
			s.Say("visits: %s, %s calls/s", names[i], measure.Grouped(readsRate))
			before := measure.UsageOf(v.pair.Server2.Pid()).Processor
			took, err := measure.Arriving(ctx, n, readsRate, func(ctx context.Context, _ int) error {
				_, err := v.client.Invoices.GetInvoice(ctx, get, handoffgrpc.Token(raws[i]))
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			if round == 0 {
				continue
			}
			used[i] = append(used[i], float64(measure.UsageOf(v.pair.Server2.Pid()).Processor-before)/float64(n))
			late[i] = append(late[i], measure.Quantile(took, 0.5, func(d time.Duration) float64 { return float64(d) }))
		}
	}
	same := func(x float64) float64 { return x }
	for i, name := range names {
		ratios := make([]float64, rounds)
		for round := range ratios {
			ratios[round] = used[i][round] / used[0][round]
		}
		ratio := measure.Median(ratios, same)
		t.Add(measure.Line{
			What: "processor time at SERVER2, 10,000 calls/s: GetInvoice by " + name, Median: measure.Microseconds(measure.Median(used[i], same)), Ratio: ratio,
			Note: "p50 " + measure.Microseconds(measure.Median(late[i], same)),
		})
		if i == 1 {
			t.Most("10,000 calls/s by visits, to reusable handoffs", ratio, 1.02, " x")
		}
	}
	return nil
}
