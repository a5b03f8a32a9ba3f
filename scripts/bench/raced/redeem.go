package raced

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/handoff-auth/handoff/scripts/bench/measure"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
)

// Callers of a store: as many as there are processors, or so many that they share
// writes.
const (
	memoryCallers  = 2
	journalCallers = 256
)

func Redeem(ctx context.Context, s measure.Settings, t *measure.Table) error {
	sizes := []int{0, 1_000_000, 10_000_000}
	if s.Short {
		sizes = []int{0, 1_000_000}
	}
	for _, live := range sizes {
		s.Say("redeem: memory with %s live", measure.Grouped(float64(live)))
		found, err := measureStore(ctx, live, memoryCallers, s.Short, func(c replay.Config) (handoff.Store, func() error, error) {
			return replay.NewMemory(c), func() error { return nil }, nil
		})
		if err != nil {
			return err
		}
		found.report(t, fmt.Sprintf("memory, %s live", measure.Grouped(float64(live))))
		t.Least(fmt.Sprintf("redeem in memory on 2 cores, %s live", measure.Grouped(float64(live))), found.rate, 1e6, " /s")
		if live == 10_000_000 { // where what the process takes anyway does not show
			t.Most("redeem, bytes a live id at 10,000,000, heap", found.heap, 40, "")
			t.Most("redeem, bytes a live id at 10,000,000, resident", found.resident, 40, "")
			t.Most("redeem, longest work of one call at 10,000,000 live", found.longest.Seconds()*1000, 1, " ms")
			t.Most("redeem, pause of the collector at 10,000,000 live", found.pause.Seconds()*1000, 1, " ms")
		}
	}
	for i, live := range sizes {
		s.Say("redeem: journal with %s live", measure.Grouped(float64(live)))
		path := filepath.Join(s.Dir, "journal"+strconv.Itoa(i))
		found, err := measureStore(ctx, live, journalCallers, s.Short, func(c replay.Config) (handoff.Store, func() error, error) {
			if err := replay.Create(path, c); err != nil {
				return nil, nil, err
			}
			j, err := replay.Open(path, c)
			if err != nil {
				return nil, nil, err
			}
			return j, func() error { return errorsOf(j.Close(), os.RemoveAll(path)) }, nil
		})
		if err != nil {
			return err
		}
		found.report(t, fmt.Sprintf("journal, %s live", measure.Grouped(float64(live))))
		t.Least(fmt.Sprintf("redeem with the journal on 2 cores, %s live", measure.Grouped(float64(live))), found.rate, 2e5, " /s")
	}
	return nil
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// stored is what a store was seen to do.
type stored struct {
	rate           float64 // redemptions a second, by the clock on the wall
	work           float64 // processor time of one, in ns
	p999           time.Duration
	longest        time.Duration // processor time of one call
	heap, resident float64       // bytes a live id
	pause          time.Duration
}

func (f stored) report(t *measure.Table, what string) {
	micros := func(d time.Duration) string { return measure.Number(us(d)) + " us" }
	t.Add(measure.Line{What: what + ": processor time a redemption", Median: measure.Microseconds(f.work)})
	t.Add(measure.Line{What: what + ": redemptions", Median: measure.Grouped(f.rate) + " /s", Note: fmt.Sprintf("%d cores", runtime.NumCPU())})
	t.Add(measure.Line{What: what + ": latency, p99.9", Median: micros(f.p999)})
	if f.longest > 0 {
		t.Add(measure.Line{What: what + ": longest work of one call", Median: micros(f.longest)})
	}
	t.Add(measure.Line{What: what + ": the collector's pause", Median: micros(f.pause)})
	if f.heap > 0 {
		t.Add(measure.Line{What: what + ": a live id, in the heap", Median: fmt.Sprintf("%.1f B", f.heap), Note: fmt.Sprintf("%.1f B resident", f.resident)})
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

type opener func(replay.Config) (handoff.Store, func() error, error)

// measureStore fills a store and then loads it three times over: for its rate,
// for its latencies, and for the longest that one call works.
func measureStore(ctx context.Context, live, callers int, short bool, open opener) (found stored, err error) {
	began := time.Now()
	clock := began.Add(-time.Minute) // then it stands still: nothing ends
	debug.FreeOSMemory()
	heap, resident := inHeap(), measure.UsageOf(os.Getpid()).Resident
	store, closed, err := open(replay.Config{Now: func() time.Time { return clock }, MaxLive: math.MaxInt})
	if err != nil {
		return found, err
	}
	defer func() { err = errorsOf(err, closed()) }()
	clock = began

	n := 1_000_000
	if callers > memoryCallers {
		n = 400_000
	}
	if short {
		n /= 4
	}
	if err := load(store, began, "live", live, max(callers, journalCallers), nil); err != nil {
		return found, err
	}
	if live > 0 {
		runtime.GC()
		found.heap = (inHeap() - heap) / float64(live)
		debug.FreeOSMemory() // what growing has left behind is nobody's any more
		found.resident = (measure.UsageOf(os.Getpid()).Resident - resident) / float64(live)
	}
	if err := context.Cause(ctx); err != nil {
		return found, err
	}
	rates, works := make([]float64, 5), make([]float64, 5)
	for i := range rates {
		start, used := time.Now(), measure.ProcessorTime()
		if err := load(store, began, "rate"+strconv.Itoa(i), n/len(rates), callers, nil); err != nil {
			return found, err
		}
		rates[i] = float64(n/len(rates)) / time.Since(start).Seconds()
		works[i] = float64(measure.ProcessorTime()-used) / float64(n/len(rates))
	}
	same := func(x float64) float64 { return x }
	found.rate, found.work = measure.Median(rates, same), measure.Median(works, same)
	took := make([]time.Duration, n)
	if err := load(store, began, "took", n, callers, timed(took, now)); err != nil {
		return found, err
	}
	found.p999 = time.Duration(measure.Quantile(took, 0.999, func(d time.Duration) float64 { return float64(d) }))
	if callers == memoryCallers { // where a call does its own work
		if err := load(store, began, "work", n, callers, timed(took, measure.ThreadTime)); err != nil {
			return found, err
		}
		found.longest = slices.Max(took)
	}
	pauses := make([]time.Duration, 9)
	for i := range pauses {
		before := collectorPauses()
		runtime.GC()
		pauses[i] = longestPause(before, collectorPauses())
	}
	found.pause = time.Duration(measure.Median(pauses, func(d time.Duration) float64 { return float64(d) }))
	return found, nil
}

// load has callers redeem n fresh ids of tokens whose lives end over the next
// minute, and around, if it is not nil, measure each.
func load(store handoff.Store, began time.Time, kind string, n, callers int, around func(i int, do func())) error {
	issued := began.Truncate(time.Second)
	failures := make(chan error, callers)
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			if around != nil {
				runtime.LockOSThread() // threadTime is the thread's
			}
			ctx := context.Background()
			for i := c; i < n; i += callers {
				var err error
				redeem := func() {
					err = store.Redeem(ctx, handoff.Redemption{
						Issuer: ShopName, ID: kind + strconv.Itoa(i), IssuedAt: issued,
						Expires: issued.Add(time.Duration(1+i%60) * time.Second),
					})
				}
				if around == nil {
					redeem()
				} else {
					around(i, redeem)
				}
				if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// timed notes how long each operation took by a clock.
func timed(took []time.Duration, clock func() time.Duration) func(int, func()) {
	return func(i int, do func()) {
		start := clock()
		do()
		took[i] = clock() - start
	}
}

func now() time.Duration { return time.Duration(time.Now().UnixNano()) }

func inHeap() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// collectorPauses is the runtime's histogram of the times that the collector
// stopped the world for.
func collectorPauses() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	return &metrics.Float64Histogram{Counts: slices.Clone(h.Counts), Buckets: h.Buckets}
}

// longestPause returns an upper bound of the pauses between two histograms.
func longestPause(before, after *metrics.Float64Histogram) time.Duration {
	for i, count := range slices.Backward(after.Counts) {
		if count > before.Counts[i] {
			return time.Duration(after.Buckets[i+1] * float64(time.Second))
		}
	}
	return 0
}
