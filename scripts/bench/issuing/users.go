package issuing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/raced"
	"github.com/handoff-auth/handoff/shared/handoff"
)

// A way is handoffs of some users of one shop, and what a round of them was like.
type way struct {
	shop  *shop
	users int

	rates []float64 // a second
	used  []float64 // processor time of SERVER1 for one, in ns
}

func (w *way) String() string {
	if w.users == 1 {
		return w.shop.database + ", one user"
	}
	return fmt.Sprintf("%s, %s users", w.shop.database, measure.Grouped(float64(w.users)))
}

// round issues n handoffs.
func (w *way) round(ctx context.Context, n int) error {
	before := measure.UsageOf(w.shop.Server1.Pid()).Processor
	took, err := measure.Closed(ctx, n, callers, w.shop.issue(w.users))
	if err != nil {
		return fmt.Errorf("%s: %w", w, err)
	}
	w.rates = append(w.rates, float64(n)/took.Seconds())
	w.used = append(w.used, float64(measure.UsageOf(w.shop.Server1.Pid()).Processor-before)/float64(n))
	return nil
}

// Users measures IssueHandoff for one user, whose handoffs all touch one row, and for
// many, on both databases.
func Users(ctx context.Context, s measure.Settings, t *measure.Table) (err error) {
	rounds, n, many := 7, 4000, 1000
	if s.Short {
		rounds, n, many = 3, 500, 20
	}
	var ways []*way
	for _, postgres := range []bool{false, true} {
		shop, err := openShop(ctx, s, fmt.Sprintf("users-%t", postgres), shopOf{postgres: postgres, users: many})
		if errors.Is(err, exec.ErrNotFound) {
			t.Add(measure.Line{What: "PostgreSQL", Note: "is not installed here"})
			continue
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, shop.close()) }()
		ways = append(ways, &way{shop: shop, users: 1}, &way{shop: shop, users: many})
	}
	sign, err := signing(ctx)
	if err != nil {
		return err
	}
	var signatures []float64
	for round := range rounds + 1 {
		s.Say("users: round %d of %d", round, rounds)
		for k := range ways {
			if err := ways[(k+round)%len(ways)].round(ctx, n); err != nil {
				return err
			}
		}
		signature, err := sign(n)
		if err != nil {
			return err
		}
		signatures = append(signatures, signature)
		if round == 0 { // which has warmed up
			signatures = signatures[:0]
			for _, w := range ways {
				w.rates, w.used = w.rates[:0], w.used[:0]
			}
		}
	}
	reportUsers(t, ways, signatures)
	return nil
}

// signing returns what times n signatures of a handoff's bytes, on all processors as the
// servers run, and says what one takes in ns of processor time.
func signing(ctx context.Context) (func(n int) (float64, error), error) {
	shop, err := raced.NewShop(handoff.EdDSA)
	if err != nil {
		return nil, err
	}
	raw, err := shop.Issue(ctx, raced.Payment())
	if err != nil {
		return nil, err
	}
	input, err := raced.Apart(raw)
	if err != nil {
		return nil, err
	}
	return func(n int) (float64, error) {
		before := measure.ProcessorTime()
		_, err := measure.Closed(ctx, n, runtime.NumCPU(), func(context.Context, int) error {
			return input.Sign(handoff.EdDSA, shop.Private)
		})
		return float64(measure.ProcessorTime()-before) / float64(n), err
	}, nil
}

func same(x float64) float64 { return x }

// ratios is the median of each round's ratio.
func ratios(of, base []float64) float64 {
	all := make([]float64, len(of))
	for i := range all {
		all[i] = of[i] / base[i]
	}
	return measure.Median(all, same)
}

func reportUsers(t *measure.Table, ways []*way, signatures []float64) {
	for i, w := range ways {
		t.Add(measure.Line{
			What: fmt.Sprintf("IssueHandoff, %s", w), Median: measure.Grouped(measure.Median(w.rates, same)) + " /s",
			Ratio: ratios(w.rates, ways[i%2].rates), Note: fmt.Sprintf("%d callers, who share the machine", callers),
		})
	}
	t.Add(measure.Line{What: "processor time: the Ed25519 signature alone", Median: measure.Microseconds(measure.Median(signatures, same)), Ratio: 1})
	for _, w := range ways {
		t.Add(measure.Line{
			What: fmt.Sprintf("processor time of SERVER1 a handoff, %s", w), Median: measure.Microseconds(measure.Median(w.used, same)),
			Ratio: ratios(w.used, signatures),
		})
	}
	t.Most("processor time of SERVER1 a handoff, SQLite, to the signature alone", ratios(ways[1].used, signatures), 4.5, " x")
	if len(ways) < 4 {
		return
	}
	t.Least(fmt.Sprintf("IssueHandoff, %s, to SQLite", ways[3]), ratios(ways[3].rates, ways[1].rates), 0.8, " x")
	t.Least(fmt.Sprintf("IssueHandoff, %s, to SQLite", ways[2]), ratios(ways[2].rates, ways[0].rates), 0.8, " x")
}
