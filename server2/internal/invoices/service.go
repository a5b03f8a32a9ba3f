// Package invoices is SERVER2's product: the handlers of InvoiceService.
//
//	server2v1.RegisterInvoiceServiceServer(server, invoices.New(db, time.Now))
//
// # Invariants
//
// A handler knows who asks from the grant alone, as (issuer, subject), and says
// so to every question that it asks the ledger: a signed operation does not make
// an invoice the user's. Without a grant it refuses. A request is checked before
// the ledger is touched, and a bad one is told every field that is wrong.
//
// # What it does not do
//
// It authorizes nothing: the guard has, before a handler runs.
package invoices

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// pageSize is how many payments an export reads at once.
const pageSize = 100

// Service is server2v1.InvoiceServiceServer. It is safe for concurrent use.
type Service struct {
	server2v1.UnimplementedInvoiceServiceServer
	ledger *ledger.DB
	now    func() time.Time
}

// New returns the service over the invoices in db.
func New(db *ledger.DB, now func() time.Time) *Service { return &Service{ledger: db, now: now} }

// caller returns the grant of the call and who it is for. A call without one has
// come past the guard, and is refused as one that no rule allows.
func caller(ctx context.Context) (*handoff.Grant, ledger.Owner, error) {
	grant, ok := handoff.FromContext(ctx)
	if !ok {
		missing := &handoff.Refusal{Reason: handoff.ReasonRuleMissing, Detail: "the handler was called without a grant"}
		return nil, ledger.Owner{}, &answer{handoffgrpc.StatusOf(missing), missing}
	}
	return grant, ledger.Owner{Issuer: grant.Issuer(), Subject: grant.Subject()}, nil
}

// GetInvoice implements server2v1.InvoiceServiceServer.
func (s *Service) GetInvoice(ctx context.Context, req *server2v1.GetInvoiceRequest) (*server2v1.GetInvoiceResponse, error) {
	_, owner, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkGet(req); err != nil {
		return nil, err
	}
	in, err := s.ledger.Invoice(ctx, owner, req.GetInvoiceId())
	if err != nil {
		return nil, outcome(ctx, err)
	}
	found := &server2v1.Invoice{InvoiceId: in.ID, Amount: money(in.Amount)}
	if in.Payment != nil {
		found.Payment = payment(*in.Payment)
	}
	return &server2v1.GetInvoiceResponse{Invoice: found}, nil
}

// PayInvoice implements server2v1.InvoiceServiceServer.
func (s *Service) PayInvoice(ctx context.Context, req *server2v1.PayInvoiceRequest) (*server2v1.PayInvoiceResponse, error) {
	grant, payer, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkPay(req); err != nil {
		return nil, err
	}
	paid, repeated, err := s.ledger.Pay(ctx, ledger.Order{
		Payer:     payer,
		InvoiceID: req.GetInvoiceId(),
		Amount:    ledger.Amount{CurrencyCode: req.GetAmount().GetCurrencyCode(), MinorUnits: req.GetAmount().GetMinorUnits()},
		RequestID: req.GetRequestId(),
		Memo:      req.GetMemo(),
		HandoffID: grant.ID(),
		Time:      s.now(),
	})
	if err != nil {
		return nil, outcome(ctx, err)
	}
	return &server2v1.PayInvoiceResponse{Payment: payment(paid), RepeatedRequest: repeated}, nil
}

// ExportPayments implements server2v1.InvoiceServiceServer. It holds no read of
// the database open while the client takes its time.
func (s *Service) ExportPayments(req *server2v1.ExportPaymentsRequest, stream grpc.ServerStreamingServer[server2v1.ExportPaymentsResponse]) error {
	ctx := stream.Context()
	_, payer, err := caller(ctx)
	if err != nil {
		return err
	}
	if err := checkExport(req); err != nil {
		return err
	}
	var last ledger.Payment
	for {
		page, err := s.ledger.Payments(ctx, payer, req.GetInvoiceId(), last, pageSize)
		if err != nil {
			return outcome(ctx, err)
		}
		for _, last = range page {
			if err := stream.Send(&server2v1.ExportPaymentsResponse{Payment: payment(last)}); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

func money(a ledger.Amount) *server2v1.Money {
	return &server2v1.Money{CurrencyCode: a.CurrencyCode, MinorUnits: a.MinorUnits}
}

func payment(p ledger.Payment) *server2v1.Payment {
	return &server2v1.Payment{
		PaymentId: p.ID, InvoiceId: p.InvoiceID, Amount: money(p.Amount),
		PayTime: timestamppb.New(p.Time), Memo: p.Memo, HandoffId: p.HandoffID,
	}
}
