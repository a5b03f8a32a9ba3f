package handoffgrpc

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Where a token stands in the metadata of a call.
const (
	authorization = "authorization"
	handoffToken  = "handoff-token"

	scheme = "Bearer " // before a token in authorization
)

// place is the one key of the metadata that a guard reads tokens from.
type place struct {
	key              string
	missing, invalid *status.Status // say which key that is
	unchecked        *status.Status // says what has been forgotten
}

func newPlace(key string) place {
	at := func(reason handoff.Reason) *status.Status {
		answer := proto.CloneOf(statuses[reason].Proto())
		answer.Message = strings.Replace(answer.Message, "in "+authorization, "in "+key, 1)
		return status.FromProto(answer)
	}
	unchecked := proto.CloneOf(statuses[handoff.ReasonRuleMissing].Proto())
	unchecked.Message = "no method is open: this server's handoffgrpc.Guard.Check has not succeeded"
	return place{key, at(handoff.ReasonTokenMissing), at(handoff.ReasonTokenInvalid), status.FromProto(unchecked)}
}

// statusOf is StatusOf, with the key where the answer says it.
func (p *place) statusOf(refusal *handoff.Refusal) *status.Status {
	switch refusal.Reason {
	case handoff.ReasonTokenMissing:
		return p.missing
	case handoff.ReasonTokenInvalid:
		return p.invalid
	}
	return StatusOf(refusal)
}

// token returns the token of an incoming call: the one value of handoff-token, or what
// follows "Bearer " in that of authorization. It may be anything.
//
// The scheme is compared byte for byte, though RFC 9110 section 11.1 would have
// its case ignored: with one spelling, nothing between the client and here can
// read another token than this server does. Where authorization is read, a
// handoff-token beside it is refused: a call has one token. Where handoff-token is
// read, authorization is somebody else's.
func (p *place) token(ctx context.Context) (raw string, err error) {
	if metadata.ValueFromIncomingContext(ctx, p.key+"-bin") != nil {
		return "", malformed("metadata.binary", p.key+"-bin is not where a token goes")
	}
	values := metadata.ValueFromIncomingContext(ctx, p.key)
	switch {
	case len(values) == 0:
		return "", &handoff.Refusal{
			Reason: handoff.ReasonTokenMissing, Check: "metadata.missing", Detail: "no " + p.key + " in the metadata",
		}
	case len(values) > 1:
		return "", malformed("metadata.count", "more than one "+p.key)
	case p.key == handoffToken:
		return values[0], nil
	case metadata.ValueFromIncomingContext(ctx, handoffToken) != nil:
		return "", malformed("metadata.count", "a handoff-token beside the authorization, which is read")
	}
	raw, ok := strings.CutPrefix(values[0], scheme)
	if !ok {
		return "", malformed("metadata.scheme", `the authorization does not begin with "Bearer "`)
	}
	return raw, nil
}

func malformed(check handoff.Check, detail string) error {
	return &handoff.Refusal{Reason: handoff.ReasonTokenInvalid, Check: check, Detail: detail}
}
