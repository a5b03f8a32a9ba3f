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

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/overload"

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

// newSheddingKit makes a guard that asks a shedder for turns.
func newSheddingKit(t *testing.T, config overload.Config) (*kit, *overload.Shedder) {
	t.Helper()
	shedder, err := overload.New(config)
	if err != nil {
		t.Fatal(err)
	}
	k := newKit(t, handoffgrpc.Config{Admit: shedder.Admit})
	k.listen = shedder.Listener
	return k, shedder
}

// While the processors cannot keep up, a call is refused for what it is: unseen,
// unspent, and with its reason. What is exempt is served.
func TestTapShedsWhileProcessorsAreBusy(t *testing.T) {
	k, shedder := newSheddingKit(t, overload.Config{MaxWaiting: 32})
	conn := k.serve(t, shedder.Options()...)
	client, probe := server2v1.NewInvoiceServiceClient(conn), healthv1.NewHealthClient(conn)
	token := k.pay(t)
	for range 40 { // calls that are open: others' goroutines are no reason to refuse one
		watch, err := probe.Watch(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	disperse := crowd(200)
	defer disperse()

	_, err := client.PayInvoice(bearer(t, token), payment())
	if status.Code(err) != codes.ResourceExhausted || handoffgrpc.ReasonOf(err) != handoff.ReasonLimitExceeded {
		t.Errorf("in a crowd: %v", err)
	}
	if ran, spent, asked := k.handlers(), k.store.len(), k.keys.times(); len(ran) != 0 || spent != 0 || asked != 0 {
		t.Errorf("in a crowd %v ran, %d tokens were spent and %d keys looked for", ran, spent, asked)
	}
	if events := k.take(); len(events) != 0 {
		t.Errorf("Observe was told %+v of a call that the guard has not seen", events)
	}
	if _, err := probe.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health, in a crowd: %v", err)
	}

	disperse()
	served(t, conn, token)
}

// Calls that have begun and say nothing more take no place of others.
func TestTapIgnoresTheSilent(t *testing.T) {
	k, shedder := newSheddingKit(t, overload.Config{MaxWaiting: 32})
	conn := k.serve(t, shedder.Options()...)
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
