// Package adopter is a stranger's pair of services, protected with the lines of
// README.md: a shop, where the user is signed in, and a billing service, which
// knows the shop's public key and nothing else. Its test shows that those lines
// are enough.
package adopter

import (
	"context"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"

	billingv1 "example.com/adopter/proto/billing/v1"
)

// User is the signed-in user of the shop's own session.
type User struct {
	ID      string
	Session struct{ HandoffID string }
}

// NewShop is the issuer's start.
func NewShop() (*handoff.Issuer, error) {
	key, err := signkey.Load("shop.key")
	if err != nil {
		return nil, err
	}
	return handoff.NewIssuer(handoff.IssuerConfig{Issuer: "https://shop.example", Key: key})
}

// HandOffPayment is what the shop does when its user wants to pay.
func HandOffPayment(ctx context.Context, issuer *handoff.Issuer, user User, req *billingv1.PayRequest) (string, error) {
	op, err := rule.Operation(billingv1.Billing_Pay_FullMethodName, req) // refuses a req of another type
	if err != nil {
		return "", err
	}
	raw, claims, err := issuer.Issue(ctx, handoff.IssueParams{
		Audience: "https://billing.example", Subject: user.ID, Session: user.Session.HandoffID, Operation: op,
	})
	if err != nil {
		return "", err
	}
	audit("handed off", claims.ID, claims.Subject, claims.Method)
	return raw, nil
}
