package serving_test

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// The limit is small while little lives, and never less than twice what lives.
func TestSpendMemory(t *testing.T) {
	before := debug.SetGCPercent(100)
	limitBefore := debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limitBefore) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); serving.SpendMemory(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	wait := func(what string, ok func(limit int64) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(debug.SetMemoryLimit(-1)); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the limit is %d", what, debug.SetMemoryLimit(-1))
			}
		}
	}
	wait("at rest", func(limit int64) bool { return limit == 192<<20 })
	lives := make([]byte, 300<<20)
	runtime.GC()
	wait("with 300 MiB alive", func(limit int64) bool { return limit >= 600<<20 })
	runtime.KeepAlive(lives)
	lives = nil
	runtime.GC()
	wait("at rest again", func(limit int64) bool { return limit == 192<<20 })
	if percent := debug.SetGCPercent(100); percent != 400 {
		t.Errorf("GOGC is %d", percent)
	}
}

func TestSpendMemoryAsTheOperatorSays(t *testing.T) {
	before, limitBefore := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limitBefore) })
	for _, set := range []struct {
		percent int
		limit   int64
	}{{50, math.MaxInt64}, {100, 1 << 30}, {-1, 1 << 30}} {
		debug.SetGCPercent(set.percent)
		debug.SetMemoryLimit(set.limit)
		serving.SpendMemory(t.Context()) // returns
		if percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1); percent != set.percent || limit != set.limit {
			t.Errorf("%d percent and %d bytes became %d and %d", set.percent, set.limit, percent, limit)
		}
	}
}
