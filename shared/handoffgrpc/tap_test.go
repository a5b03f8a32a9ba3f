package handoffgrpc_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const payName = server2v1.InvoiceService_PayInvoice_FullMethodName

// crowd has n goroutines want a processor until the returned function is called.
func crowd(n int) (disperse func()) {
	var over atomic.Bool
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			for !over.Load() {
				runtime.Gosched()
			}
		})
	}
	return func() {
		over.Store(true)
		wait.Wait()
	}
}

// While the processors cannot keep up, a call is refused for what it is: unseen,
// unspent, and with its reason. What is exempt is served.
func TestTapShedsWhileProcessorsAreBusy(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{MaxWaiting: 32})
	conn := k.serve(t, grpc.InTapHandle(k.guard.Tap))
	client, probe := server2v1.NewInvoiceServiceClient(conn), healthv1.NewHealthClient(conn)
	token := k.pay(t)
	disperse := crowd(200)
	defer disperse()

	_, err := client.PayInvoice(bearer(t, token), payment())
	if status.Code(err) != codes.ResourceExhausted || handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded {
		t.Errorf("in a crowd: %v", err)
	}
	if ran, spent, asked := k.handlers(), k.store.len(), k.keys.times(); len(ran) != 0 || spent != 0 || asked != 0 {
		t.Errorf("in a crowd %v ran, %d tokens were spent and %d keys looked for", ran, spent, asked)
	}
	events := k.take()
	if len(events) != 1 || events[0].Method != payName || events[0].Grant != nil || events[0].ID != "" ||
		events[0].Refusal.Reason != handoff.ReasonLimitExceeded || events[0].Refusal.Check != handoffgrpc.CheckGuardWaiting {
		t.Errorf("Observe was told %+v", events)
	}
	if _, err := probe.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health, in a crowd: %v", err)
	}

	disperse()
	served(t, conn, token)
}

// Calls that have begun and say nothing more take no place of others.
func TestTapIgnoresTheSilent(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{MaxWaiting: 32})
	conn := k.serve(t, grpc.InTapHandle(k.guard.Tap))
	for range 300 {
		ctx, cancel := context.WithCancel(bearer(t, k.pay(t)))
		defer cancel()
		if _, err := conn.NewStream(ctx, &grpc.StreamDesc{}, payName); err != nil {
			t.Fatal(err)
		}
	}
	served(t, conn, k.pay(t))
}

// served waits until a call is served: what has just been started or ended may
// want a processor for a moment.
func served(t *testing.T, conn *grpc.ClientConn, token forge.Token) {
	t.Helper()
	client := server2v1.NewInvoiceServiceClient(conn)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := client.PayInvoice(bearer(t, token), payment())
		if err == nil {
			return
		}
		if handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Before Check nothing is exempt.
func TestTapBeforeCheck(t *testing.T) {
	k := newKit(t, handoffgrpc.Config{MaxWaiting: 32})
	info := &tap.Info{FullMethodName: healthv1.Health_Check_FullMethodName}
	disperse := crowd(200)
	defer disperse()
	if _, err := k.guard.Tap(t.Context(), info); handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded {
		t.Errorf("in a crowd: %v", err)
	}
	if events := k.take(); len(events) != 1 || events[0].Method != "" {
		t.Errorf("Observe was told %+v", events)
	}
}
