// Package invoices is SERVER2's product: the handlers of InvoiceService.
//
//	server2v1.RegisterInvoiceServiceServer(server, invoices.New(db, time.Now))
//
// # Invariants
//
// A handler knows who asks only from the grant, as (issuer, subject), and says
// so to every question that it asks the ledger: a signed operation does not make
// an invoice the user's. Without a grant it refuses. A request is checked before
// the ledger is touched, and a bad one is told every field that is wrong. A
// handoff that has paid has one answer, however often its token comes.
//
// # What it does not do
//
// It authorizes nothing: the guard has, before a handler runs.
package invoices

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

const (
	// pageSize is how many payments an export reads at once, and how many invoices are
	// listed at most.
	pageSize = 100
	// lookEvery is how often an export that follows looks for new payments.
	lookEvery = time.Second
	// settled is how long after its time a payment can be read at the latest: its time
	// is taken before it is written, by replicas whose clocks differ.
	settled = 30 * time.Second
)

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
	return &server2v1.GetInvoiceResponse{Invoice: invoice(in)}, nil
}

// ListInvoices implements server2v1.InvoiceServiceServer.
func (s *Service) ListInvoices(ctx context.Context, req *server2v1.ListInvoicesRequest) (*server2v1.ListInvoicesResponse, error) {
	_, owner, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkList(req); err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 || size > pageSize {
		size = pageSize
	}
	found, err := s.ledger.Invoices(ctx, owner, req.GetPageToken(), size+1)
	if err != nil {
		return nil, outcome(ctx, err)
	}
	response := &server2v1.ListInvoicesResponse{}
	if len(found) > size {
		found = found[:size]
		response.NextPageToken = found[size-1].ID
	}
	for _, in := range found {
		response.Invoices = append(response.Invoices, invoice(in))
	}
	return response, nil
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
		Expires:   grant.Expires(),
		Time:      s.now(),
	})
	if err != nil {
		return nil, outcome(ctx, err)
	}
	return &server2v1.PayInvoiceResponse{Payment: payment(paid), RepeatedRequest: repeated}, nil
}

// Outcome is handoffgrpc.Config.Outcome: the first answer to a handoff that has
// paid, which the ledger knows by its id, and nil for every other.
func (s *Service) Outcome(ctx context.Context, grant *handoff.Grant) (proto.Message, error) {
	if grant.Method() != server2v1.InvoiceService_PayInvoice_FullMethodName {
		return nil, nil
	}
	paid, err := s.ledger.PaymentBy(ctx, ledger.Owner{Issuer: grant.Issuer(), Subject: grant.Subject()}, grant.ID())
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &server2v1.PayInvoiceResponse{Payment: payment(paid), RepeatedRequest: paid.HandoffID != grant.ID()}, nil
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
	e := export{from: func(after ledger.Payment) ([]ledger.Payment, error) {
		page, err := s.ledger.Payments(ctx, payer, req.GetInvoiceId(), after, pageSize)
		if err != nil {
			return nil, outcome(ctx, err)
		}
		return page, nil
	}, to: stream}
	if !req.GetFollow() {
		return e.all()
	}
	e.sent = map[string]time.Time{}
	// The replica that takes a payment does not tell the others: each looks.
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		if err := e.all(); err != nil {
			return err
		}
		e.stepBack()
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func invoice(in ledger.Invoice) *server2v1.Invoice {
	shown := &server2v1.Invoice{InvoiceId: in.ID, Amount: money(in.Amount)}
	if in.Payment != nil {
		shown.Payment = payment(*in.Payment)
	}
	return shown
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
