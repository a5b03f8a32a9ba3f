package adopter

import (
	"context"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// Pay spends a token, and tells why if it may not.
func Pay(ctx context.Context, client billingv1.BillingClient, req *billingv1.PayRequest, raw string) (*billingv1.PayResponse, handoff.Reason, error) {
	resp, err := client.Pay(ctx, req, handoffgrpc.Token(raw))
	reason := handoffgrpc.ReasonOf(err)
	return resp, reason, err
}
