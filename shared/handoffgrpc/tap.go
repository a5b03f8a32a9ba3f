package handoffgrpc

import (
	"context"
	"runtime/metrics"

	"google.golang.org/grpc/tap"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Tap is a tap.ServerInHandle that keeps a server at work when more calls come
// than it can check:
//
//	s := grpc.NewServer(grpc.InTapHandle(guard.Tap), grpc.MaxConcurrentStreams(128), …)
//
// A signature check takes a processor and gives it to nobody until it is done, so
// calls that come faster than that wait for a processor, each as a goroutine that
// could run. While more goroutines than Config.MaxWaiting do, Tap refuses calls
// with LIMIT_EXCEEDED on their headers alone: no goroutine is started, no body is
// kept, and the token is not looked at. What is exempt passes, health checks
// first of all.
//
// A call whose body does not come waits for the network, not for a processor. It
// is not counted, so that nobody can take others' places by saying nothing; what
// bounds such calls is grpc.MaxConcurrentStreams and a deadline.
//
// Config.Observe is told of each call that is refused here, in the goroutine that
// reads the connection: it must be quick.
func (g *Guard) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if waiting() <= g.mostWaiting {
		return ctx, nil
	}
	c := call{guard: g, method: g.plan.Load().method(info.FullMethodName)}
	if c.method != nil && c.method.exempt {
		return ctx, nil
	}
	return nil, c.refuse(ctx, &handoff.Refusal{
		Reason: handoff.ReasonLimitExceeded, Check: CheckGuardWaiting, Detail: "too many goroutines wait for a processor",
	})
}

// waiting returns how many goroutines of the process could run and do not. The
// runtime adds up the lengths of its queues, which takes some 100 ns.
func waiting() uint64 {
	sample := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}} // since Go 1.26
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
