package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// measureRound measures the demo pair as it is: SERVER1 with its sessions, its
// policy and its audit, SERVER2 with SERVER1's trust list and its ledger, both
// with their logs, on the wire.
func measureRound(ctx context.Context, s settings, t *table) error {
	if err := measurePair(ctx, s, t, "SQLite", nil); err != nil {
		return fmt.Errorf("make build comes first: %w", err)
	}
	s.say("round: PostgreSQL")
	postgres, err := pair.StartPostgres(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		t.add(line{what: "PostgreSQL", note: "is not installed here"})
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(measurePair(ctx, s, t, "PostgreSQL", postgres), postgres.Stop())
}

func measurePair(ctx context.Context, s settings, t *table, database string, postgres *pair.Postgres) (err error) {
	rounds, n := 5, 5000
	if s.short {
		rounds, n = 3, 500
	}
	p, err := pair.Start(ctx, pair.Config{Bin: s.bin, Dir: filepath.Join(s.dir, database), Trust: true, Postgres: postgres})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err := p.Ready(ctx); err != nil {
		return err
	}
	client, err := p.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return err
	}
	v := visit{client: client, session: session.GetSession(), request: invoice()}
	for _, of := range []struct {
		what string
		do   call
		pids []int
	}{
		{"IssueHandoff at SERVER1", v.issue, []int{p.Server1.Pid()}},
		{"a whole round: IssueHandoff, PayInvoice", v.whole, []int{p.Server1.Pid(), p.Server2.Pid()}},
	} {
		what := of.what + ", " + database
		s.say("round: %s", what)
		if err := measureCalls(ctx, t, what, of.do, of.pids, rounds, n); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// visit is a user who is signed in.
type visit struct {
	client  *pair.Client
	session string
	request *server2v1.PayInvoiceRequest
}

func (v visit) issue(ctx context.Context, _ int) error {
	_, err := v.handoff(ctx)
	return err
}

func (v visit) handoff(ctx context.Context) (string, error) {
	answer, err := v.client.Issue(ctx, v.session, pair.Audience, payMethod, v.request, 0)
	return answer.GetToken(), err
}

// whole pays the same invoice with the same request id each time: the first pays,
// and the others are told so. Each spends a token of its own.
func (v visit) whole(ctx context.Context, _ int) error {
	raw, err := v.handoff(ctx)
	if err != nil {
		return err
	}
	answer, err := v.client.Invoices.PayInvoice(ctx, v.request, handoffgrpc.Token(raw))
	if err == nil && answer.GetPayment().GetInvoiceId() != v.request.GetInvoiceId() {
		err = errors.New("the answer is to another call")
	}
	return err
}

// measureCalls measures a call of the pair: from many callers, and from one.
func measureCalls(ctx context.Context, t *table, what string, do call, pids []int, rounds, n int) error {
	rates, halves, worst := make([]float64, rounds), make([]float64, rounds), make([]float64, rounds)
	for round := range rounds {
		took := make([]time.Duration, n)
		spent, err := closed(ctx, n, callers, func(ctx context.Context, i int) error {
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
		halves[round], worst[round] = quantile(took, 0.5, ns), quantile(took, 0.99, ns)
	}
	var used time.Duration
	alone := make([]time.Duration, n/10)
	for _, pid := range pids {
		used -= usageOf(pid).Processor
	}
	if _, err := closed(ctx, 2*n, callers, do); err != nil {
		return err
	}
	for _, pid := range pids {
		used += usageOf(pid).Processor
	}
	for i := range alone {
		start := time.Now()
		if err := do(ctx, i); err != nil {
			return err
		}
		alone[i] = time.Since(start)
	}
	same := func(x float64) float64 { return x }
	t.add(line{
		what: what, median: grouped(median(rates, same)) + " /s",
		note: fmt.Sprintf("%d callers, p50 %s, p99 %s; one caller alone, p50 %s; processor time of the servers %s", callers,
			microseconds(median(halves, same)), microseconds(median(worst, same)),
			microseconds(median(alone, func(d time.Duration) float64 { return float64(d) })), microseconds(float64(used)/float64(2*n))),
	})
	return nil
}
