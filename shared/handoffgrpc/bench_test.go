package handoffgrpc_test

import (
	"context"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

const getMethod = server2v1.InvoiceService_GetInvoice_FullMethodName

func nothing(context.Context, any) (any, error) { return nil, nil }

// incoming is the context of a call as grpc-go makes it, with a value of authorization.
func incoming(ctx context.Context, authorization string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(
		":authority", "billing.example", "content-type", "application/grpc", "user-agent", "grpc-go/1.85.0",
		"authorization", authorization))
}

// BenchmarkUnary is a whole guarded call without the network. The difference between guarded and core is the guard's
// own cost: the plan, the metadata, the context, the hook.
func BenchmarkUnary(b *testing.B) {
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	k := newKit(b, handoffgrpc.Config{Observe: func(context.Context, handoffgrpc.Event) {}})
	k.check(b)
	raw := k.good(b, getMethod, req).Compact()

	b.Run("core", func(b *testing.B) {
		method, err := rule.Linked().Method(getMethod)
		if err != nil {
			b.Fatal(err)
		}
		demands, _ := method.Rule()
		b.ReportAllocs()
		for b.Loop() {
			verified, err := k.verifier.Verify(b.Context(), raw)
			if err != nil {
				b.Fatal(err)
			}
			op, err := method.Operation(req)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := k.verifier.Redeem(b.Context(), verified, op, demands); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("guarded", func(b *testing.B) {
		ctx := incoming(b.Context(), "Bearer "+raw)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.guard.Unary(ctx, req, getMethod, nothing); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("exempt", func(b *testing.B) {
		ctx := incoming(b.Context(), "Bearer x")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.guard.Unary(ctx, &healthv1.HealthCheckRequest{}, healthv1.Health_Check_FullMethodName, nothing); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("refused", func(b *testing.B) {
		ctx := incoming(b.Context(), "Bearer "+raw[1:])
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.guard.Unary(ctx, req, getMethod, nothing); err == nil {
				b.Fatal("accepted")
			}
		}
	})
}

// What the guard itself adds to a call stays small.
func TestGuardAllocations(t *testing.T) {
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	k := newKit(t, handoffgrpc.Config{Observe: func(context.Context, handoffgrpc.Event) {}})
	k.check(t)
	raw := k.good(t, getMethod, req).Compact()
	method, err := rule.Linked().Method(getMethod)
	if err != nil {
		t.Fatal(err)
	}
	core := testing.AllocsPerRun(1000, func() {
		verified, _ := k.verifier.Verify(t.Context(), raw)
		op, _ := method.Operation(req)
		if _, err := k.verifier.Redeem(t.Context(), verified, op, handoff.Rule{Reusable: true}); err != nil {
			t.Error(err)
		}
	})
	ctx := incoming(t.Context(), "Bearer "+raw)
	decodes := testing.AllocsPerRun(1000, func() { // which a call without a guard does too
		in := &server2v1.GetInvoiceRequest{}
		proto.Merge(in, req)
	})
	guarded := testing.AllocsPerRun(1000, func() {
		if _, err := k.guard.Unary(ctx, req, getMethod, nothing); err != nil {
			t.Error(err)
		}
	})
	if guarded > core+2*decodes+6 { // a copy of the request, 3, and what the race detector takes out of sync.Pool
		t.Errorf("a guarded call makes %v allocations, its checks alone %v", guarded, core)
	}
}
