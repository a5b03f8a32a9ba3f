package handoffgrpc

import (
	"context"
	"runtime/metrics"

	"google.golang.org/grpc/tap"
)

// Tap is a tap.ServerInHandle that keeps a server at work when more calls come
// than it can check:
//
//	s := grpc.NewServer(grpc.InTapHandle(guard.Tap), grpc.MaxConcurrentStreams(100), …)
//
// A signature check takes a processor and gives it to nobody until it is done, so
// calls that come faster than that wait, each as a goroutine. While more than
// Config.MaxWaiting do, for verification or for a processor, Tap refuses calls
// with LIMIT_EXCEEDED on their headers alone: no goroutine is started, no body is
// kept, and the token is not looked at. What is exempt passes, health checks
// first of all.
//
// Even so a refusal costs a tenth of a check, most of it for reading the header,
// and who is refused may call again at once. So Tap refuses one call for each
// that is checked. Before it refuses more, it leaves the connection unread for up
// to 10 ms, and lets the call pass if there is room by then. What comes above
// that stays with its caller, as in every connection that is read slowly.
//
// A call whose body does not come waits for the network, not for a processor. It
// is not counted, so that nobody can take others' places by saying nothing; what
// bounds such calls is grpc.MaxConcurrentStreams and a deadline.
//
// Config.Observe is told of each call that is refused here, in the goroutine that
// reads the connection: it must be quick.
func (g *Guard) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !g.crowded() {
		return ctx, nil
	}
	c := call{guard: g, method: g.plan.Load().method(info.FullMethodName)}
	if c.method != nil && c.method.exempt {
		return ctx, nil
	}
	if !g.queue.mayRefuse() && !g.crowded() {
		return ctx, nil
	}
	return nil, c.refuse(ctx, shed("too many calls wait for a processor", nil))
}

// crowded reports whether too many calls wait for a processor.
func (g *Guard) crowded() bool { return runnable()+g.queue.waiting.Load() > g.queue.most }

// runnable returns how many goroutines of the process could run and do not. The
// runtime adds up the lengths of its queues, which takes some 100 ns.
func runnable() int64 {
	sample := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}} // since Go 1.26
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
