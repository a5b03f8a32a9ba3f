// Package raced measures what happens inside a process, beside what people would
// use in its place: tokens that are checked, issued and refused, trust lists, and
// the stores of spent tokens. Runners take turns over the same input.
package raced

import (
	"context"
	"fmt"
	"runtime"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
)

// A runner is one way to do what others in the race do as well.
type runner struct {
	name string
	do   func(i int) error // the i-th operation of a round
}

// lap is what one operation cost a runner, on the median of the rounds.
type lap struct {
	name   string
	ns     float64 // processor time
	ratio  float64 // to the first runner, in the same round
	allocs float64
	bytes  float64
}

// race has every runner do n operations a round, each round in another order.
// prepare makes a round's inputs, which nobody is charged for. The first runner
// is what the others are compared with.
func race(ctx context.Context, rounds, n int, prepare func() error, runners []runner) ([]lap, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	took := make([][]cost, len(runners))
	for round := range rounds + 1 {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := prepare(); err != nil {
			return nil, err
		}
		for k := range runners {
			i := (k + round) % len(runners)
			c, err := runners[i].run(n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", runners[i].name, err)
			}
			if round > 0 { // the first warms up
				took[i] = append(took[i], c)
			}
		}
	}
	laps := make([]lap, len(runners))
	for i, r := range runners {
		laps[i] = lap{
			name:   r.name,
			ns:     measure.Median(took[i], func(c cost) float64 { return c.ns }),
			allocs: measure.Median(took[i], func(c cost) float64 { return c.allocs }),
			bytes:  measure.Median(took[i], func(c cost) float64 { return c.bytes }),
		}
		ratios := make([]float64, rounds)
		for round := range ratios {
			ratios[round] = took[i][round].ns / took[0][round].ns
		}
		laps[i].ratio = measure.Median(ratios, func(x float64) float64 { return x })
	}
	return laps, nil
}

// cost is that of one operation, on average of a round.
type cost struct{ ns, allocs, bytes float64 }

func (r runner) run(n int) (cost, error) {
	var before, after runtime.MemStats
	runtime.GC() // what others have left behind is not this runner's to collect
	runtime.ReadMemStats(&before)
	start := measure.ProcessorTime()
	for i := range n {
		if err := r.do(i); err != nil {
			return cost{}, err
		}
	}
	took := measure.ProcessorTime() - start
	runtime.ReadMemStats(&after)
	return cost{
		ns:     float64(took) / float64(n),
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
		bytes:  float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
	}, nil
}

// report adds what a race has found, each line under a common heading.
func report(t *measure.Table, heading string, laps []lap) {
	for _, l := range laps {
		t.Add(measure.Line{
			What: heading + l.name, Median: measure.Microseconds(l.ns), Ratio: l.ratio,
			Allocs: l.allocs, Bytes: l.bytes, Counted: true,
		})
	}
}
