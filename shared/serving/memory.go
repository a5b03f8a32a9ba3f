package serving

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much memory a server gives for fewer collections of garbage. A server that
// is at work has little that lives and makes much garbage, and with Go's default it
// collects many times a second.
const (
	goDefault   = 100
	collectAt   = 400       // percent of what lives, as GOGC has it
	memoryLimit = 192 << 20 // bytes, beyond which it collects sooner: with the program itself, some 220 MiB are resident
)

// SpendMemory has the runtime collect garbage less often, until ctx ends, as long
// as the program takes at most 192 MiB. When so much lives that this is not enough,
// it collects as by Go's default: when the garbage is as much as what lives. A GOGC
// or GOMEMLIMIT in the environment is the operator's word, and then nothing is
// changed.
func SpendMemory(ctx context.Context) {
	percent := debug.SetGCPercent(collectAt)
	if percent != goDefault || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		debug.SetGCPercent(percent) // the runtime has read one of them from the environment
		return
	}
	debug.SetMemoryLimit(memoryLimit)
	limit := int64(memoryLimit)
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			// A limit below what lives would have the program do little else than collect.
			// To set one stops the program for a moment: not for a small difference.
			if next := max(memoryLimit, 2*living()); next > limit+limit/8 || next < limit-limit/8 {
				limit = next
				debug.SetMemoryLimit(limit)
			}
		}
	}
}

// living returns how many bytes the last collection found alive, with the stacks.
func living() int64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
}
