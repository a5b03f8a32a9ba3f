package handoffgrpc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	handoffv1 "github.com/handoff-auth/handoff/proto/handoff/v1"
)

// The two enumerations are one: same names, same numbers.
func TestReasonsAreTheProtos(t *testing.T) {
	values := handoffv1.Reason(0).Descriptor().Values()
	if got, want := len(handoff.Reasons())+1, values.Len(); got != want {
		t.Fatalf("Go has %d reasons and unspecified, reason.proto has %d values", got, want)
	}
	for _, reason := range append(handoff.Reasons(), 0) {
		value := values.ByNumber(protoreflect.EnumNumber(reason))
		if value == nil || string(value.Name()) != "REASON_"+reason.String() {
			t.Errorf("%d: Go says REASON_%s, reason.proto %v", reason, reason, value)
		}
	}
}

// The code of each reason is the one that reason.proto's comment states, as DESIGN section 4 groups them.
func TestEveryReasonHasCodeAndText(t *testing.T) {
	want := map[codes.Code][]handoff.Reason{
		codes.Unauthenticated: {
			handoff.ReasonTokenMissing, handoff.ReasonTokenInvalid, handoff.ReasonTokenExpired, handoff.ReasonTokenNotYetValid,
			handoff.ReasonTokenRevoked, handoff.ReasonClaimsInvalid, handoff.ReasonIssuerMismatch, handoff.ReasonAudienceMismatch,
			handoff.ReasonLifetimeTooLong, handoff.ReasonSessionInvalid, handoff.ReasonTokenNotSealed,
			handoff.ReasonCertificateMismatch, handoff.ReasonClientInvalid,
		},
		codes.PermissionDenied: {
			handoff.ReasonMethodMismatch, handoff.ReasonFieldMismatch, handoff.ReasonRuleMissing, handoff.ReasonPolicyDenied,
			handoff.ReasonActorDenied,
		},
		codes.InvalidArgument:    {handoff.ReasonRequestUnbindable, handoff.ReasonArgumentInvalid},
		codes.FailedPrecondition: {handoff.ReasonTokenReplayed, handoff.ReasonIssuedBeforeStart},
		codes.Unavailable:        {handoff.ReasonStoreUnavailable, handoff.ReasonTrustStale, handoff.ReasonIssuerUnavailable},
		codes.ResourceExhausted:  {handoff.ReasonLimitExceeded},
	}
	texts := map[string]handoff.Reason{}
	seen := 0
	for code, reasons := range want {
		for _, reason := range reasons {
			seen++
			got := handoffgrpc.StatusOf(&handoff.Refusal{Reason: reason})
			if got.Code() != code {
				t.Errorf("%s: code %s, want %s", reason, got.Code(), code)
			}
			if other, taken := texts[got.Message()]; taken || got.Message() == "" {
				t.Errorf("%s has the text of %s: %q", reason, other, got.Message())
			}
			texts[got.Message()] = reason
			info, ok := got.Details()[0].(*errdetails.ErrorInfo)
			if !ok || len(got.Details()) != 1 || info.GetDomain() != "handoff.v1" || info.GetReason() != reason.String() ||
				len(info.GetMetadata()) != 0 {
				t.Errorf("%s: details %v", reason, got.Details())
			}
			if back := handoffgrpc.ReasonOf(got.Err()); back != reason {
				t.Errorf("%s came back as %s", reason, back)
			}
		}
	}
	if seen != len(handoff.Reasons()) {
		t.Errorf("%d reasons have a code here, of %d", seen, len(handoff.Reasons()))
	}
}

func TestStatusOfTellsTheReasonAlone(t *testing.T) {
	const secret = "open /etc/secret/key.pem"
	for _, reason := range handoff.Reasons() {
		plain := handoffgrpc.StatusOf(&handoff.Refusal{Reason: reason})
		full := handoffgrpc.StatusOf(fmt.Errorf("%s: %w", secret, &handoff.Refusal{
			Reason: reason, Check: "signature", Detail: secret, Err: errors.New(secret),
		}))
		if plain.String() != full.String() {
			t.Errorf("%s: %v differs from %v", reason, full, plain)
		}
	}
	for _, err := range []error{nil, errors.New(secret), &handoff.Refusal{}, &handoff.Refusal{Reason: handoff.Reason(len(handoff.Reasons()) + 1)}, &handoff.Refusal{Reason: -1}} {
		got := handoffgrpc.StatusOf(err)
		if got.Code() != codes.Internal || strings.Contains(got.Message(), secret) || len(got.Details()) != 0 {
			t.Errorf("StatusOf(%v) = %v", err, got)
		}
	}
}

// A caller who adds a detail changes its own copy.
func TestStatusOfIsImmutable(t *testing.T) {
	refusal := &handoff.Refusal{Reason: handoff.ReasonArgumentInvalid}
	before := handoffgrpc.StatusOf(refusal).String()
	more, err := handoffgrpc.StatusOf(refusal).WithDetails(&errdetails.BadRequest{})
	if err != nil || len(more.Details()) != 2 {
		t.Fatalf("%v, %v", more, err)
	}
	if after := handoffgrpc.StatusOf(refusal).String(); after != before {
		t.Errorf("%s became %s", before, after)
	}
	if got := handoffgrpc.ReasonOf(more.Err()); got != handoff.ReasonArgumentInvalid {
		t.Errorf("ReasonOf = %s", got)
	}
}

func TestReasonOf(t *testing.T) {
	with := func(domain, reason string) error {
		st, err := status.New(codes.Unauthenticated, "x").WithDetails(
			&errdetails.ErrorInfo{Domain: "other.example", Reason: "TOKEN_EXPIRED"},
			&errdetails.ErrorInfo{Domain: domain, Reason: reason})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for _, c := range []struct {
		name string
		err  error
		want handoff.Reason
	}{
		{"ours", with("handoff.v1", "TOKEN_REPLAYED"), handoff.ReasonTokenReplayed},
		{"wrapped", fmt.Errorf("paying: %w", with("handoff.v1", "TOKEN_REPLAYED")), handoff.ReasonTokenReplayed},
		{"another domain", with("handoff.v2", "TOKEN_REPLAYED"), 0},
		{"a name that is not known", with("handoff.v1", "TOKEN_FROBBED"), 0},
		{"the proto's name", with("handoff.v1", "REASON_TOKEN_REPLAYED"), 0},
		{"unspecified", with("handoff.v1", "UNSPECIFIED"), 0},
		{"no details", status.Error(codes.Unauthenticated, "TOKEN_REPLAYED"), 0},
		{"not a status", errors.New("TOKEN_REPLAYED"), 0},
		{"nil", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := handoffgrpc.ReasonOf(c.err); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
