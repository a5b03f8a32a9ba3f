package main

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
	"github.com/handoff-auth/handoff/scripts/internal/pair"
	"github.com/handoff-auth/handoff/shared/sealed"
)

// keep tells of tokens that only SERVER2 can read, and of those that only one client
// can send. From here on SERVER1 seals all of them.
func (s *story) keep(ctx context.Context) error {
	s.chapter("For those who need more: sealed for SERVER2, bound to its sender")

	session, open, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.step("a holder of a handoff can read it", "it names INV-42", readable(open.GetToken()))
	if err := s.pair.Seal(ctx, true); err != nil {
		return err
	}
	token, err := s.awaitSealed(ctx, session)
	if err != nil {
		return err
	}
	s.step("billing has given the shop a key to seal to", "it names no invoice", readable(token))
	s.step("SERVER2 opens it", shown, see(ctx, s.client, token))
	return s.bind(ctx, session)
}

// bind tells of a handoff that is bound to its client's certificate.
func (s *story) bind(ctx context.Context, session string) error {
	as := func() (*pair.Client, error) {
		certificate, err := pair.NewCertificate()
		if err != nil {
			return nil, err
		}
		return pair.DialAs(s.pair.Server1.Address, s.pair.Server2.Address, s.pair.CA, certificate)
	}
	own, err := as()
	if err != nil {
		return err
	}
	defer own.Close()
	thief, err := as()
	if err != nil {
		return err
	}
	defer thief.Close()
	packed, err := anypb.New(invoice())
	if err != nil {
		return err
	}
	bound, err := own.Handoffs.IssueHandoff(ctx, &handoffv1.IssueHandoffRequest{
		Audience: pair.Audience, Method: server2v1.InvoiceService_GetInvoice_FullMethodName, Request: packed, BindToCertificate: true,
	}, pair.Session(session))
	if err != nil {
		return err
	}
	s.step("a thief sends a handoff that is bound to its client's certificate", "CERTIFICATE_MISMATCH", see(ctx, thief, bound.GetToken()))
	s.step("its own client sends it", shown, see(ctx, own, bound.GetToken()))
	return nil
}

// awaitSealed hands off until SERVER1 has read its policy again, and returns the last
// token.
func (s *story) awaitSealed(ctx context.Context, session string) (string, error) {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		issued, err := s.client.Issue(ctx, session, pair.Audience, server2v1.InvoiceService_GetInvoice_FullMethodName, invoice(), 0)
		if err != nil || sealed.Is(issued.GetToken()) || time.Since(began) > 5*time.Second {
			return issued.GetToken(), err
		}
	}
}

// readable says what anybody can read in a token.
func readable(token string) string {
	for part := range strings.SplitSeq(token, ".") {
		if text, err := base64.RawURLEncoding.DecodeString(part); err == nil && strings.Contains(string(text), "INV-42") {
			return "it names INV-42"
		}
	}
	return "it names no invoice"
}
