package main

import (
	"strings"
	"testing"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/serving/servingtest"
)

// The span of the call that redeemed a handoff has its id, by which SERVER1's is found. No
// span has a token, also of a call that was refused.
func TestTraces(t *testing.T) {
	spans := servingtest.ReceiveSpans(t)
	r := startWith(t, nil)
	req := &server2v1.GetInvoiceRequest{InvoiceId: "INV-42"}
	raw := token(t, r.issuer, getMethod, req, nil)
	if _, err := r.client.GetInvoice(t.Context(), req, handoffgrpc.Token(raw)); err != nil {
		t.Fatal(err)
	}
	claims, err := handoff.UnverifiedClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	forged := raw[:len(raw)-4] + "AAAA"
	if _, err := r.client.ListInvoices(t.Context(), &server2v1.ListInvoicesRequest{}, handoffgrpc.Token(forged)); err == nil {
		t.Fatal("a forged token is accepted")
	}
	got := spans.Wait(t, "InvoiceService/GetInvoice", "InvoiceService/ListInvoices", "handoff.id", claims.ID, "handoff-server2")
	for what, text := range map[string]string{"the token": raw, "its signature": raw[strings.LastIndex(raw, ".")+1:], "a forged one": forged, "health": "grpc.health"} {
		if strings.Contains(got, text) {
			t.Errorf("a span has %s", what)
		}
	}
}
