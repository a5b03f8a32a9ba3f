//go:build unix

package replay_test

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay"
)

const maxLive = 12_000_000

// BenchmarkMemory redeems fresh tokens on every core over a store that already
// holds marks, and reports what issue of sizing asks: the rate, the slowest
// thousandth, the bytes a mark in the heap and in the process, and the longest
// pause of the garbage collector with all of them live.
func BenchmarkMemory(b *testing.B) {
	for _, live := range []int{0, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			c := newClock()
			before := footprint()
			s := replay.NewMemory(replay.Config{Now: c.Now, MaxLive: maxLive})
			c.Add(10 * time.Second)
			fill(b, s, c, live)
			filled := perMark(before, live)
			load(b, s, c, runtime.GOMAXPROCS(0))
			filled.report(b)
			b.ReportMetric(float64(periodEnds(b, s, c).Nanoseconds())/1000, "us-period-end")
		})
	}
}

// periodEnds returns the longest time that a redemption takes which is the first
// to see that a period has ended, and drops that period's marks.
func periodEnds(b *testing.B, s handoff.Store, c *clock) (longest time.Duration) {
	for range 10 {
		c.Add(16 * time.Second)
		r := c.token()
		start := time.Now()
		if err := s.Redeem(context.Background(), r); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(start))
	}
	return longest
}

// BenchmarkJournal is BenchmarkMemory with each redemption in a file, and with
// 256 callers, who share writes.
func BenchmarkJournal(b *testing.B) {
	for _, live := range []int{0, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			c, before := newClock(), footprint()
			config := replay.Config{Now: c.Now, MaxLive: maxLive}
			path := filepath.Join(b.TempDir(), "journal")
			if err := replay.Create(path, config); err != nil {
				b.Fatal(err)
			}
			c.Add(10 * time.Second)
			s, err := replay.Open(path, config)
			if err != nil {
				b.Fatal(err)
			}
			fill(b, s, c, live)
			filled := perMark(before, live)
			load(b, s, c, 256)
			filled.report(b)
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkJournalOpen starts with marks in the files.
func BenchmarkJournalOpen(b *testing.B) {
	for _, live := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			c := newClock()
			config := replay.Config{Now: c.Now, MaxLive: maxLive}
			path := filepath.Join(b.TempDir(), "journal")
			if err := replay.Create(path, config); err != nil {
				b.Fatal(err)
			}
			c.Add(10 * time.Second)
			const segments = 5
			for range segments {
				s, err := replay.Open(path, config)
				if err != nil {
					b.Fatal(err)
				}
				fill(b, s, c, live/segments)
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
			var cpu time.Duration
			for b.Loop() {
				cpu -= cpuTime(b)
				s, err := replay.Open(path, config)
				if err != nil {
					b.Fatal(err)
				}
				cpu += cpuTime(b)
				b.StopTimer()
				if s.Live() != live {
					b.Errorf("%d live, want %d", s.Live(), live)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// fill redeems n tokens whose lives end over the next minute.
func fill(b *testing.B, s handoff.Store, c *clock, n int) {
	const workers = 256
	issued := c.second()
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for i := w; i < n; i += workers {
				r := handoff.Redemption{
					Issuer: "https://shop.example", ID: handoff.NewID(),
					IssuedAt: issued, Expires: issued.Add(time.Duration(1+i%60) * time.Second),
				}
				if err := s.Redeem(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// load has callers redeem b.N fresh tokens between them, and reports the rate,
// the slowest thousandth and the longest, and the longest pause of the collector.
func load(b *testing.B, s handoff.Store, c *clock, callers int) {
	issued := c.second()
	took := make([][]time.Duration, callers)
	for i := range took {
		took[i] = make([]time.Duration, 0, b.N/callers+1)
	}
	runtime.GC()
	pauses, cpu := gcPauses(), cpuTime(b)
	var wait sync.WaitGroup
	b.ResetTimer()
	for w := range callers {
		wait.Go(func() {
			for i := w; i < b.N; i += callers {
				r := handoff.Redemption{
					Issuer: "https://shop.example", ID: "load-" + strconv.Itoa(i),
					IssuedAt: issued, Expires: issued.Add(time.Minute),
				}
				start := time.Now()
				if err := s.Redeem(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
	runtime.GC()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "redemptions/s")
	b.ReportMetric(float64(all[len(all)*999/1000].Nanoseconds())/1000, "us-p99.9")
	b.ReportMetric(float64(all[len(all)-1].Nanoseconds())/1000, "us-max")
	b.ReportMetric(longest(pauses, gcPauses()).Seconds()*1e6, "us-gc-pause-max")
}

// cpuTime returns what the process has used: on a machine that does other things
// too, the better figure.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// gcPauses returns the runtime's histogram of the times that the collector
// stopped the world for.
func gcPauses() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	return &metrics.Float64Histogram{Counts: slices.Clone(h.Counts), Buckets: h.Buckets}
}

// longest returns an upper bound of the pauses between two histograms.
func longest(before, after *metrics.Float64Histogram) time.Duration {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if after.Counts[i] > before.Counts[i] {
			return time.Duration(after.Buckets[i+1] * float64(time.Second))
		}
	}
	return 0
}

// size is what the process holds, in bytes.
type size struct{ heap, rss float64 }

func footprint() size {
	debug.FreeOSMemory()
	return size{heapInUse(), rss()}
}

func heapInUse() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func rss() float64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return math.NaN()
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		return math.NaN()
	}
	return float64(pages * os.Getpagesize())
}

// perMark returns the bytes a mark since before: of the process as it is, with
// what the collector has yet to free, and of the heap after a collection.
func perMark(before size, live int) size {
	if live == 0 {
		return size{}
	}
	process := rss()
	runtime.GC()
	return size{heap: (heapInUse() - before.heap) / float64(live), rss: (process - before.rss) / float64(live)}
}

func (s size) report(b *testing.B) {
	if s != (size{}) {
		b.ReportMetric(s.rss, "rss-B/mark")
		b.ReportMetric(s.heap, "heap-B/mark")
	}
}
