package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	server1v1 "github.com/handoff-auth/handoff/proto/handoff/server1/v1"
	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
	"github.com/handoff-auth/handoff/shared/rule"
	"github.com/handoff-auth/handoff/shared/signkey"
)

// story is the tale of one pair, or more of either server, told by a client.
type story struct {
	*narrator
	pair   *pair.Pair
	client *pair.Client
	first  *pair.Client // of the first SERVER2, healthy or not
}

// tell tells everything. The error is of something that the story cannot go on
// without; the narrator counts the steps that went wrong.
func (s *story) tell(ctx context.Context) error {
	alice, err := s.signIn(ctx)
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, string) error{s.payOnce, s.inBrowser, s.refusals} {
		if err := part(ctx, alice); err != nil {
			return err
		}
	}
	for _, part := range []func(context.Context) error{s.takeBack, s.programs, s.rotate, s.keep, s.serverGone} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) signIn(ctx context.Context) (session string, err error) {
	s.chapter("alice is a user of SERVER1. SERVER2 knows neither her nor her session")

	signedIn, err := s.client.SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return "", fmt.Errorf("alice cannot sign in: %w", err)
	}
	s.step("alice signs in at SERVER1", "an opaque id, not a JWT", describeSession(signedIn.GetSession()))

	_, err = s.client.Issue(ctx, signedIn.GetSession(), pair.Audience, server2v1.InvoiceService_ExportPayments_FullMethodName,
		&server2v1.ExportPaymentsRequest{}, 0)
	s.step("alice asks for a handoff of an export, which her role does not allow", "POLICY_DENIED", outcome(err))
	return signedIn.GetSession(), nil
}

// describeSession tells an opaque id from a JWT.
func describeSession(id string) string {
	if strings.Count(id, ".") == 2 {
		return "a JWT"
	}
	return "an opaque id, not a JWT"
}

func (s *story) payOnce(ctx context.Context, alice string) error {
	s.chapter("One handoff: pay invoice INV-42, 12.00 EUR")

	request := payment("INV-42", 1200)
	first, err := s.pay(ctx, alice, request)
	if err != nil {
		return fmt.Errorf("alice cannot pay: %w", err)
	}
	s.step("SERVER1 signs that one call; SERVER2 checks it, spends it and runs it", "INV-42 paid", paid(first))

	// The answer is lost on its way: the client knows nothing of it, and asks
	// again with the same request id and a new handoff.
	second, err := s.pay(ctx, alice, request)
	if err != nil {
		return fmt.Errorf("alice cannot pay again: %w", err)
	}
	s.step("the answer is lost; alice hands off again with the same request id", "the first payment", samePayment(first, second))

	export, err := s.paymentsOf(ctx, alice, "INV-42")
	if err != nil {
		return err
	}
	s.step("the payments in SERVER2's books", "1 payment of INV-42", export)

	_, err = s.pay(ctx, alice, payment("INV-43", 9900))
	s.step("alice hands off a payment of INV-43, bob's invoice", "INVOICE_NOT_FOUND", outcome(err))
	return nil
}

// paymentsOf asks SERVER2 for the invoice, by a handoff of its own.
func (s *story) paymentsOf(ctx context.Context, session, invoice string) (string, error) {
	request := &server2v1.GetInvoiceRequest{InvoiceId: invoice}
	handoff, err := s.client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, request, 0)
	if err != nil {
		return "", err
	}
	response, err := s.client.Invoices.GetInvoice(ctx, request, handoffgrpc.Token(handoff.GetToken()))
	if err != nil {
		return "", err
	}
	if response.GetInvoice().GetPayment() == nil {
		return "no payment of " + invoice, nil
	}
	return "1 payment of " + invoice, nil
}

func (s *story) refusals(ctx context.Context, alice string) error {
	s.chapter("What must fail: the invoice is INV-44, 5.00 EUR")

	request := payment("INV-44", 500)
	issue := func(audience string, lifetime time.Duration) (*handoffv1.IssueHandoffResponse, error) {
		return s.client.Issue(ctx, alice, audience, server2v1.InvoiceService_PayInvoice_FullMethodName, request, lifetime)
	}
	try := func(did, expected, token string, request *server2v1.PayInvoiceRequest) {
		_, err := s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token))
		s.step(did, expected, outcome(err))
	}

	short, err := issue(pair.Audience, time.Second)
	if err != nil {
		return err
	}
	good, err := issue(pair.Audience, 0)
	if err != nil {
		return err
	}
	elsewhere, err := issue(pair.OtherAudience, 0)
	if err != nil {
		return err
	}
	foreign, err := foreignToken(ctx, request)
	if err != nil {
		return err
	}

	try("the token with another amount", "FIELD_MISMATCH", good.GetToken(), payment("INV-44", 1))
	_, err = s.client.Invoices.GetInvoice(ctx, &server2v1.GetInvoiceRequest{InvoiceId: "INV-44"}, handoffgrpc.Token(good.GetToken()))
	s.step("the token with another method", "METHOD_MISMATCH", outcome(err))
	try("a token for another audience", "AUDIENCE_MISMATCH", elsewhere.GetToken(), request)
	try("a token signed with a key that SERVER2 does not trust", "TOKEN_INVALID", foreign, request)
	try("a token with one character changed", "TOKEN_INVALID", tampered(good.GetToken()), request)
	_, err = s.client.Invoices.PayInvoice(ctx, request)
	s.step("a call without a token", "TOKEN_MISSING", outcome(err))

	time.Sleep(time.Until(short.GetExpireTime().AsTime().Add(50 * time.Millisecond)))
	try("a token that has expired", "TOKEN_EXPIRED", short.GetToken(), request)

	first, err := s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(good.GetToken()))
	s.step("the good token, which none of these calls has spent", "paid", outcome(err))
	again, err := s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(good.GetToken()))
	s.step("the same token again, which runs nothing", "the first answer", sameAnswer(first, again, err))

	_, err = s.client.Sessions.SignOut(ctx, &server1v1.SignOutRequest{}, pair.Session(alice))
	if err != nil {
		return fmt.Errorf("alice cannot sign out: %w", err)
	}
	_, err = issue(pair.Audience, 0)
	s.step("alice signs out and asks for another handoff", "SESSION_INVALID", outcome(err))
	return nil
}

// pay hands off one payment and makes it.
func (s *story) pay(ctx context.Context, session string, request *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	handoff, err := s.client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_PayInvoice_FullMethodName, request, 0)
	if err != nil {
		return nil, err
	}
	return s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(handoff.GetToken()))
}

// foreignToken is a token that says all the right things, signed by a key that
// nobody has told SERVER2 about.
func foreignToken(ctx context.Context, request *server2v1.PayInvoiceRequest) (string, error) {
	key, err := signkey.Generate(handoff.EdDSA)
	if err != nil {
		return "", err
	}
	issuer, err := handoff.NewIssuer(handoff.IssuerConfig{Issuer: pair.Issuer, Key: key})
	if err != nil {
		return "", err
	}
	operation, err := rule.Operation(server2v1.InvoiceService_PayInvoice_FullMethodName, request)
	if err != nil {
		return "", err
	}
	raw, _, err := issuer.Issue(ctx, handoff.IssueParams{Audience: pair.Audience, Subject: "alice", Operation: operation})
	return raw, err
}

// tampered changes a character in the middle of a token's payload.
func tampered(token string) string {
	i := len(token) / 2
	other := "A"
	if token[i] == 'A' {
		other = "B"
	}
	return token[:i] + other + token[i+1:]
}

func payment(invoice string, minorUnits int64) *server2v1.PayInvoiceRequest {
	return &server2v1.PayInvoiceRequest{
		InvoiceId: invoice,
		Amount:    &server2v1.Money{CurrencyCode: "EUR", MinorUnits: minorUnits},
		RequestId: pair.NewRequestID(),
	}
}

// outcome is what a call came to, as the story tells it: the reason of a
// refusal, whichever server refused, or "paid".
func outcome(err error) string {
	if err == nil {
		return "paid"
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Convert(err).String()
}

// sameAnswer says what became of a token that came again.
func sameAnswer(first, again *server2v1.PayInvoiceResponse, err error) string {
	if err == nil && proto.Equal(first, again) {
		return "the first answer"
	}
	return outcome(err)
}

func paid(response *server2v1.PayInvoiceResponse) string {
	return response.GetPayment().GetInvoiceId() + " paid"
}

func samePayment(first, second *server2v1.PayInvoiceResponse) string {
	if second.GetRepeatedRequest() && second.GetPayment().GetPaymentId() == first.GetPayment().GetPaymentId() {
		return "the first payment"
	}
	return "a second payment"
}
