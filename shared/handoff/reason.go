package handoff

import (
	"errors"
	"strconv"
)

// Reason is why a call was refused: one closed enumeration, equal in name and
// number to handoff.v1.Reason in proto/handoff/v1/reason.proto, which documents
// each. It drives the gRPC status code, google.rpc.ErrorInfo, metric labels and
// log keys. Tests assert reasons, never texts.
type Reason int32

// The reasons. Numbers and names are never reused.
const (
	ReasonTokenMissing      Reason = 1
	ReasonTokenInvalid      Reason = 2
	ReasonTokenExpired      Reason = 3
	ReasonTokenNotYetValid  Reason = 4
	ReasonTokenRevoked      Reason = 5
	ReasonClaimsInvalid     Reason = 6
	ReasonIssuerMismatch    Reason = 7
	ReasonAudienceMismatch  Reason = 8
	ReasonLifetimeTooLong   Reason = 9
	ReasonMethodMismatch    Reason = 10
	ReasonFieldMismatch     Reason = 11
	ReasonRequestUnbindable Reason = 12
	ReasonTokenReplayed     Reason = 13
	ReasonIssuedBeforeStart Reason = 14
	ReasonStoreUnavailable  Reason = 15
	ReasonTrustStale        Reason = 16
	ReasonLimitExceeded     Reason = 17
	ReasonRuleMissing       Reason = 18
	ReasonSessionInvalid    Reason = 19
	ReasonPolicyDenied      Reason = 20
	ReasonArgumentInvalid   Reason = 21
	ReasonIssuerUnavailable Reason = 22
	ReasonTokenNotSealed    Reason = 23

	ReasonCertificateMismatch Reason = 24
	ReasonClientInvalid       Reason = 25
	ReasonActorDenied         Reason = 26

	reasonUnspecified Reason = 0
)

const numReasons = 27

var reasonNames = [numReasons]string{
	"UNSPECIFIED",
	"TOKEN_MISSING",
	"TOKEN_INVALID",
	"TOKEN_EXPIRED",
	"TOKEN_NOT_YET_VALID",
	"TOKEN_REVOKED",
	"CLAIMS_INVALID",
	"ISSUER_MISMATCH",
	"AUDIENCE_MISMATCH",
	"LIFETIME_TOO_LONG",
	"METHOD_MISMATCH",
	"FIELD_MISMATCH",
	"REQUEST_UNBINDABLE",
	"TOKEN_REPLAYED",
	"ISSUED_BEFORE_START",
	"STORE_UNAVAILABLE",
	"TRUST_STALE",
	"LIMIT_EXCEEDED",
	"RULE_MISSING",
	"SESSION_INVALID",
	"POLICY_DENIED",
	"ARGUMENT_INVALID",
	"ISSUER_UNAVAILABLE",
	"TOKEN_NOT_SEALED",
	"CERTIFICATE_MISMATCH",
	"CLIENT_INVALID",
	"ACTOR_DENIED",
}

// Reasons returns every reason, in the order of their numbers.
func Reasons() []Reason {
	all := make([]Reason, 0, numReasons-1)
	for r := reasonUnspecified + 1; r < numReasons; r++ {
		all = append(all, r)
	}
	return all
}

// String returns the reason's name as google.rpc.ErrorInfo carries it, for
// example TOKEN_EXPIRED.
func (r Reason) String() string {
	if r < 0 || r >= numReasons {
		return "REASON_" + strconv.Itoa(int(r))
	}
	return reasonNames[r]
}

// Check names the rule of SPEC.md that a refused token or call broke, for example
// "header.typ": SPEC.md's tables define every name. Logs and the command line show
// it; callers over the network get only the Reason.
type Check string

// A Refusal is the error of everything that says no. Reason is what the caller
// may know; Check, Detail and Err are for the log of the side that refused. None
// of them contains a token or a part of one.
type Refusal struct {
	Reason Reason
	Check  Check
	// Detail says in words what Check found. It names times and field paths,
	// quoted, and never a value.
	Detail string
	// Err is the cause, where something failed rather than differed.
	Err error
	// Claims are what the refused token says, for the audit; nil unless its
	// signature has verified and its claims are in form.
	Claims *Claims

	spent *Grant // see Spent
}

// Spent returns the grant that the token was redeemed for before, where that is
// what the refusal says: TOKEN_REPLAYED by Verifier.Redeem, for the very operation
// that the token names, with nothing else against it. It is nil in every other
// refusal. The grant says what became of which handoff can be told to the caller;
// it entitles to nothing any more.
func (r *Refusal) Spent() *Grant { return r.spent }

// Error returns the reason, the check and the detail.
func (r *Refusal) Error() string {
	text := r.Reason.String()
	if r.Check != "" {
		text += " (" + string(r.Check) + ")"
	}
	if r.Detail != "" {
		text += ": " + r.Detail
	}
	if r.Err != nil {
		text += ": " + r.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// ReasonOf returns the reason of the first Refusal in err's chain, or 0 if there
// is none.
func ReasonOf(err error) Reason {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return refusal.Reason
	}
	return reasonUnspecified
}
