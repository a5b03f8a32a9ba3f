package flood

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/scripts/bench/wire"
)

// The processors of the server and of the flood, and the flood's connections.
const (
	serverCore = 0
	floodCore  = 1
	fewLanes   = 8
	manyLanes  = 64
)

// Overload offers a server three times what it can do.
func Overload(ctx context.Context, s measure.Settings, t *measure.Table) error {
	if runtime.NumCPU() < 2 {
		return errors.New("the server and the flood need a processor each")
	}
	span := 15 * time.Second
	if s.Short {
		span = 5 * time.Second
	}
	for _, of := range []struct {
		what  string
		open  func(context.Context, measure.Settings) (*target, error)
		lanes int
	}{
		{"the guard alone", bare(wire.GuardedTap), fewLanes},
		{"the guard alone", bare(wire.GuardedTap), manyLanes},
		{"SERVER2", server2, fewLanes},
		{"SERVER2", server2, manyLanes},
	} {
		what := fmt.Sprintf("%s, %d connections", of.what, of.lanes)
		s.Say("overload: %s", what)
		to, err := of.open(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		found, err := strained(ctx, s, to, of.lanes, span)
		if err = errors.Join(err, to.stop()); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		found.report(t, what)
		t.Least("overload, "+what+", goodput to capacity", found.kept(), 0.8, " x")
		t.Most("overload, "+what+", resident at the most", found.peak/(1<<20), 256, " MiB")
		t.Most("overload, "+what+", time to recover", found.recovered.Seconds(), 2, " s")
	}
	return nil
}

// strain is how a server stood an overload.
type strain struct {
	capacity, goodput float64       // calls with a good token that succeeded, a second
	before, meanwhile time.Duration // what a signature check took then
	offered           float64       // calls a second, of all kinds
	shed, unsent      float64       // parts of them
	wrong             float64
	calm, p99         time.Duration
	peak              float64 // bytes
	recovered         time.Duration
	efficiency        float64       // decisions a second of the server's processor time, to those at capacity
	whole, refusal    time.Duration // processor time of a call that is looked at, and of one that is shed
}

// kept is the part of the capacity that the overload has left, both by the pace
// that the processor had at the time.
func (f strain) kept() float64 {
	return f.goodput * float64(f.meanwhile) / (f.capacity * float64(f.before))
}

func (f strain) report(t *measure.Table, what string) {
	percent := func(part float64) string { return fmt.Sprintf("%.2g %%", 100*part) }
	tenths := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	shed := ""
	if f.shed > 0.05 { // of fewer, it would be what the rest differs by
		shed = ", of one that is refused unseen " + measure.Microseconds(float64(f.refusal))
	}
	for _, l := range []measure.Line{
		{
			What: "good calls answered", Median: measure.Grouped(f.goodput) + " /s", Ratio: f.kept(),
			Note: fmt.Sprintf("of %s /s that it can do; a signature check took %s then, and %s in the overload, for which the ratio allows",
				measure.Grouped(f.capacity), measure.Microseconds(float64(f.before)), measure.Microseconds(float64(f.meanwhile))),
		},
		{
			What: "calls offered", Median: measure.Grouped(f.offered) + " /s",
			Note: fmt.Sprintf("%s refused unseen, %s given up unsent, %s decided wrongly", percent(f.shed), percent(f.unsent), percent(f.wrong)),
		},
		{What: "latency of the others, p99", Median: tenths(f.p99), Note: "at half load " + tenths(f.calm)},
		{What: "memory at the most", Median: fmt.Sprintf("%.0f MiB", f.peak/(1<<20))},
		{What: "time to recover", Median: f.recovered.Round(time.Millisecond).String()},
		{
			What: "processor time of a call", Median: measure.Microseconds(float64(f.whole)),
			Note: fmt.Sprintf("%.2f of the processor time went into decisions%s", f.efficiency, shed),
		},
	} {
		l.What = what + ": " + l.What
		t.Add(l)
	}
}

// strained finds what a server can do, offers it half of that, three times that,
// and half again.
func strained(ctx context.Context, s measure.Settings, to *target, lanes int, span time.Duration) (found strain, err error) {
	p, err := startPace(ctx, serverCore)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	f, err := newFlood(ctx, to, lanes)
	if err != nil {
		return found, err
	}
	defer f.close()
	m, err := newMixture(ctx, to, f)
	if err != nil {
		return found, err
	}
	// As many calls under way as keep the server busy, and no more.
	full, err := m.prepare(ctx, int(span.Seconds()*2000), 0)
	if err != nil {
		return found, err
	}
	used, err := m.send(ctx, full)
	if err != nil {
		return found, err
	}
	if err := full.decides(); err != nil {
		return found, err
	}
	rate := float64(len(full.answers)) / full.length().Seconds()
	found.capacity, found.offered, found.whole = full.good(), 3*rate, used/time.Duration(len(full.answers))

	calm, err := m.prepare(ctx, int(2*rate), rate/2)
	if err != nil {
		return found, err
	}
	storm, err := m.prepare(ctx, int(3*rate*span.Seconds()), 3*rate)
	if err != nil {
		return found, err
	}
	after, err := m.prepare(ctx, int(2*rate), rate/2)
	if err != nil {
		return found, err
	}
	if _, err := m.send(ctx, calm); err != nil {
		return found, err
	}
	s.Say("overload: %.0f calls a second for %s", 3*rate, span)
	if used, err = m.send(ctx, storm); err != nil {
		return found, err
	}
	if _, err := m.send(ctx, after); err != nil {
		return found, err
	}
	found.goodput, found.shed, found.calm, found.p99 = storm.good(), storm.part(answer.shed), calm.p99(), storm.p99()
	if err := calm.decides(); err != nil {
		return found, err
	}
	if found.before, err = p.during(full); err != nil {
		return found, err
	}
	if found.meanwhile, err = p.during(storm); err != nil {
		return found, err
	}
	// What was under way at the end had to be answered first.
	found.recovered = max(0, storm.length()-span) + after.recovered(3*found.calm)
	calls := float64(len(storm.answers))
	work := calls * storm.part(answer.decided) * float64(found.whole) * float64(found.meanwhile) / float64(found.before)
	found.efficiency = work / float64(used)
	found.unsent, found.wrong = storm.part(answer.unsent), storm.wrong()
	found.refusal = time.Duration((float64(used) - work) / max(1, calls*found.shed))
	found.peak = measure.UsageOf(to.pid).Peak
	return found, nil
}
