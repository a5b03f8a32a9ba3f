// Package answer puts what SERVER1 refuses into words for the caller, with the
// one vocabulary of handoff.Reason.
//
//	return nil, answer.Refused(handoff.ReasonPolicyDenied, nil)
//	return nil, answer.Invalid("lifetime", "must be whole seconds from 1s")
//	return nil, answer.Refused(handoff.ReasonIssuerUnavailable, err)
//
// The caller gets the reason's code and its one text; the cause is in the
// error's text, for the log.
package answer

import (
	"cmp"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// refusal is a Refusal with the status that its caller gets.
type refusal struct {
	*handoff.Refusal
	status *status.Status
}

// GRPCStatus is how gRPC and package serving find the status.
func (r *refusal) GRPCStatus() *status.Status { return r.status }

// Unwrap returns the Refusal.
func (r *refusal) Unwrap() error { return r.Refusal }

// Refused returns an error that answers with reason. cause is for the log; nil
// where there is none.
func Refused(reason handoff.Reason, cause error) error {
	r := &handoff.Refusal{Reason: reason, Err: cause}
	return &refusal{Refusal: r, status: handoffgrpc.StatusOf(r)}
}

// Worded is Refused with a text of its own for the caller, where the reason's
// one text would speak of something else.
func Worded(reason handoff.Reason, text string, cause error) error {
	return worded(text, &handoff.Refusal{Reason: reason, Err: cause})
}

// Later returns an error that answers with LIMIT_EXCEEDED, and with how long to wait.
func Later(text string, wait time.Duration) error {
	return worded(text, &handoff.Refusal{Reason: handoff.ReasonLimitExceeded},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(wait.Truncate(time.Millisecond) + time.Millisecond)})
}

// Invalid returns an error that answers with ARGUMENT_INVALID, names the field of the
// request, and says in the text what is wrong with it; an empty field is the request.
// problem is shown to the caller: it must not repeat what the field has.
func Invalid(field, problem string) error {
	return about(field, cmp.Or(field, "the request")+" "+problem, &handoff.Refusal{Reason: handoff.ReasonArgumentInvalid, Detail: problem})
}

// At returns an error that answers with r, whose Detail the caller may know and gets
// with the reason's text, and names the field of the request.
func At(field string, r *handoff.Refusal) error {
	return about(field, handoffgrpc.StatusOf(r).Message()+": "+r.Detail, r)
}

func about(field, text string, r *handoff.Refusal) error {
	return worded(text, r, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: r.Detail, Reason: r.Reason.String()},
	}})
}

func worded(text string, r *handoff.Refusal, details ...protoadapt.MessageV1) error {
	answer := handoffgrpc.StatusOf(r).Proto() // a copy
	answer.Message = text
	st := status.FromProto(answer)
	if detailed, err := st.WithDetails(details...); err == nil { // fails only for codes.OK
		st = detailed
	}
	return &refusal{Refusal: r, status: st}
}
