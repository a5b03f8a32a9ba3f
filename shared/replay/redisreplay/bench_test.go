package redisreplay_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

// BenchmarkRedeem has callers redeem fresh tokens, and reports the rate, the
// processor time that Redis itself takes for one, the bytes that one occupies
// there and in its append-only file, and the slowest thousandth.
func BenchmarkRedeem(b *testing.B) {
	for _, fsync := range []string{"always", "everysec"} {
		for _, callers := range []int{1, 64, 1024} {
			b.Run(fmt.Sprintf("appendfsync=%s/callers=%d", fsync, callers), func(b *testing.B) {
				r := start(b, "--appendonly", "yes", "--appendfsync", fsync).age()
				s := open(b, redisreplay.Config{URL: r.url(), AcceptLastSecondLoss: true, Timeout: time.Second})
				cpu, memory, file := r.cpu(), r.memory(), r.figure("aof_current_size")
				took := load(b, s, callers)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "redemptions/s")
				b.ReportMetric((r.cpu()-cpu)*1e9/float64(b.N), "redis-cpu-ns/op")
				b.ReportMetric((r.memory()-memory)/float64(b.N), "redis-B/mark")
				b.ReportMetric((r.figure("aof_current_size")-file)/float64(b.N), "file-B/mark")
				b.ReportMetric(float64(took[len(took)*999/1000].Microseconds()), "us-p99.9")
			})
		}
	}
}

func load(b *testing.B, s handoff.Store, callers int) []time.Duration {
	took := make([][]time.Duration, callers)
	var wait sync.WaitGroup
	b.ResetTimer()
	for w := range callers {
		wait.Go(func() {
			for i := w; i < b.N; i += callers {
				r := token()
				r.Expires = r.IssuedAt.Add(handoff.MaxLifetime)
				began := time.Now()
				if err := s.Redeem(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
				took[w] = append(took[w], time.Since(began))
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	return all
}

// cpu returns the processor time that the Redis has used, in seconds.
func (r *redis) cpu() float64 { return r.figure("used_cpu_user") + r.figure("used_cpu_sys") }

// memory returns the bytes that the Redis's data set occupies.
func (r *redis) memory() float64 { return r.figure("used_memory") - r.figure("mem_aof_buffer") }

func (r *redis) figure(name string) float64 {
	r.Helper()
	f, err := strconv.ParseFloat(r.info(name), 64)
	if err != nil {
		r.Fatal(err)
	}
	return f
}
