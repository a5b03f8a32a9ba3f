package invoices

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/handoff-auth/handoff/server2/internal/ledger"
	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// Domain is that of google.rpc.ErrorInfo in the errors of this service.
const Domain = "handoff.server2.v1"

// The reasons, as invoice_service.proto lists them at each method.
const (
	invoiceNotFound     = "INVOICE_NOT_FOUND"
	invoiceAlreadyPaid  = "INVOICE_ALREADY_PAID"
	amountDiffers       = "AMOUNT_DIFFERS"
	requestIDReused     = "REQUEST_ID_REUSED"
	argumentInvalid     = "ARGUMENT_INVALID"
	databaseUnavailable = "DATABASE_UNAVAILABLE"
	outcomeUnknown      = "OUTCOME_UNKNOWN"
)

// answer is an error with the status that its caller gets. Its text is for the
// log, and has the cause.
type answer struct {
	status *status.Status
	cause  error // nil: the status says all
}

// Error returns the cause, or what the caller is told.
func (a *answer) Error() string {
	if a.cause != nil {
		return a.cause.Error()
	}
	return a.status.Err().Error()
}

// Unwrap returns the cause.
func (a *answer) Unwrap() error { return a.cause }

// GRPCStatus is how gRPC and package serving find the status.
func (a *answer) GRPCStatus() *status.Status { return a.status }

func refuse(code codes.Code, reason, text string, cause error, details ...protoadapt.MessageV1) error {
	st := status.New(code, text)
	details = append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: reason}}, details...)
	if detailed, err := st.WithDetails(details...); err == nil { // fails only for codes.OK
		st = detailed
	}
	return &answer{st, cause}
}

// outcome puts an error of the ledger into words for the caller.
func outcome(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ledger.ErrNotFound):
		return refuse(codes.NotFound, invoiceNotFound, "the user has no such invoice", nil)
	case errors.Is(err, ledger.ErrPaid):
		return refuse(codes.FailedPrecondition, invoiceAlreadyPaid, "the invoice is paid already", nil)
	case errors.Is(err, ledger.ErrAmount):
		return refuse(codes.FailedPrecondition, amountDiffers, "the amount is not the invoice's", nil)
	case errors.Is(err, ledger.ErrRequestReused):
		return refuse(codes.AlreadyExists, requestIDReused, "the request id was used with other values", nil)
	case errors.Is(err, ledger.ErrHandoffReused):
		replayed := &handoff.Refusal{Reason: handoff.ReasonTokenReplayed, Err: err}
		return &answer{handoffgrpc.StatusOf(replayed), replayed}
	case errors.Is(err, ledger.ErrUncertain):
		return refuse(codes.Unavailable, outcomeUnknown,
			"the database was lost in the middle: hand off again with the same request id, which pays once", err)
	case ctx.Err() != nil:
		return err // the call is over: package serving says so
	}
	return refuse(codes.Unavailable, databaseUnavailable, "the database does not answer; nothing was changed", err)
}
