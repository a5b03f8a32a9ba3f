package handoffgrpc

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// domain is that of the google.rpc.ErrorInfo that carries a Reason.
const domain = "handoff.v1"

// answers says how each reason is put to the caller: one code and one text,
// for every check, so that a refusal tells no more than its reason. A guard that
// reads another key of the metadata says that key.
var answers = [...]struct {
	code codes.Code
	text string
}{
	handoff.ReasonTokenMissing:      {codes.Unauthenticated, "the call carries no handoff token in authorization"},
	handoff.ReasonTokenInvalid:      {codes.Unauthenticated, "what is in authorization is no authentic handoff token"},
	handoff.ReasonTokenExpired:      {codes.Unauthenticated, "the handoff token has expired"},
	handoff.ReasonTokenNotYetValid:  {codes.Unauthenticated, "the handoff token is not valid yet"},
	handoff.ReasonTokenRevoked:      {codes.Unauthenticated, "the handoff token has been taken back"},
	handoff.ReasonClaimsInvalid:     {codes.Unauthenticated, "the handoff token breaks the token profile"},
	handoff.ReasonIssuerMismatch:    {codes.Unauthenticated, "the handoff token's issuer does not list the key that signed it"},
	handoff.ReasonAudienceMismatch:  {codes.Unauthenticated, "the handoff token is for another audience"},
	handoff.ReasonLifetimeTooLong:   {codes.Unauthenticated, "the handoff token lives longer than is accepted here"},
	handoff.ReasonMethodMismatch:    {codes.PermissionDenied, "the handoff token is for another method"},
	handoff.ReasonFieldMismatch:     {codes.PermissionDenied, "the request is not the one that the handoff token names"},
	handoff.ReasonRequestUnbindable: {codes.InvalidArgument, "the request has something that no handoff token can name"},
	handoff.ReasonTokenReplayed:     {codes.FailedPrecondition, "the handoff token was redeemed before; the operation may have run"},
	handoff.ReasonIssuedBeforeStart: {codes.FailedPrecondition, "the handoff token was issued too early for the record of redemptions to tell whether it was redeemed; unless the operation has run, hand off again"},
	handoff.ReasonStoreUnavailable:  {codes.Unavailable, "the record of redemptions does not answer"},
	handoff.ReasonTrustStale:        {codes.Unavailable, "the issuer's trust list is missing or too old"},
	handoff.ReasonLimitExceeded:     {codes.ResourceExhausted, "a limit of this server is reached"},
	handoff.ReasonRuleMissing:       {codes.PermissionDenied, "the method is not open to handoffs"},
	handoff.ReasonSessionInvalid:    {codes.Unauthenticated, "the call carries no live session"},
	handoff.ReasonPolicyDenied:      {codes.PermissionDenied, "the policy does not let this user hand off this operation"},
	handoff.ReasonArgumentInvalid:   {codes.InvalidArgument, "a field of the request is missing, malformed or unknown"},
	handoff.ReasonIssuerUnavailable: {codes.Unavailable, "the handoff could not be recorded or signed"},
	handoff.ReasonTokenNotSealed:    {codes.Unauthenticated, "the method takes only tokens that are sealed to this audience"},

	handoff.ReasonCertificateMismatch: {codes.Unauthenticated, "the handoff token is not bound to the client certificate of this connection"},
	handoff.ReasonClientInvalid:       {codes.Unauthenticated, "the call carries no assertion that this issuer takes from an API client"},
	handoff.ReasonActorDenied:         {codes.PermissionDenied, "the method takes no handoff token of an API client that acts for a user"},
}

// statuses holds the answers, made once. A *status.Status is immutable.
var statuses = func() (table [len(answers)]*status.Status) {
	table[0] = status.New(codes.Internal, "internal error") // of what is not a Refusal
	for _, reason := range handoff.Reasons() {
		answer := answers[reason]
		info := &errdetails.ErrorInfo{Domain: domain, Reason: reason.String()}
		table[reason], _ = status.New(answer.code, answer.text).WithDetails(info) // fails only for codes.OK
	}
	return table
}()

// StatusOf returns what a caller is told of err: for the first *handoff.Refusal
// in its chain the code of its reason, that reason's one text, and a
// google.rpc.ErrorInfo with the domain "handoff.v1" and the reason's name. For
// every other error, and for nil, it is codes.Internal and says nothing more: the
// result is never OK. The caller may add details to it, which makes a copy.
func StatusOf(err error) *status.Status {
	var refusal *handoff.Refusal
	if !errors.As(err, &refusal) || refusal.Reason < 0 || int(refusal.Reason) >= len(statuses) {
		return statuses[0]
	}
	return statuses[refusal.Reason]
}

// ReasonOf returns the reason that a gRPC status carries, be it err itself or in
// err's chain: the reason of the first ErrorInfo with the domain "handoff.v1". It
// is 0 where there is none, or one that this version does not know.
func ReasonOf(err error) handoff.Reason {
	answer, ok := status.FromError(err)
	if !ok {
		return 0
	}
	for _, detail := range answer.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != domain {
			continue
		}
		for _, reason := range handoff.Reasons() {
			if info.GetReason() == reason.String() {
				return reason
			}
		}
		return 0
	}
	return 0
}
