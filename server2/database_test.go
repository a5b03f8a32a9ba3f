package main

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

func TestHandoffsOnPostgres(t *testing.T) {
	t.Parallel()
	database := servingtest.Postgres(t)
	testHandoffs(t, startWith(t, func(s settings) { s["database"] = database }))
}

// A database that has gone is UNAVAILABLE, and health says so until it is back.
// What was paid before is paid.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	postgres := servingtest.StartPostgres(t)
	database := postgres.Database(t)
	r := startWith(t, func(s settings) { s["database"] = database })
	req := payment("INV-42", 1200, 1)
	pay := func() (bool, error) {
		paid, err := r.client.PayInvoice(t.Context(), req, handoffgrpc.Token(token(t, r.issuer, payMethod, req, nil)))
		return paid.GetRepeatedRequest(), err
	}
	if _, err := pay(); err != nil {
		t.Fatal(err)
	}
	postgres.Kill(t)
	_, err := pay()
	if status.Code(err) != codes.Unavailable || !strings.Contains(reasons(err), "DATABASE_UNAVAILABLE") {
		t.Error("without a database:", err)
	}
	r.health(t, healthpb.HealthCheckResponse_NOT_SERVING)
	postgres.Start(t)
	r.health(t, healthpb.HealthCheckResponse_SERVING)
	if repeated, err := pay(); err != nil || !repeated {
		t.Error("it is back:", repeated, err)
	}
}

// reasons returns the ErrorInfo reasons of an error.
func reasons(err error) (all string) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			all += info.GetReason() + " "
		}
	}
	return all
}

// Two SERVER2s that remember their redemptions apart pay once all the same: the
// ledger that they share knows which handoff has paid.
func TestReplicasOfOneLedger(t *testing.T) {
	t.Parallel()
	database := servingtest.Postgres(t)
	var s settings
	first := startWith(t, func(chosen settings) { chosen["database"] = database; s = chosen })
	second := start(t, s.args())
	second.connect(t, s["tls-cert"])
	req := payment("INV-42", 1200, 1)
	raw := token(t, first.issuer, payMethod, req, nil)
	paid, err := first.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	if err != nil {
		t.Fatal(err)
	}
	again, err := second.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw))
	if err != nil || !again.GetRepeatedRequest() {
		t.Error("the same token at the other:", again, err)
	}
	if again, err = first.client.PayInvoice(t.Context(), req, handoffgrpc.Token(raw)); err != nil || !proto.Equal(again, paid) {
		t.Error("the same token at the first:", again, err)
	}
}
