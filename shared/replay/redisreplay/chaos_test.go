package redisreplay_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handofftest"
	"github.com/handoff-auth/handoff/shared/measure"
	"github.com/handoff-auth/handoff/shared/replay/redisreplay"
)

// E01, E03, E06: while Redis is killed, stopped and cut off at random, no token is
// redeemed twice by the callers of three replicas; none is said to be replayed
// that nobody can have redeemed; and once the faults stop, each token is redeemed
// exactly once.
func TestE01E03Chaos(t *testing.T) {
	t.Parallel()
	lasts := time.Duration(measure.Of(2, 4, 30)) * time.Second
	r := start(t).age()
	p := newProxy(t, r)
	var replicas []handoff.Store
	for range 3 {
		replicas = append(replicas, open(t, redisreplay.Config{URL: p.url(), Timeout: 500 * time.Millisecond})) // of a busy machine
	}
	handofftest.Chaos(t, lasts, measure.Of(20, 50, 50), func() {
		time.Sleep(rand.N(500 * time.Millisecond))
		switch rand.N(3) {
		case 0:
			r.kill()
			time.Sleep(rand.N(200 * time.Millisecond))
			r.run()
		case 1:
			r.stall()
			time.Sleep(rand.N(time.Second))
			r.cont()
		case 2:
			p.cut()
		}
	}, replicas...)
}
