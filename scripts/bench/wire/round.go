package wire

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/serving/harness"
)

// Pair measures the demo pair as it is: SERVER1 with its sessions, its
// policy and its audit, SERVER2 with SERVER1's trust list and its ledger, both
// with their logs, on the wire.
func Pair(ctx context.Context, s measure.Settings, t *measure.Table) error {
	if err := measurePair(ctx, s, t, "SQLite", nil); err != nil {
		return fmt.Errorf("make build comes first: %w", err)
	}
	s.Say("round: PostgreSQL")
	postgres, err := pair.StartPostgres(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		t.Add(measure.Line{What: "PostgreSQL", Note: "is not installed here"})
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(measurePair(ctx, s, t, "PostgreSQL", postgres), postgres.Stop())
}

func measurePair(ctx context.Context, s measure.Settings, t *measure.Table, database string, postgres *harness.Postgres) (err error) {
	rounds, n := 5, 3000
	if s.Short {
		rounds, n = 3, 500
	}
	v, err := newVisit(ctx, pair.Config{Bin: s.Bin, Dir: filepath.Join(s.Dir, database), Postgres: postgres})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	for _, of := range []struct {
		what string
		do   measure.Call
		pids []int
	}{
		{"IssueHandoff at SERVER1", v.issue, []int{v.pair.Server1.Pid()}},
		{"a whole round: IssueHandoff, PayInvoice", v.whole, []int{v.pair.Server1.Pid(), v.pair.Server2.Pid()}},
	} {
		what := of.what + ", " + database
		s.Say("round: %s", what)
		if err := measureCalls(ctx, t, what, of.do, of.pids, rounds, n); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// measureCalls measures a call of the pair: from many callers, and from one.
func measureCalls(ctx context.Context, t *measure.Table, what string, do measure.Call, pids []int, rounds, n int) error {
	rates, halves, worst := make([]float64, rounds), make([]float64, rounds), make([]float64, rounds)
	for round := range rounds {
		took := make([]time.Duration, n)
		spent, err := measure.Closed(ctx, n, callers, func(ctx context.Context, i int) error {
			start := time.Now()
			err := do(ctx, i)
			took[i] = time.Since(start)
			if status.Code(err) == codes.ResourceExhausted {
				err = fmt.Errorf("a limit of the server's is measured here, not its speed: %w", err)
			}
			return err
		})
		if err != nil {
			return err
		}
		ns := func(d time.Duration) float64 { return float64(d) }
		rates[round] = float64(n) / spent.Seconds()
		halves[round], worst[round] = measure.Quantile(took, 0.5, ns), measure.Quantile(took, 0.99, ns)
	}
	var used time.Duration
	alone := make([]time.Duration, n/10)
	for _, pid := range pids {
		used -= measure.UsageOf(pid).Processor
	}
	if _, err := measure.Closed(ctx, 2*n, callers, do); err != nil {
		return err
	}
	for _, pid := range pids {
		used += measure.UsageOf(pid).Processor
	}
	for i := range alone {
		start := time.Now()
		if err := do(ctx, i); err != nil {
			return err
		}
		alone[i] = time.Since(start)
	}
	same := func(x float64) float64 { return x }
	p50 := measure.Median(alone, func(d time.Duration) float64 { return float64(d) })
	many := fmt.Sprintf("%d callers", callers)
	for _, l := range []measure.Line{
		{What: "calls", Median: measure.Grouped(measure.Median(rates, same)) + " /s", Note: many},
		{What: "latency, p50", Median: measure.Microseconds(measure.Median(halves, same)), Note: many},
		{What: "latency, p99", Median: measure.Microseconds(measure.Median(worst, same)), Note: many},
		{What: "latency, p50", Median: measure.Microseconds(p50), Note: "one caller"},
		{What: "processor time of the servers", Median: measure.Microseconds(float64(used) / float64(2*n)), Note: many},
	} {
		l.What = what + ": " + l.What
		t.Add(l)
	}
	return nil
}
