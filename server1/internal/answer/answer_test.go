package answer

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handoff-auth/handoff/shared/handoff"
	"github.com/handoff-auth/handoff/shared/handoffgrpc"
)

// The caller gets the reason and its text; the cause is the log's.
func TestG14CauseStaysInside(t *testing.T) {
	cause := errors.New("open /etc/secret: no such file")
	for name, err := range map[string]error{
		"Refused": Refused(handoff.ReasonIssuerUnavailable, cause),
		"Worded":  Worded(handoff.ReasonIssuerUnavailable, "the sessions are out of reach", cause),
		"At":      At("request", &handoff.Refusal{Reason: handoff.ReasonIssuerUnavailable, Detail: "fit to show", Err: cause}),
	} {
		st := status.Convert(err)
		if st.Code() != codes.Unavailable || handoffgrpc.ReasonOf(st.Err()) != handoff.ReasonIssuerUnavailable {
			t.Errorf("%s: the caller gets %v", name, st)
		}
		if strings.Contains(st.String(), "secret") || !strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the caller gets %v, the log %v", name, st, err)
		}
		if handoff.ReasonOf(err) != handoff.ReasonIssuerUnavailable || !errors.Is(err, cause) {
			t.Errorf("%s: the chain of %v is broken", name, err)
		}
	}
}

// A text of its own is one answer's, and no other's.
func TestWordedIsACopy(t *testing.T) {
	_ = Worded(handoff.ReasonSessionInvalid, "something else", nil)
	if got := status.Convert(Refused(handoff.ReasonSessionInvalid, nil)).Message(); got == "something else" {
		t.Error("the reason's one text was changed")
	}
}

func TestInvalidNamesTheField(t *testing.T) {
	st := status.Convert(Invalid("lifetime", "must be whole seconds"))
	var fields []string
	for _, detail := range st.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField()+": "+v.GetDescription())
			}
		}
	}
	if st.Code() != codes.InvalidArgument || len(fields) != 1 || fields[0] != "lifetime: must be whole seconds" {
		t.Errorf("got %v with %q", st, fields)
	}
}
