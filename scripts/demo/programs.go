package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// programs tells of a program that calls with a key of its own, for itself and, where
// alice allows it, for her.
func (s *story) programs(ctx context.Context) error {
	s.chapter("A program with a key of its own, and no session")

	nightly, err := s.pair.AddProgram(ctx, "nightly", "payer")
	if err != nil {
		return err
	}
	signs, err := nightly.Signs()
	if err != nil {
		return err
	}
	request := payment("INV-49", 850)
	own, err := s.ask(ctx, request, "", signs)
	if err != nil {
		return fmt.Errorf("nightly gets no handoff: %w", err)
	}
	_, err = s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(own))
	s.step("nightly signs for itself, and pays alice's invoice", "INVOICE_NOT_FOUND", outcome(err))
	once, err := nightly.Assertion(ctx)
	if err != nil {
		return err
	}
	if _, err := s.ask(ctx, request, "", pair.Session(once)); err != nil {
		return fmt.Errorf("nightly gets no handoff: %w", err)
	}
	_, err = s.ask(ctx, request, "", pair.Session(once))
	s.step("somebody who has seen what it sent sends that again", "CLIENT_INVALID", outcome(err))
	return s.forAlice(ctx, nightly, request)
}

// forAlice tells of the program that acts for alice.
func (s *story) forAlice(ctx context.Context, nightly *pair.Program, request *server2v1.PayInvoiceRequest) error {
	signs, err := nightly.Signs()
	if err != nil {
		return err
	}
	signedIn, err := s.client.SignIn(ctx, "alice", pair.Password)
	if err != nil {
		return fmt.Errorf("alice cannot sign in: %w", err)
	}
	alice := pair.Session(signedIn.GetSession())
	made, err := s.client.Grants.CreateGrant(ctx, &handoffv1.CreateGrantRequest{
		ClientId: nightly.ID, Audience: pair.Audience, Methods: []string{server2v1.InvoiceService_PayInvoice_FullMethodName},
		ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	}, alice)
	if err != nil {
		return fmt.Errorf("alice cannot let nightly pay: %w", err)
	}
	grant := made.GetGrant().GetGrantId()
	token, err := s.ask(ctx, request, grant, signs)
	if err != nil {
		return fmt.Errorf("nightly cannot pay for alice: %w", err)
	}
	paidFor, err := s.client.Invoices.PayInvoice(ctx, request, handoffgrpc.Token(token))
	if err != nil {
		return fmt.Errorf("nightly cannot pay for alice: %w", err)
	}
	s.step("alice lets nightly pay for her", "INV-49 paid", paid(paidFor))

	token, err = s.ask(ctx, request, grant, signs)
	if err != nil {
		return err
	}
	if _, err := s.client.Grants.DeleteGrant(ctx, &handoffv1.DeleteGrantRequest{GrantId: grant}, alice); err != nil {
		return err
	}
	other := payment("INV-49", 1) // which no token names: none is spent
	s.step("she withdraws that; what nightly has left", "TOKEN_REVOKED within a second", becomes(ctx, time.Second, "TOKEN_REVOKED", func() string {
		_, err := s.client.Invoices.PayInvoice(ctx, other, handoffgrpc.Token(token))
		return outcome(err)
	}))
	_, err = s.ask(ctx, request, grant, signs)
	s.step("nightly asks for more in her name", "ARGUMENT_INVALID", outcome(err))
	return nil
}

// ask asks for a handoff of a payment as a program does, by a grant where one is named.
func (s *story) ask(ctx context.Context, request *server2v1.PayInvoiceRequest, grant string, as grpc.CallOption) (token string, err error) {
	packed, err := anypb.New(request)
	if err != nil {
		return "", err
	}
	issued, err := s.client.Handoffs.IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{
		Audience: pair.Audience, Method: server2v1.InvoiceService_PayInvoice_FullMethodName, Request: packed, GrantId: grant,
	}, as)
	return issued.GetToken(), err
}
